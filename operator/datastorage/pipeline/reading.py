"""From an object of the cluster to the values that travel through the pipeline."""

from collections.abc import Mapping
from typing import Any

from datastorage.pipeline.item import Announcement, Expiry, ObjectRef, WorkItem, ref_of
from datastorage.records.record import StoredRecord
from datastorage.records.times import time_in
from datastorage.resources.kinds import LEGAL_HOLD_LABEL, Phase, ResourceKind
from datastorage.resources.reading.record import key_of, record_of
from datastorage.resources.reading.registry import reading_of

_Object = Mapping[str, Any]


def work_item(
    kind: ResourceKind,
    body: _Object,
    *,
    default_ttl_seconds: int,
    deleted: bool = False,
    with_text: bool = True,
    spec_bytes: bytes | None = None,
) -> WorkItem:
    """Turn an object as the API server gave it into a work item; see ``record_of``."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    record = record_of(kind, body, with_text=with_text, spec_bytes=spec_bytes)
    return WorkItem(
        ref=ObjectRef(kind, record.namespace, record.name, record.key.uid),
        record=record,
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        final=reading_of(kind).is_final(spec),
        ttl_seconds=_ttl_seconds(spec, default_ttl_seconds),
        deleted=deleted,
        held=is_held(metadata),
        has_finalizers=bool(metadata.get("finalizers")),
    )


def announcement_of(
    kind: ResourceKind, body: _Object, stored: StoredRecord, *, default_ttl_seconds: int
) -> Announcement:
    """Return what a further status write needs, for an object whose present generation is stored."""
    metadata, spec = body["metadata"], body["spec"]
    return Announcement(
        ref=ref_of(kind, body),
        key=key_of(kind, body),
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        final=reading_of(kind).is_final(spec),
        ttl_seconds=_ttl_seconds(spec, default_ttl_seconds),
        held=is_held(metadata),
        at_once=False,
        outcome=stored,
    )


def expiry_of(kind: ResourceKind, body: _Object) -> Expiry | None:
    """Read from a stored object when it may go. None when its status promises no time: then it stays.

    The key is that of the object itself, not of what its status says about it: the row is looked up by it
    before the object goes.
    """
    metadata, status = body["metadata"], body["status"]
    due = time_in(status, "expiresAt")
    if due is None or not is_current(body):
        return None
    return Expiry(due.timestamp(), ref_of(kind, body), key_of(kind, body), metadata["resourceVersion"])


def is_current(body: _Object) -> bool:
    """Say whether the object's status is about its present spec.

    An object that is Stored can't change any more. One that is Degraded can, and its newest state may not be
    stored yet.
    """
    status = body["status"]
    observed = status.get("observedGeneration")
    if status.get("phase") == Phase.STORED:
        return observed is not None
    return bool(observed == body["metadata"]["generation"])


def is_held(metadata: _Object) -> bool:
    """Say whether a legal hold keeps the object in the cluster."""
    # The label counts however "true" is spelled; only a plain "false" ends the hold.
    labels: _Object = metadata.get("labels") or {}
    return str(labels.get(LEGAL_HOLD_LABEL, "false")) != "false"


def _ttl_seconds(spec: _Object, default: int) -> int:
    own: int | None = spec.get("ttlSecondsAfterStored")
    return default if own is None else own
