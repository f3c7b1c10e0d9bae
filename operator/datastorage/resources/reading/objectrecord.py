"""Turns an object from the API server into a record: the bytes to keep, and the columns to find them by."""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import sha256
from datastorage.records.record import Record, RecordKey, Table
from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD, RECORDED_BY_ANNOTATION, ResourceKind
from datastorage.resources.reading.fields import storable
from datastorage.resources.reading.registry import reading_of, reading_of_table

# kubectl's own copy of the whole object would double every record, and adds nothing.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
# Every number of this many digits fits into a bigint.
_MAX_VERSION_DIGITS: Final = 18
_KEPT_METADATA: Final = ("name", "namespace", "uid", "creationTimestamp", "labels", "ownerReferences")

_Object = Mapping[str, Any]


def record_of(
    kind: ResourceKind, body: _Object, *, with_text: bool = True, spec_bytes: bytes | None = None
) -> Record:
    """Return the record of an object.

    The content is the object without the fields that only the cluster needs (status, managed fields,
    resourceVersion). ``with_text`` means that the record is to have a vector. ``spec_bytes`` is the result of
    ``canonical_spec``, if it is already known.
    """
    metadata, spec, reading = body["metadata"], body.get("spec") or {}, reading_of(kind)
    if spec_bytes is None:
        spec_bytes = canonical_spec(body)
    content = _content(kind, metadata, spec_bytes)
    return Record(
        table=reading.table,
        key=key_of(kind, body, spec_bytes),
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        content=content,
        content_hash=sha256(content),
        index=reading.index(spec),
        text=reading.text(spec) if with_text else None,
        resource_version=_resource_version(metadata),
    )


def record_of_content(
    table: Table, key: RecordKey, body: _Object, content: bytes, *, with_text: bool
) -> Record:
    """Return the record again, from its stored content; ``body`` is the parsed content."""
    metadata, spec, reading = body["metadata"], body["spec"], reading_of_table(table)
    return Record(
        table=table,
        key=key,
        namespace=metadata["namespace"],
        name=metadata["name"],
        content=content,
        content_hash=sha256(content),
        index=reading.index(spec),
        text=reading.text(spec) if with_text else None,
    )


def key_of(kind: ResourceKind, body: _Object, spec_bytes: bytes | None = None) -> RecordKey:
    """Return the key under which the object's current spec is stored.

    Raises TypeError for a uid that is no text: in memory such a key could not be looked up.
    """
    metadata = body["metadata"]
    uid = metadata["uid"]
    if not isinstance(uid, str):
        raise TypeError(f"metadata.uid is not a text ({type(uid).__name__})")
    return RecordKey(
        uid,
        spec_generation(kind, metadata),
        datetime.fromisoformat(metadata["creationTimestamp"]),
        sha256(canonical_spec(body) if spec_bytes is None else spec_bytes),
    )


def canonical_spec(body: _Object) -> bytes:
    """Return the canonical bytes of the object's spec. This takes some 0.1 s for the largest objects."""
    return canonical_bytes(body.get("spec") or {})


def spec_generation(kind: ResourceKind, metadata: _Object) -> int:
    """Return the number of the object's current spec, counted from 1.

    The API server counts a deletion that waits for a finalizer as a generation too, once per object
    (markAsDeleting in its generic registry). Such a generation has no new spec, and must not lead to another
    record.
    """
    if kind is AUDIT_RECORD:
        return 1  # its spec can't change
    generation: int = metadata["generation"]
    return generation - 1 if "deletionTimestamp" in metadata and generation > 1 else generation


def author_of(body: _Object) -> str | None:
    """Return the name in the object's annotation. It counts only where the API server has written it."""
    author = (body["metadata"].get("annotations") or {}).get(RECORDED_BY_ANNOTATION)
    return storable(author) if isinstance(author, str) else None


def _content(kind: ResourceKind, metadata: _Object, spec_bytes: bytes) -> bytes:
    kept = {field: metadata[field] for field in _KEPT_METADATA if field in metadata}
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != _LAST_APPLIED}
    if annotations:
        kept["annotations"] = annotations
    kept["generation"] = spec_generation(kind, metadata)
    head = canonical_bytes({"apiVersion": API_VERSION, "kind": kind.kind, "metadata": kept})
    # The spec is the last member in canonical order. The archive cuts it out again, to compute the same hash.
    return b'%b,"spec":%b}' % (head[:-1], spec_bytes)


def _resource_version(metadata: _Object) -> int:
    # An API server's version is a number that grows with every write. Behind a proxy it may be anything else.
    version: str = metadata["resourceVersion"]
    known = version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS
    return int(version) if known else 0
