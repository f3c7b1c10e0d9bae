"""The deletions to come: kept in memory, bounded, and rebuilt by listing the stored objects."""

import heapq
from dataclasses import dataclass

from datastorage import metrics
from datastorage.pipeline.clusterobject import Expiry
from datastorage.resilience.signal import Signal


@dataclass(frozen=True)
class Limits:
    """How many entries are kept, and how many are taken out at once. Each takes about 1 KB."""

    most: int = 100_000
    """If there are more, those that are due last are dropped; a later listing brings them back."""
    kept: int = 90_000
    """The number that is left then: sorting all entries for each new one would be slow."""
    replaced: int = 10_000
    """The heap may have this many more entries, which newer ones have replaced. They are removed together: it
    takes a fifth of a second."""
    batch: int = 500
    """The rows of one batch are looked up together."""


class Schedule:
    """Filled by the status writer and the garbage collector's listings, emptied by the collector."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        # The newest entry of each object, by uid. The heap may have replaced ones as well.
        self._current: dict[str, Expiry] = {}
        self._heap: list[Expiry] = []
        self._entries = metrics.Share(metrics.GC_SCHEDULED)
        self.wake = Signal()
        """Set when an entry is due earlier than all others."""
        self.forgotten_due: float | None = None
        """When the earliest entry that was dropped is due; None while the schedule is complete."""

    def add(self, expiry: Expiry) -> None:
        """Schedule the deletion of an object; this replaces its earlier entry, if there is one.

        Key, time and version come from one look at the object and stay together: a row that is confirmed for
        an earlier generation is no reason to delete a later one.
        """
        known = self._current.get(expiry.ref.uid)
        self._current[expiry.ref.uid] = expiry
        if known is not None and (known.due, known.key) == (expiry.due, expiry.key):
            return  # its entry in the heap also stands for the new version
        heapq.heappush(self._heap, expiry)
        if len(self._current) > self._limits.most:
            self._drop_latest()
        elif len(self._heap) > self._limits.most + self._limits.replaced:
            self._heap = self._sorted()
        self._entries.set(len(self._current))
        if self._heap[0] is expiry:
            self.wake.set()

    def pop_due(self, now: float) -> list[Expiry]:
        """Take out the entries that are due at ``now`` (Unix seconds), the earliest first, up to a batch."""
        due: list[Expiry] = []
        while (next_due := self.next_due()) is not None and next_due <= now and len(due) < self._limits.batch:
            due.append(self._current.pop(heapq.heappop(self._heap).ref.uid))
        self._entries.set(len(self._current))
        return due

    def next_due(self) -> float | None:
        """Return when the earliest entry is due (Unix seconds); None if the schedule is empty.

        Replaced entries at the top of the heap are removed.
        """
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0].due if self._heap else None

    def close(self) -> None:
        """Remove this component's share from the metrics."""
        self._entries.close()

    def _is_current(self, expiry: Expiry) -> bool:
        current = self._current.get(expiry.ref.uid)
        return current is not None and (current.due, current.key) == (expiry.due, expiry.key)

    def _sorted(self) -> list[Expiry]:
        """Return the newest entry of each object in order, which is a heap as well."""
        return sorted(self._current.values())

    def _drop_latest(self) -> None:
        self._heap = self._sorted()
        # Those due last are dropped, not the newest: a record with a short time to live must not wait behind
        # those with a long one.
        for expiry in self._heap[self._limits.kept :]:
            self._current.pop(expiry.ref.uid, None)
        first = self._heap[self._limits.kept].due
        self.forgotten_due = first if self.forgotten_due is None else min(first, self.forgotten_due)
        del self._heap[self._limits.kept :]
