"""What PostgreSQL refuses while it serves others: divided, and what still is refused waits by itself.

It happens apart from the coordinators, so that the records that come after are not held up: what is too slow
takes as long as the server's patience lasts, each time it is tried.
"""

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from datastorage import metrics
from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline.committer import Committer
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import WorkItem

_log = logging.getLogger(__name__)

# Four full batches. What waits by itself gives way to what has yet to be divided.
_MAX_BYTES: Final = 32 * 1024 * 1024
_FIRST_PAUSE_SECONDS: Final = 1.0
# As long as a sweep takes to bring back what gave way.
_MAX_PAUSE_SECONDS: Final = 300.0
# What waits in the cluster is counted so often.
_COUNT_SECONDS: Final = 15.0
# A connection that is cut, or a person who cancels a statement, is over by then.
_TOLD_AFTER_TRIES: Final = 3

_Refusal = RecordRefusedError | WorkRefusedError


@dataclass(slots=True, order=True)
class _Waiting:
    """A record by itself, to be tried again at ``due`` (monotonic seconds)."""

    due: float
    item: WorkItem = field(compare=False)
    pause: float = field(compare=False)
    tries: int = field(compare=False)
    reason: str = field(compare=False)


class Aside:
    """One worker. All that is here but last copies is in the cluster as well, and may be forgotten."""

    def __init__(self, *, committer: Committer, intake: Intake) -> None:
        self._committer = committer
        self._intake = intake
        self._parts: deque[tuple[list[WorkItem], _Refusal | None]] = deque()
        self._waiting: list[_Waiting] = []
        self._trying: _Waiting | None = None
        self._bytes = 0
        self._in_memory = metrics.Share(metrics.WAITING_RECORDS.labels("memory"))
        self._in_cluster = metrics.Share(metrics.WAITING_RECORDS.labels("cluster"))
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._dividing = False

    @property
    def idle(self) -> bool:
        """True when everything was tried, and nothing waits that the cluster does not have."""
        if self._parts or self._dividing:
            return False
        return not any(self._intake.is_last_copy(entry.item) for entry in self._entries())

    async def problem(self) -> str | None:
        """Say in a sentence what waits and why, or return None."""
        told = [entry for entry in self._entries() if entry.tries >= _TOLD_AFTER_TRIES]
        count = len(told) + self._intake.postponed
        if not count:
            return None
        said = f"records that PostgreSQL refuses while it stores others, tried again by themselves: {count:,}"
        if not told:
            return said
        first = min(told, key=lambda entry: entry.item.record.key.created_at)
        ref = first.item.ref
        return f"{said}; the oldest is {ref.kind.kind} {ref.namespace}/{ref.name}: {first.reason}"

    def _entries(self) -> list[_Waiting]:
        return self._waiting if self._trying is None else [*self._waiting, self._trying]

    async def put(self, batch: Sequence[WorkItem], refusal: _Refusal) -> None:
        """Take a batch over that was refused; wait while there is no room for it."""
        metrics.REFUSED_BATCHES.inc()
        size = sum(item.size for item in batch)
        while self._bytes and not self._make_room(size):
            self._drained.clear()
            await self._drained.wait()
        self._bytes += size
        self._parts.append((list(batch), refusal))
        self._filled.set()

    async def run(self) -> None:
        """Divide and try again until cancelled."""
        while True:
            self._filled.clear()
            worked = await self._step()
            self._in_memory.set(len(self._entries()))
            self._in_cluster.set(self._intake.postponed)
            if not worked:
                await self._sleep()

    def close(self) -> None:
        """Count no more in the metrics."""
        self._in_memory.close()
        self._in_cluster.close()

    async def _step(self) -> bool:
        if self._parts:
            self._dividing = True
            try:
                await self._work(*self._parts.popleft())
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

    async def _sleep(self) -> None:
        pause = _COUNT_SECONDS
        if self._waiting:
            pause = min(pause, self._waiting[0].due - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, pause)):
                await self._filled.wait()
        except TimeoutError:
            pass

    async def _work(self, part: list[WorkItem], refusal: _Refusal | None) -> None:
        if refusal is None:
            try:
                await self._committer.store(part)
            except (RecordRefusedError, WorkRefusedError) as error:
                refusal = error
            else:
                self._leave(part)
                return
        if len(part) == 1:
            entry = _Waiting(0.0, part[0], _FIRST_PAUSE_SECONDS, 0, str(refusal))
            if isinstance(refusal, RecordRefusedError):
                await self._reject(entry, str(refusal))
            else:
                await self._try_alone(entry)
            return
        # What is slow is large, as a rule: the small ones are not to wait for it.
        part.sort(key=lambda item: item.size)
        middle = len(part) // 2
        self._parts.append((part[:middle], None))
        self._parts.append((part[middle:], None))

    async def _try_alone(self, entry: _Waiting) -> None:
        """Store a record without its vector, which the row beside must not suffer for, or let it wait."""
        try:
            await self._committer.store([entry.item], bare=True)
        except RecordRefusedError as error:
            await self._reject(entry, str(error))
        except WorkRefusedError as error:
            self._wait(entry, str(error))
        else:
            if entry.tries >= _TOLD_AFTER_TRIES:
                _log.warning("Record stored after all", extra=entry.item.ref.as_log_fields())
            self._leave([entry.item])

    async def _reject(self, entry: _Waiting, reason: str) -> None:
        try:
            await self._committer.reject(entry.item, reason)
        except WorkRefusedError as error:
            self._wait(entry, str(error))
        else:
            self._leave([entry.item])

    def _wait(self, entry: _Waiting, reason: str) -> None:
        entry.tries += 1
        entry.reason = reason
        if entry.tries == _TOLD_AFTER_TRIES:
            _log.warning(
                "PostgreSQL refuses a record while it stores others; the record waits and is tried again",
                extra={**entry.item.ref.as_log_fields(), "error": reason},
            )
        entry.due = time.monotonic() + entry.pause * random.uniform(0.5, 1.0)  # noqa: S311  # jitter is no secret
        entry.pause = min(entry.pause * 2, _MAX_PAUSE_SECONDS)
        heapq.heappush(self._waiting, entry)
        self._make_room(0)
        self._drained.set()

    def _make_room(self, size: int) -> bool:
        """Let go of what has been refused most often, and the cluster keeps. False when it is not enough."""
        if self._bytes + size <= _MAX_BYTES:
            return True
        kept: list[_Waiting] = []
        for entry in sorted(self._waiting, key=lambda entry: entry.tries, reverse=True):
            if self._bytes + size <= _MAX_BYTES or self._intake.is_last_copy(entry.item):
                kept.append(entry)
                continue
            self._intake.postpone(entry.item.record.key, seconds=_MAX_PAUSE_SECONDS)
            self._leave([entry.item])
        heapq.heapify(kept)
        self._waiting = kept
        # Where nothing else will go soon, last copies alone take the room. Others must not wait for those.
        return self._bytes + size <= _MAX_BYTES or not (self._parts or self._dividing)

    def _leave(self, items: Sequence[WorkItem]) -> None:
        self._bytes -= sum(item.size for item in items)
        self._drained.set()
