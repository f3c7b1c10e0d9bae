"""The deletions that are not due yet: bounded, in memory, and rebuilt by listing the stored objects."""

import heapq
from dataclasses import dataclass, replace

from datastorage import metrics
from datastorage.pipeline.clusterobject import Expiry
from datastorage.resilience.signal import Signal


@dataclass(frozen=True)
class Bounds:
    """How many entries are kept and taken out at once. Each takes about 1 KB."""

    most: int = 100_000
    """Beyond this, the tenth that is due last is dropped; a later listing brings it back."""
    kept: int = 90_000
    batch: int = 500
    """The rows of one batch are looked up together."""


class Schedule:
    """Filled by the status writer and the garbage collector's listings, emptied by the collector."""

    def __init__(self, bounds: Bounds = Bounds()) -> None:
        self._bounds = bounds
        self._heap: list[Expiry] = []
        self._entries = metrics.Share(metrics.GC_SCHEDULED)
        # The newest version of each object in the schedule, by uid: its status may change while it waits.
        self._versions: dict[str, str] = {}
        self.wake = Signal()
        """Set when a new entry is due earlier than all others."""
        self.forgotten_due: float | None = None
        """When the earliest dropped entry is due (Unix seconds); None while none is dropped."""

    def add(self, expiry: Expiry) -> None:
        """Schedule the deletion of an object. Adding it again only updates its version."""
        known = expiry.ref.uid in self._versions
        self._versions[expiry.ref.uid] = expiry.resource_version
        if known:
            return
        heapq.heappush(self._heap, expiry)
        if len(self._heap) > self._bounds.most:
            self._forget_the_latest()
        self._entries.set(len(self._heap))
        if self._heap[0] is expiry:
            self.wake.set()

    def pop_due(self, now: float) -> list[Expiry]:
        """Take out the entries that are due at ``now`` (Unix seconds), the earliest first, up to a batch."""
        due: list[Expiry] = []
        while self._heap and self._heap[0].due <= now and len(due) < self._bounds.batch:
            expiry = heapq.heappop(self._heap)
            due.append(replace(expiry, resource_version=self._versions.pop(expiry.ref.uid)))
        self._entries.set(len(self._heap))
        return due

    @property
    def next_due(self) -> float | None:
        """When the earliest entry is due (Unix seconds); None without entries."""
        return self._heap[0].due if self._heap else None

    def close(self) -> None:
        """Remove this component's share from the metrics."""
        self._entries.close()

    def _forget_the_latest(self) -> None:
        # By due time, not by age: a record with a short time to live must not wait behind long-lived ones.
        self._heap.sort()
        for expiry in self._heap[self._bounds.kept :]:
            self._versions.pop(expiry.ref.uid, None)
        first = self._heap[self._bounds.kept].due
        self.forgotten_due = first if self.forgotten_due is None else min(first, self.forgotten_due)
        del self._heap[self._bounds.kept :]  # what is left is sorted, and so a heap
