"""Knows the generations that are under way or settled: none is taken in twice, none is lost unnoticed.

A generation is known here by its key (uid, generation, hash of the spec). ``start`` begins its way,
``committed`` says that PostgreSQL has it, and ``done`` or ``forget`` ends it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import FIFOCache, TTLCache

from datastorage.pipeline.clusterobject import ObjectRef
from datastorage.records.record import RecordKey


@dataclass(frozen=True)
class Memory:
    """How much the register remembers of generations that are not under way."""

    generations: int = 50_000
    """Settled generations, and as many postponed ones. A stale event of a settled object follows its status
    write within moments; an object whose event comes later than the memory is stored again, without effect.
    """
    postponed_seconds: float = 3900.0
    """A postponed generation may be taken in again after up to 5 minutes. One that no sweep has brought back
    for an hour after that is no longer in the cluster.
    """


class Register:
    """Used by everything that begins, changes or ends the way of a generation."""

    def __init__(self, memory: Memory = Memory(), clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` counts seconds."""
        self._clock = clock
        self._uncommitted: set[RecordKey] = set()
        self._committed: set[RecordKey] = set()
        self._last_copies: dict[RecordKey, ObjectRef] = {}
        # When each was settled, and the object's generation then.
        self._settled: FIFOCache[RecordKey, tuple[float, int]] = FIFOCache(memory.generations)
        # Until when each has to wait.
        self._postponed: TTLCache[RecordKey, float] = TTLCache(
            memory.generations, memory.postponed_seconds, timer=clock
        )

    def start(self, key: RecordKey, *, committed: bool = False) -> bool:
        """Note that a generation is under way, from now on; False when it is already.

        ``committed``: it is stored, and only its status is to be written again.
        """
        if self.is_under_way(key):
            return False
        (self._committed if committed else self._uncommitted).add(key)
        self._postponed.pop(key, None)
        return True

    def committed(self, key: RecordKey) -> None:
        """Note that a generation is in PostgreSQL: whatever happens to this process now, it is not lost."""
        if key in self._uncommitted:
            self._uncommitted.remove(key)
            self._committed.add(key)
        self._last_copies.pop(key, None)

    def done(self, key: RecordKey, generation: int) -> None:
        """Note that the way of a generation is over; stale events of it are recognised for a while.

        ``generation`` is the object's own, which a deletion raises without another content.
        """
        self.forget(key)
        self._settled[key] = (self._clock(), generation)

    def forget(self, key: RecordKey) -> None:
        """Note that a way ended early: the next event or sweep takes the generation in again."""
        self._uncommitted.discard(key)
        self._committed.discard(key)
        self._last_copies.pop(key, None)

    def postpone(self, key: RecordKey, *, seconds: float) -> None:
        """Note that a way ended early; the generation is not taken in again before ``seconds`` are over."""
        self.forget(key)
        self._postponed[key] = self._clock() + seconds

    def last_copy(self, key: RecordKey, ref: ObjectRef) -> None:
        """Note that the cluster no longer has the object of a generation that is under way."""
        if key in self._uncommitted:
            self._last_copies[key] = ref

    def is_under_way(self, key: RecordKey) -> bool:
        """Whether a generation was started, and is neither done nor forgotten."""
        return key in self._uncommitted or key in self._committed

    def is_settled(self, key: RecordKey, generation: int, *, read_at: float) -> bool:
        """Whether the generation was done after the object was read.

        Our own status write moves an object out of the watch's field selector. It then arrives as deleted,
        with its content from before the write: only this memory shows that it is stored.
        """
        settled_at, settled_generation = self._settled.get(key, (-math.inf, 0))
        return settled_at > read_at and generation <= settled_generation

    def is_postponed(self, key: RecordKey) -> bool:
        """Whether the time of a postponed generation has not come yet."""
        return self._clock() < self._postponed.get(key, -math.inf)

    def is_last_copy(self, key: RecordKey) -> bool:
        """Whether this process alone has the generation."""
        return key in self._last_copies

    @property
    def postponed(self) -> int:
        """Generations that wait in the cluster because PostgreSQL has refused them."""
        return len(self._postponed)

    @property
    def last_copies(self) -> list[ObjectRef]:
        """Objects that are neither in the cluster any more nor committed yet: only this process has them."""
        return list(self._last_copies.values())
