"""The values that travel through the pipeline, each smaller than the one before.

``WorkItem`` (with the bytes) waits for its commit, ``Announcement`` for its status write, ``Expiry`` for
its deletion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from datastorage.records.record import Record, RecordKey, StoredRecord
from datastorage.resources.kinds import ResourceKind

# What an item takes beside its content: columns, references, the entries that point to it.
_OVERHEAD_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Where an object is found in the cluster. The uid tells it from another of the same name."""

    kind: ResourceKind
    namespace: str
    name: str
    uid: str

    def as_log_fields(self) -> dict[str, str]:
        """Return the fields that name the object in a log entry."""
        return {
            "object_kind": self.kind.kind,
            "object_namespace": self.namespace,
            "object_name": self.name,
            "object_uid": self.uid,
        }


def ref_of(kind: ResourceKind, body: Mapping[str, Any]) -> ObjectRef:
    """Return where an object is, which the API server gave."""
    metadata = body["metadata"]
    return ObjectRef(kind, metadata["namespace"], metadata["name"], metadata["uid"])


def unread_ref_of(kind: ResourceKind, body: Any) -> ObjectRef:
    """Return where an object is, as far as it says so itself; for a log, whatever the object is."""
    metadata = body.get("metadata") if isinstance(body, Mapping) else None
    known = metadata if isinstance(metadata, Mapping) else {}
    return ObjectRef(kind, *(str(known.get(name, "")) for name in ("namespace", "name", "uid")))


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A record with what the cluster still has to be told about it.

    ``generation`` is what the cluster counts (``metadata.generation``), for the status. ``ttl_seconds``
    counts from the commit. ``deleted``: the object is gone from the cluster already, so that there is no
    status to write. ``held``: a legal hold keeps the object in the cluster.
    ``has_finalizers``: a deletion would leave it there, and open to change, until somebody removes them.
    """

    ref: ObjectRef
    record: Record
    generation: int
    resource_version: str
    final: bool
    ttl_seconds: int
    deleted: bool
    held: bool
    has_finalizers: bool

    @property
    def size(self) -> int:
        """Bytes that the item holds in memory, about."""
        return len(self.record.content) + _OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Rejection:
    """The archive could not take a record as a row; its bytes are kept beside, with this reason."""

    reason: str


Outcome = StoredRecord | Rejection


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is left of a work item after its commit; the archive holds the content now.

    ``at_once``: the object is to be deleted now, in place of a status.
    """

    ref: ObjectRef
    key: RecordKey
    generation: int
    resource_version: str
    final: bool
    ttl_seconds: int
    held: bool
    at_once: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True, order=True)
class Expiry:
    """A stored object that is to be deleted at ``due`` (Unix seconds), unless it has changed by then."""

    due: float
    ref: ObjectRef = field(compare=False)
    key: RecordKey = field(compare=False)
    resource_version: str = field(compare=False)
