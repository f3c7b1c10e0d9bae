"""From an object of the cluster to a record: the bytes to keep and the columns to find them by."""

import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from datastorage import metrics
from datastorage.embedding import embedding_text, text_hash
from datastorage.embedding.text import CAMEL_HUMP
from datastorage.records.canonical import canonical_bytes, sha256
from datastorage.records.record import Record, RecordKey, Table, Text
from datastorage.records.times import is_given, time_in
from datastorage.resources import (
    ACTION_TRACE,
    API_VERSION,
    AUDIT_RECORD,
    ResourceKind,
    is_final,
)

# kubectl's own copy of the whole object: it would double every record, and says nothing new.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
# A B-tree entry holds 2,704 bytes at most, and a character up to 4.
_MAX_INDEXED_CHARACTERS: Final = 512
# A tsvector holds 1 MiB; beyond this much text nobody searches by words.
_MAX_SEARCH_CHARACTERS: Final = 65_536
# As many digits fit into a bigint, whatever they are.
_MAX_VERSION_DIGITS: Final = 18

_NO_WORD: Final = re.compile(r"[\W_]+")
# A word of several, such as a reason that Kubernetes gives; a longer one is no word.
_HUMPED: Final = re.compile(r"\b\w{0,60}(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z])\w{0,60}\b")

_Object = Mapping[str, Any]


def record_of(
    kind: ResourceKind, body: _Object, *, spec_bytes: bytes | None = None, with_text: bool = True
) -> Record:
    """Turn an object as the API server gave it into a record.

    The content is the object without what the cluster keeps for itself (status, managed fields,
    resourceVersion); see ``_content``. ``with_text``: the record is to have a vector.
    ``spec_bytes`` are those of ``canonical_spec``, where they are known already.
    """
    metadata, spec = body["metadata"], body.get("spec") or {}
    if spec_bytes is None:
        spec_bytes = canonical_spec(body)
    content = _content(kind, metadata, spec_bytes)
    return Record(
        table=_TABLES[kind],
        key=_key(kind, metadata, spec_bytes),
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        content=content,
        content_hash=sha256(content),
        index=_INDEX[kind](spec, is_final(kind, spec)),
        text=text_of(kind.kind, spec) if with_text else None,
        resource_version=_resource_version(metadata),
    )


def record_of_content(
    table: Table, key: RecordKey, body: _Object, content: bytes, *, with_text: bool
) -> Record:
    """Make a record anew from the content that was kept of it, which ``body`` is, parsed."""
    kind = kind_of_table(table)
    metadata, spec = body["metadata"], body["spec"]
    return Record(
        table=table,
        key=key,
        namespace=metadata["namespace"],
        name=metadata["name"],
        content=content,
        content_hash=sha256(content),
        index=_INDEX[kind](spec, is_final(kind, spec)),
        text=text_of(kind.kind, spec) if with_text else None,
    )


def text_of(kind: str, spec: _Object) -> Text:
    """Return what a record of this kind (AuditRecord, ActionTrace) means, in words."""
    text = embedding_text(kind, spec)
    return Text(text_hash(text), text)


def key_of(kind: ResourceKind, body: _Object, spec_bytes: bytes | None = None) -> RecordKey:
    """Return the key under which the object's present spec is stored."""
    return _key(kind, body["metadata"], canonical_spec(body) if spec_bytes is None else spec_bytes)


def canonical_spec(body: _Object) -> bytes:
    """Return the canonical bytes of what the object says. It takes some 0.1 s for the largest."""
    return canonical_bytes(body.get("spec") or {})


def spec_generation(kind: ResourceKind, metadata: _Object) -> int:
    """Return which of the object's specs this is, counted from 1.

    The API server counts a deletion that waits for somebody's finalizer as a generation too, once an object
    (markAsDeleting in its generic registry). It brings no other spec, and must make no other record.
    """
    if kind is AUDIT_RECORD:
        return 1  # its spec can't change
    generation: int = metadata["generation"]
    return generation - 1 if "deletionTimestamp" in metadata and generation > 1 else generation


def _key(kind: ResourceKind, metadata: _Object, spec_bytes: bytes) -> RecordKey:
    return RecordKey(
        metadata["uid"],
        spec_generation(kind, metadata),
        datetime.fromisoformat(metadata["creationTimestamp"]),
        sha256(spec_bytes),
    )


def _resource_version(metadata: _Object) -> int:
    # A number that grows with every write to the cluster; what stands before an API server may have another.
    version: str = metadata["resourceVersion"]
    known = version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS
    return int(version) if known else 0


def _content(kind: ResourceKind, metadata: _Object, spec_bytes: bytes) -> bytes:
    kept = {
        key: metadata[key]
        for key in (
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "labels",
            "ownerReferences",
        )
        if key in metadata
    }
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != _LAST_APPLIED}
    if annotations:
        kept["annotations"] = annotations
    kept["generation"] = spec_generation(kind, metadata)
    head = canonical_bytes({"apiVersion": API_VERSION, "kind": kind.kind, "metadata": kept})
    # The last member in canonical order. The archive cuts the spec out again, to make the same hash of it.
    return b'%b,"spec":%b}' % (head[:-1], spec_bytes)


def _audit_record_index(spec: _Object, final: bool) -> tuple[Any, ...]:  # noqa: ARG001, FBT001
    actor, resource = _mapping(spec, "actor"), _mapping(spec, "resourceRef")
    return (
        _text(spec, "type"),
        _text(spec, "action"),
        _text(spec, "phase"),
        _text(spec, "correlationID"),
        _time(spec, "startTime"),
        _time(spec, "endTime"),
        _text(spec, "severity"),
        _text(spec, "environment"),
        _text(spec, "cluster"),
        _text(actor, "kind"),
        _text(actor, "name"),
        _text(resource, "apiVersion"),
        _text(resource, "kind"),
        _text(resource, "namespace"),
        _text(resource, "name"),
        _text(resource, "uid"),
        _text(spec, "alertFingerprint"),
        _search(
            spec.get("action"),
            spec.get("message"),
            spec.get("errorMessage"),
            resource.get("kind"),
            resource.get("namespace"),
            resource.get("name"),
        ),
    )


def _action_trace_index(spec: _Object, final: bool) -> tuple[Any, ...]:  # noqa: FBT001
    target, alert = _mapping(spec, "targetRef"), _mapping(spec, "alert")
    model, execution = _mapping(spec, "model"), _mapping(spec, "execution")
    effectiveness = _mapping(spec, "effectiveness")
    return (
        final,
        _text(spec, "correlationID"),
        _text(spec, "actionType"),
        _text(target, "apiVersion"),
        _text(target, "kind"),
        _text(target, "namespace"),
        _text(target, "name"),
        _text(alert, "name"),
        _text(alert, "severity"),
        _text(alert, "fingerprint"),
        _text(model, "name"),
        _number(model, "confidence"),
        _text(execution, "status"),
        _time(execution, "startTime"),
        _time(execution, "endTime"),
        _time(effectiveness, "assessedAt"),
        _number(effectiveness, "score"),
        _search(
            spec.get("actionType"),
            alert.get("name"),
            model.get("reasoning"),
            execution.get("error"),
            effectiveness.get("notes"),
            target.get("kind"),
            target.get("namespace"),
            target.get("name"),
        ),
    )


_TABLES: Final[dict[ResourceKind, Table]] = {
    AUDIT_RECORD: Table.AUDIT_RECORDS,
    ACTION_TRACE: Table.ACTION_TRACES,
}
_KINDS: Final = {table: kind for kind, table in _TABLES.items()}
_INDEX: Final[dict[ResourceKind, Callable[[_Object, bool], tuple[Any, ...]]]] = {
    AUDIT_RECORD: _audit_record_index,
    ACTION_TRACE: _action_trace_index,
}


def table_of(kind: ResourceKind) -> Table:
    """Return the archive table of a kind."""
    return _TABLES[kind]


def kind_of_table(table: Table) -> ResourceKind:
    """Return the kind whose records a table of the archive holds."""
    return _KINDS[table]


# The columns are only an index: a value that has no exact form there is left out or cut, and counted.
# The evidence, the content, keeps it as it came.


def _mapping(parent: _Object, field: str) -> _Object:
    value = parent.get(field)
    return value if isinstance(value, dict) else {}


def _text(parent: _Object, field: str) -> str | None:
    value = parent.get(field)
    if not isinstance(value, str):
        return None
    return _storable(value[:_MAX_INDEXED_CHARACTERS])


def _storable(text: str) -> str:
    # PostgreSQL's text has no NUL character, and UTF-8 no unpaired surrogates.
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _time(parent: _Object, field: str) -> datetime | None:
    time = time_in(parent, field)
    if time is None and is_given(parent.get(field)):
        metrics.VALIDATION_FAILURES.labels(field, "time_out_of_range").inc()
    return time


def _number(parent: _Object, field: str) -> float | None:
    value = parent.get(field)
    return float(value) if isinstance(value, int | float) else None


def _search(*texts: object) -> str:
    text = " ".join(text for text in texts if isinstance(text, str) and text)
    # Words only: PostgreSQL's parser tries every "/", "-", "_" and "." as part of a path, an address or a
    # number, in time that grows with the square of the length. A few such records would stall all others.
    words = _NO_WORD.sub(" ", text[:_MAX_SEARCH_CHARACTERS])
    # "ImagePullBackOff" is also found by "image pull".
    parts = [CAMEL_HUMP.sub(" ", word) for word in dict.fromkeys(_HUMPED.findall(words))]
    return _storable(" ".join([words, *parts]))
