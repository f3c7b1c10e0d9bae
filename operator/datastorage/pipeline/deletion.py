"""Clears objects from the cluster: deletes one, or reads it again when it has changed meanwhile.

The status writer and the garbage collector share this.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from datastorage import metrics
from datastorage.errors import ClusterError
from datastorage.pipeline.clusterobject import (
    Body,
    Expiry,
    ObjectRef,
    expiry_of,
    is_current,
    is_held,
    phase_of,
    read_or_log,
    vector_state_of,
)
from datastorage.records.record import RecordKey
from datastorage.records.vectorwrite import WriteState
from datastorage.resources.kinds import ARCHIVED, ResourceKind
from datastorage.resources.reading.objectrecord import key_of


class Cluster(Protocol):
    """The requests that are needed here (kube/objects.py)."""

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None: ...
    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it is now.

    ``archived``: its status says that its row is final. ``current``: its status is about its present spec.
    ``vector_pending``: its status says that its vector is pending. ``deleting``: it disappears as soon as
    others remove their finalizers. ``expiry``: when it may be deleted; None if it stays for now.
    """

    body: Body
    uid: str
    key: RecordKey
    resource_version: str
    archived: bool
    current: bool
    vector_pending: bool
    held: bool
    deleting: bool
    expiry: Expiry | None


async def delete(cluster: Cluster, ref: ObjectRef, resource_version: str) -> None:
    """Delete exactly this object at exactly this version, and count it. Raises ClusterError."""
    await cluster.delete(ref.kind, ref.namespace, ref.name, uid=ref.uid, resource_version=resource_version)
    metrics.GC_TOTAL.labels(metrics.GcOutcome.DELETED).inc()


async def look_again(cluster: Cluster, ref: ObjectRef) -> Found | None:
    """Return the object that now has the name in ``ref``; it may be another one (uid).

    Returns None if there is no object, or it can't be read now: the sweep or the next listing finds it again.
    """
    try:
        body = await cluster.get(ref.kind, ref.namespace, ref.name)
    except ClusterError:
        return None
    return read_or_log(ref.kind, body, read)


def read(kind: ResourceKind, body: Body) -> Found:
    """Return the facts about an object that a status write or a deletion depends on."""
    metadata, phase = body["metadata"], phase_of(body)
    archived, held = phase in ARCHIVED, is_held(body)
    deleting = "deletionTimestamp" in metadata
    stays = held or deleting or not archived
    expiry = None if stays else expiry_of(kind, body)
    return Found(
        body=body,
        uid=metadata["uid"],
        key=key_of(kind, body) if expiry is None else expiry.key,
        resource_version=metadata["resourceVersion"],
        archived=archived,
        current=is_current(body),
        vector_pending=archived and vector_state_of(body) == WriteState.PENDING,
        held=held,
        deleting=deleting,
        expiry=expiry,
    )
