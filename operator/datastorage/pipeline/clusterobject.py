"""The facts about an object besides its record: its reference, its status, when it may be deleted."""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from datastorage import metrics
from datastorage.logs import object_fields
from datastorage.records.record import RecordKey
from datastorage.records.times import is_given, time_in
from datastorage.resources.kinds import LEGAL_HOLD_LABEL, Phase, ResourceKind
from datastorage.resources.reading.fields import mapping_in, string_in
from datastorage.resources.reading.objectrecord import key_of
from datastorage.resources.reading.registry import reading_of
from datastorage.resources.selection import metadata_in

T = TypeVar("T")
Body = Mapping[str, Any]
"""An object as the API server gave it."""
_log = logging.getLogger(__name__)

_SETTLED_PHASES: Final = frozenset({Phase.RECORDING, Phase.STORED, Phase.DEGRADED, Phase.REJECTED})


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A reference to an object in the cluster. The uid distinguishes it from another of the same name."""

    kind: ResourceKind
    namespace: str
    name: str
    uid: str
    correlation_id: str = field(default="", compare=False)
    """The incident that the object belongs to; empty if it is not known."""

    def as_log_fields(self) -> dict[str, str]:
        """Return the fields that name the object in a log entry."""
        return object_fields(
            kind=self.kind.kind,
            namespace=self.namespace,
            name=self.name,
            uid=self.uid,
            correlation_id=self.correlation_id,
        )


def ref_of(kind: ResourceKind, body: Body) -> ObjectRef:
    """Return the reference to an object."""
    metadata = body["metadata"]
    # Objects of one incident share the text, as those of a namespace do.
    correlation_id = sys.intern(string_in(mapping_in(body, "spec"), "correlationID"))
    namespace = sys.intern(metadata["namespace"])
    return ObjectRef(kind, namespace, metadata["name"], metadata["uid"], correlation_id)


def unread_ref_of(kind: ResourceKind, body: Any) -> ObjectRef:
    """Return the reference to an object for the log, with what can be read of it if it is malformed."""
    known = metadata_in(body) or {}
    namespace, name, uid = (str(known.get(key, "")) for key in ("namespace", "name", "uid"))
    spec = mapping_in(body, "spec") if isinstance(body, Mapping) else {}
    return ObjectRef(kind, namespace, name, uid, string_in(spec, "correlationID"))


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """A version of an object, with all that its status and its deletion depend on.

    ``generation`` is the cluster's own count (``metadata.generation``), for the status. ``ttl_seconds``
    counts from the commit. ``held``: a legal hold keeps the object in the cluster. ``has_finalizers``: a
    deletion would leave the object there, and open to change, until somebody removes them.
    """

    ref: ObjectRef
    key: RecordKey
    generation: int
    resource_version: str
    final: bool
    ttl_seconds: int
    held: bool
    has_finalizers: bool


def version_of(kind: ResourceKind, body: Body, key: RecordKey, *, default_ttl_seconds: int) -> ObjectVersion:
    """Return the version of an object that is stored under ``key``."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    ttl_seconds: int | None = spec.get("ttlSecondsAfterStored")
    return ObjectVersion(
        ref=ref_of(kind, body),
        key=key,
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        final=reading_of(kind).is_final(spec),
        ttl_seconds=default_ttl_seconds if ttl_seconds is None else ttl_seconds,
        held=is_held(body),
        has_finalizers=bool(metadata.get("finalizers")),
    )


@dataclass(frozen=True, slots=True, order=True)
class Expiry:
    """A stored object that is to be deleted at ``due`` (Unix seconds), unless it has changed by then."""

    due: float
    ref: ObjectRef = field(compare=False)
    key: RecordKey = field(compare=False)
    resource_version: str = field(compare=False)


def expiry_of(kind: ResourceKind, body: Body) -> Expiry | None:
    """Return when a stored object may be deleted; None if its status names no time, so that it stays.

    The key is that of the object's present spec, whatever its status says. The row is looked up by this key
    before the deletion.
    """
    metadata = body["metadata"]
    status = status_of(body)
    due = time_in(status, "expiresAt")
    if due is None and is_given(status.get("expiresAt")):
        metrics.VALIDATION_FAILURES.labels("expiresAt", metrics.ClusterFault.TIME_OUT_OF_RANGE).inc()
    if due is None or not is_current(body):
        return None
    return Expiry(due.timestamp(), ref_of(kind, body), key_of(kind, body), metadata["resourceVersion"])


def status_of(body: Body) -> Mapping[str, Any]:
    """Return the object's status, empty where it has none yet."""
    return body.get("status") or {}


def phase_of(body: Body) -> str | None:
    """Return the phase in the object's status; None if it has none yet."""
    return status_of(body).get("phase")


def vector_state_of(body: Body) -> str | None:
    """Return the state of the vector in the object's status; None if it says nothing of it."""
    state: str | None = status_of(body).get("writes", {}).get("vector", {}).get("state")
    return state


def observes_generation(body: Body) -> bool:
    """Whether the object's status is about its present generation."""
    return bool(status_of(body).get("observedGeneration") == body["metadata"]["generation"])


def is_settled(body: Body) -> bool:
    """Whether the object's own status says that its present generation needs nothing more."""
    return observes_generation(body) and phase_of(body) in _SETTLED_PHASES


def is_current(body: Body) -> bool:
    """Whether the object's status is about its present spec.

    A Stored object can't change any more. A Degraded one can, and its newest state may not be stored yet.
    """
    if phase_of(body) == Phase.STORED:
        return status_of(body).get("observedGeneration") is not None
    return observes_generation(body)


def is_held(body: Body) -> bool:
    """Whether a legal hold keeps the object in the cluster."""
    # Any value of the label is a hold, however "true" is spelled; only a plain "false" is not.
    labels: Mapping[str, Any] = body["metadata"].get("labels") or {}
    return str(labels.get(LEGAL_HOLD_LABEL, "false")) != "false"


def read_or_log(kind: ResourceKind, body: Body, read: Callable[[ResourceKind, Body], T]) -> T | None:
    """Return the result of ``read``; None if it fails, which is logged.

    The API server is not known to send objects that can't be read, but a proxy may. Such an object must not
    stop the work for all others.
    """
    try:
        return read(kind, body)
    except Exception:  # noqa: BLE001  # any error: it is logged with its traceback
        log_unreadable(unread_ref_of(kind, body))
        return None


def log_unreadable(ref: ObjectRef) -> None:
    """Log the exception being handled, which kept an object from being read."""
    _log.exception("Object can't be read; it stays in the cluster", extra=ref.as_log_fields())
