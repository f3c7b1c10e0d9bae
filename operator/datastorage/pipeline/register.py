"""The register of generations that are under way or settled, so that none is taken in twice or lost.

A generation is identified by its key (uid, generation, hash of the spec). ``start`` enters it as under way,
``committed`` notes that PostgreSQL has it, and ``done`` or ``forget`` ends its processing.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cachetools import FIFOCache, TTLCache

from datastorage.pipeline.clusterobject import ObjectRef
from datastorage.records.record import RecordKey


@dataclass(frozen=True)
class Memory:
    """How many generations that are no longer under way are remembered, and for how long."""

    generations: int = 50_000
    """Settled generations, and as many postponed ones. A stale event follows the status write within moments.
    If the generation is forgotten by then, the object is stored again, without effect.
    """
    postponed_seconds: float = 3900.0
    """A generation is postponed for 5 minutes at most. If no sweep brings it back within the hour after that,
    it is no longer in the cluster.
    """


class Register:
    """Shared by all components that process a generation."""

    def __init__(self, memory: Memory = Memory(), clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` counts seconds."""
        self._clock = clock
        # Since when each has waited.
        self._uncommitted: dict[RecordKey, datetime] = {}
        self._committed: set[RecordKey] = set()
        self._last_copies: dict[RecordKey, ObjectRef] = {}
        # The time at which each was settled, and the object's generation then.
        self._settled: FIFOCache[RecordKey, tuple[float, int]] = FIFOCache(memory.generations)
        # The time until which each has to wait, and since when it has waited.
        self._postponed: TTLCache[RecordKey, tuple[float, datetime]] = TTLCache(
            memory.generations, memory.postponed_seconds, timer=clock
        )

    def start(self, key: RecordKey, *, committed: bool = False) -> bool:
        """Enter a generation as under way; return False if it is already.

        ``committed``: the generation is stored, and only its status has to be written again.
        """
        if self.is_under_way(key):
            return False
        postponed = self._postponed.pop(key, None)
        if committed:
            self._committed.add(key)
        else:
            self._uncommitted[key] = _waiting_since(key) if postponed is None else postponed[1]
        return True

    def committed(self, key: RecordKey) -> None:
        """Note that a generation is in PostgreSQL: a crash of this process can no longer lose it."""
        if key in self._uncommitted:
            del self._uncommitted[key]
            self._committed.add(key)
        self._last_copies.pop(key, None)

    def done(self, key: RecordKey, generation: int) -> None:
        """Note that a generation is settled; its stale events are recognised for a while.

        ``generation`` is the object's own; a deletion raises it without a change of content.
        """
        self.forget(key)
        self._settled[key] = (self._clock(), generation)

    def forget(self, key: RecordKey) -> None:
        """Note that processing ended early: the next event or sweep takes the generation in again."""
        self._uncommitted.pop(key, None)
        self._committed.discard(key)
        self._last_copies.pop(key, None)

    def postpone(self, key: RecordKey, *, seconds: float) -> None:
        """Note that processing ended early; the generation is taken in again only after ``seconds``."""
        since = self._uncommitted.get(key) or _waiting_since(key)
        self.forget(key)
        self._postponed[key] = (self._clock() + seconds, since)

    def last_copy(self, key: RecordKey, ref: ObjectRef) -> None:
        """Note that the cluster no longer has the object of a generation that is under way."""
        if key in self._uncommitted:
            self._last_copies[key] = ref

    def is_under_way(self, key: RecordKey) -> bool:
        """Whether a generation was started and is neither done nor forgotten."""
        return key in self._uncommitted or key in self._committed

    def is_committed(self, key: RecordKey) -> bool:
        """Whether a generation that is under way is in PostgreSQL."""
        return key in self._committed

    def is_settled(self, key: RecordKey, generation: int, *, read_at: float) -> bool:
        """Whether the generation was settled after the object was read.

        Our own status write moves an object out of the watch's field selector. The object then arrives as
        deleted, with its content from before the write: only this memory shows that it is stored.
        """
        settled_at, settled_generation = self._settled.get(key, (-math.inf, 0))
        return settled_at > read_at and generation <= settled_generation

    def is_postponed(self, key: RecordKey) -> bool:
        """Whether a generation is postponed and still has to wait."""
        postponed = self._postponed.get(key)
        return postponed is not None and self._clock() < postponed[0]

    def is_last_copy(self, key: RecordKey) -> bool:
        """Whether this process has the only copy of the generation."""
        return key in self._last_copies

    @property
    def postponed(self) -> int:
        """Generations that wait in the cluster because PostgreSQL has refused them."""
        return len(self._postponed)

    def unstored(self) -> int:
        """Return the number of generations that are not committed, the postponed ones among them."""
        return len(self._uncommitted) + len(self._postponed)

    def oldest_unstored_seconds(self) -> float:
        """Return for how long the oldest of them has waited, and 0 if there is none.

        An object has waited since it was created, and a later generation since it was taken in first.
        """
        waiting = [since for _, since in self._postponed.values()]
        waiting.extend(self._uncommitted.values())
        if not waiting:
            return 0.0
        return max(0.0, (datetime.now(UTC) - min(waiting)).total_seconds())

    @property
    def last_copies(self) -> list[ObjectRef]:
        """Objects that are gone from the cluster and not committed yet: only this process has them."""
        return list(self._last_copies.values())


def _waiting_since(key: RecordKey) -> datetime:
    return key.created_at if key.generation == 1 else datetime.now(UTC)
