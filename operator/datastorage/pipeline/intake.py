"""The queue of records to commit, bounded by their number and their bytes."""

import asyncio
from collections import deque

from datastorage import metrics
from datastorage.pipeline.item import WorkItem


class Intake:
    """Keeps the items in their order of arrival. ``add`` refuses none: check ``has_room`` first."""

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        """Set the bounds; the last item taken in may exceed ``max_bytes``."""
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._queue: deque[WorkItem] = deque()
        self._bytes = 0
        self._depth_share = metrics.Share(metrics.INTAKE_DEPTH)
        self._bytes_share = metrics.Share(metrics.INTAKE_BYTES)
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    @property
    def depth(self) -> int:
        """The number of items that wait to be taken."""
        return len(self._queue)

    @property
    def has_room(self) -> bool:
        """Whether another item is within the bounds."""
        return len(self._queue) < self._max_items and self._bytes < self._max_bytes

    def add(self, *items: WorkItem) -> None:
        """Add items, even beyond the bounds."""
        self._queue.extend(items)
        self._bytes += sum(item.size for item in items)
        self._filled.set()
        self._export()

    async def drained(self) -> None:
        """Wait until a batch is taken. Others may wait for the same room: check ``has_room`` afterwards."""
        self._drained.clear()
        await self._drained.wait()

    async def take(self, *, max_items: int, max_bytes: int, linger_seconds: float) -> list[WorkItem]:
        """Wait for work and return a batch of at least one item.

        A batch that is not full waits ``linger_seconds`` for more. A single item may exceed ``max_bytes``.
        """
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            if len(self._queue) >= max_items:
                break
            await asyncio.sleep(linger_seconds)
            if self._queue:  # another taker may have been quicker
                break
        batch: list[WorkItem] = []
        size = 0
        while (
            self._queue and len(batch) < max_items and (not batch or size + self._queue[0].size <= max_bytes)
        ):
            item = self._queue.popleft()
            size += item.size
            batch.append(item)
        self._bytes -= size
        self._drained.set()
        self._export()
        return batch

    def close(self) -> None:
        """Remove this component's shares from the metrics."""
        self._depth_share.close()
        self._bytes_share.close()

    def _export(self) -> None:
        self._depth_share.set(len(self._queue))
        self._bytes_share.set(self._bytes)
