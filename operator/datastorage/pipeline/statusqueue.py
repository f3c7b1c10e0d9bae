"""The status writes that wait for the API server, each kind in a queue of its own."""

import asyncio
from dataclasses import dataclass
from typing import Final

from datastorage import metrics
from datastorage.pipeline.clusterobject import ObjectVersion
from datastorage.pipeline.item import Outcome
from datastorage.resources.kinds import KINDS, ResourceKind

# Commits run ahead of the API server, which is several times slower than PostgreSQL. This many records of all
# kinds together may wait for their status; each takes about 1 KB.
_MAX_WAITING: Final = 100_000


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """The status that a committed record's object needs; the archive holds the content now.

    ``delete_now``: the object is deleted instead.
    """

    version: ObjectVersion
    outcome: Outcome
    delete_now: bool = False


class StatusQueue:
    """Filled by the origins of committed records and by the promotion, emptied by the status writer."""

    def __init__(self, max_waiting: int = _MAX_WAITING) -> None:
        self._queues: dict[ResourceKind, asyncio.Queue[StatusUpdate]] = {
            kind: asyncio.Queue() for kind in KINDS
        }
        # Room for each kind: one whose writes are refused must not stop the commits of the other.
        self._room = {kind: asyncio.Semaphore(max_waiting // len(KINDS)) for kind in KINDS}
        self._unwritten = 0
        self._depth = metrics.Share(metrics.STATUS_DEPTH)

    @property
    def idle(self) -> bool:
        """True when everything that was put in has been written."""
        return self._unwritten == 0

    async def put(self, update: StatusUpdate) -> None:
        """Queue a status update; wait while there are too many."""
        self._unwritten += 1
        try:
            await self._room[update.version.ref.kind].acquire()
        except asyncio.CancelledError:
            self._unwritten -= 1
            raise
        self._queues[update.version.ref.kind].put_nowait(update)
        self._export()

    async def get(self, kind: ResourceKind) -> StatusUpdate:
        """Wait for a status update of a kind and take it out; call ``written`` afterwards."""
        update = await self._queues[kind].get()
        self._room[kind].release()
        self._export()
        return update

    def written(self) -> None:
        """Note that an update that was taken out is written or given up."""
        self._unwritten -= 1

    def close(self) -> None:
        """Remove this component's share from the metrics."""
        self._depth.close()

    def _export(self) -> None:
        self._depth.set(sum(queue.qsize() for queue in self._queues.values()))
