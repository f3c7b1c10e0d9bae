"""The step after the commit of a record that came from an object: its status is queued."""

from dataclasses import dataclass

from datastorage.pipeline.clusterobject import ObjectVersion
from datastorage.pipeline.createdobjects import CreatedObjects
from datastorage.pipeline.item import Outcome
from datastorage.pipeline.register import Register
from datastorage.pipeline.statusqueue import StatusQueue, StatusUpdate
from datastorage.records.record import StoredRecord


@dataclass(frozen=True, slots=True)
class ObjectOrigin:
    """The object that a record came from; its status reports the outcome. ``deleted``: it is gone.

    ``created`` is given for an object that may stand for a request of this process.
    """

    version: ObjectVersion
    deleted: bool
    statuses: StatusQueue
    register: Register
    created: CreatedObjects | None = None

    async def committed(self, outcome: Outcome) -> None:
        """Queue the object's status; wait while the queue is full: the cluster sets the pace then."""
        version = self.version
        if self.created is not None:
            self.created.stored(version.ref.namespace, version.ref.name)
        if self.deleted:
            self.register.done(version.key, version.generation)
            return
        expired = isinstance(outcome, StoredRecord) and version.final and version.ttl_seconds == 0
        # With finalizers, the status is written first: the phase Stored forbids changes of the spec.
        delete_now = expired and not version.held and not version.has_finalizers
        # An equal request was stored before the object that stands for it. A status would say that the object
        # has a row of its own, and later the row would be missed; so there is none.
        delete_now = delete_now or (isinstance(outcome, StoredRecord) and outcome.claimed is not None)
        await self.statuses.put(StatusUpdate(version, outcome, delete_now=delete_now))

    def given_up(self, reason: str) -> None:
        """Do nothing: a later sweep brings the object back, as long as the cluster has it."""
