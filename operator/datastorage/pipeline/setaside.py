"""Divides the batches that PostgreSQL refuses while it serves others, and retries single records.

This runs apart from the committer's loop, so that later records are not held up: each attempt at a slow
record lasts until the server's time-out.
"""

import asyncio
import heapq
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from datastorage import metrics
from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline.batchcommit import BatchCommit
from datastorage.pipeline.item import WorkItem
from datastorage.pipeline.measuring import count_failures
from datastorage.pipeline.register import Register
from datastorage.records.record import Via
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.signal import Signal

_log = logging.getLogger(__name__)

_Refusal = RecordRefusedError | WorkRefusedError


@dataclass(frozen=True)
class Pace:
    """How much is set aside, and how often a refused record is tried again."""

    max_bytes: int = 16 * 1024 * 1024
    """Two full batches, for each kind. Single records that wait make room for batches that still have to be
    divided."""
    first_pause_seconds: float = 1.0
    max_pause_seconds: float = 300.0
    """The same as the default sweep interval, after which a record that was given up comes back."""
    count_seconds: float = 15.0
    """Between two counts of the records that wait in the cluster."""
    reported_after_tries: int = 3
    """Passing causes, such as a cut connection or a statement that a person cancelled, are over by then."""


@dataclass(slots=True, order=True)
class _Waiting:
    """A single record, to be tried again at ``due`` (monotonic seconds)."""

    due: float
    item: WorkItem = field(compare=False)
    pauses: Backoff = field(compare=False)
    tries: int = field(compare=False)
    reason: str = field(compare=False)


class Aside:
    """Works through the refused records.

    All but last copies may be given up: the cluster has them too, or their request gets an error.
    """

    def __init__(self, commit: BatchCommit, register: Register, pace: Pace = Pace()) -> None:
        self._commit = commit
        self._register = register
        self._pace = pace
        # Batches and halves of batches. The refusal is None for those that have not been tried yet.
        self._undivided: deque[tuple[list[WorkItem], _Refusal | None]] = deque()
        self._waiting: list[_Waiting] = []
        self._trying: _Waiting | None = None
        self._bytes = 0
        self._in_memory = metrics.Share(metrics.WAITING_RECORDS.labels(metrics.Place.MEMORY))
        self._in_cluster = metrics.Share(metrics.WAITING_RECORDS.labels(metrics.Place.CLUSTER))
        self._filled = Signal()
        self._drained = asyncio.Event()
        self._dividing = False

    @property
    def idle(self) -> bool:
        """True when every batch was tried, and the cluster has every record that waits."""
        if self._undivided or self._dividing:
            return False
        return not any(self._register.is_last_copy(entry.item.record.key) for entry in self._entries())

    async def problem(self) -> str | None:
        """Return a sentence that says how many records wait and why, or None."""
        lasting = [entry for entry in self._entries() if entry.tries >= self._pace.reported_after_tries]
        count = len(lasting) + self._register.postponed
        if not count:
            return None
        problem = (
            f"records that PostgreSQL refuses while it stores others, tried again automatically: {count:,}"
        )
        if not lasting:
            return problem
        oldest = min(lasting, key=lambda entry: entry.item.record.key.created_at)
        # Everybody may see this: the log has the name.
        return f"{problem}; the reason of the oldest: {oldest.reason}"

    def _entries(self) -> list[_Waiting]:
        return self._waiting if self._trying is None else [*self._waiting, self._trying]

    async def put(self, batch: Sequence[WorkItem], refusal: _Refusal) -> None:
        """Take over a batch that was refused; wait while there is no room for it."""
        metrics.REFUSED_BATCHES.inc()
        size = sum(item.size for item in batch)
        while self._bytes and not self._make_room(size):
            self._drained.clear()
            await self._drained.wait()
        self._bytes += size
        self._undivided.append((list(batch), refusal))
        self._filled.set()

    async def run(self) -> None:
        """Divide batches and retry records until cancelled."""
        while True:
            worked = await self._step()
            self._in_memory.set(len(self._entries()))
            self._in_cluster.set(self._register.postponed)
            if not worked:
                due = self._waiting[0].due - time.monotonic() if self._waiting else self._pace.count_seconds
                await self._filled.wait(max(0.0, min(self._pace.count_seconds, due)))

    def close(self) -> None:
        """Remove this component's share from the metrics."""
        self._in_memory.close()
        self._in_cluster.close()

    async def _step(self) -> bool:
        if self._undivided:
            self._dividing = True
            try:
                await self._divide(*self._undivided.popleft())
            finally:
                self._dividing = False
                self._drained.set()
        elif self._waiting and self._waiting[0].due <= time.monotonic():
            self._trying = heapq.heappop(self._waiting)
            try:
                await self._try_alone(self._trying)
            finally:
                self._trying = None
        else:
            return False
        return True

    async def _divide(self, items: list[WorkItem], refusal: _Refusal | None) -> None:
        if refusal is None:
            try:
                await self._commit.commit(items)
            except (RecordRefusedError, WorkRefusedError) as error:
                refusal = error
            else:
                self._remove(items)
                return
        if len(items) == 1:
            pauses = Backoff(self._pace.first_pause_seconds, self._pace.max_pause_seconds)
            entry = _Waiting(0.0, items[0], pauses, 0, str(refusal))
            if isinstance(refusal, RecordRefusedError):
                await self._reject(entry, str(refusal))
            else:
                await self._try_alone(entry)
            return
        # Slow records are usually large: the small ones must not wait for them.
        items.sort(key=lambda item: item.size)
        middle = len(items) // 2
        self._undivided.append((items[:middle], None))
        self._undivided.append((items[middle:], None))

    async def _try_alone(self, entry: _Waiting) -> None:
        """Store a record alone, its vector pending; if that is refused too, let the record wait."""
        try:
            await self._commit.commit([entry.item], bare=True)
        except RecordRefusedError as error:
            await self._reject(entry, str(error))
        except WorkRefusedError as error:
            self._wait(entry, str(error))
        else:
            if entry.tries >= self._pace.reported_after_tries:
                _log.warning("Record stored after all", extra=entry.item.as_log_fields())
            self._remove([entry.item])

    async def _reject(self, entry: _Waiting, reason: str) -> None:
        try:
            await self._commit.reject(entry.item, reason)
        except WorkRefusedError as error:
            self._wait(entry, str(error))
        else:
            self._remove([entry.item])

    def _wait(self, entry: _Waiting, reason: str) -> None:
        count_failures([entry.item.record])
        entry.tries += 1
        entry.reason = reason
        if entry.tries == self._pace.reported_after_tries:
            _log.warning(
                "PostgreSQL refuses a record while it stores others; the record waits and is tried again",
                extra={**entry.item.as_log_fields(), "error": reason},
            )
        entry.due = time.monotonic() + entry.pauses.next()
        heapq.heappush(self._waiting, entry)
        self._make_room(0)
        self._drained.set()

    def _make_room(self, size: int) -> bool:
        """Give up records that the cluster still has, those refused most often first.

        Returns False when that is not enough.
        """
        limit = self._pace.max_bytes
        if self._bytes + size <= limit:
            return True
        kept: list[_Waiting] = []
        for entry in sorted(self._waiting, key=lambda entry: entry.tries, reverse=True):
            key = entry.item.record.key
            if self._bytes + size <= limit or self._register.is_last_copy(key):
                kept.append(entry)
                continue
            if entry.item.record.via is Via.CLUSTER:
                self._register.postpone(key, seconds=self._pace.max_pause_seconds)
            entry.item.origin.given_up(entry.reason)
            self._remove([entry.item])
        heapq.heapify(kept)
        self._waiting = kept
        # With no batch left to divide, last copies take all the room. A new batch must not wait for those.
        return self._bytes + size <= limit or not (self._undivided or self._dividing)

    def _remove(self, items: Sequence[WorkItem]) -> None:
        self._bytes -= sum(item.size for item in items)
        self._drained.set()
