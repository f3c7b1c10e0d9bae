"""Stores groups of records of one request, each group as a whole or not at all.

A group has a transaction of its own. In a batch with other records, a refusal of any of those would divide
the group too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from datastorage.errors import GroupRefusedError, RecordRefusedError, TransientError, WorkRefusedError
from datastorage.pipeline.measuring import Attempts, count_failures
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import in_halves_without_breaker
from datastorage.tracing import NO_TRACES, CommitTrace, TakenIn, Traces, current_request

_Refusal = RecordRefusedError | WorkRefusedError


class Writer(Protocol):
    """The writer of batches (pipeline/batchwriter.py). With ``whole``, it raises GroupRefusedError."""

    async def store(self, records: Sequence[Record], *, whole: bool) -> list[StoredRecord]: ...
    async def store_bare(self, records: Sequence[Record], *, whole: bool) -> list[StoredRecord]: ...


@dataclass(frozen=True)
class Pace:
    """How many groups are stored at a time, and how long the reason of a refusal is looked for."""

    at_once: int = 2
    """As many as batches of other records: the connections are shared with those."""
    search_seconds: float = 3.0
    """A batch of the largest size takes less than a tenth of a second, and its halves are tried one after
    the other."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A record of a group, with what its trace needs."""

    record: Record
    taken_in: TakenIn | None


class Groups:
    """Stores groups. A group waits for its turn, and while PostgreSQL is away; callers bound the time."""

    def __init__(
        self,
        *,
        writer: Writer,
        rehearse: Callable[[Sequence[Record]], Awaitable[None]],
        breaker: Breaker,
        pace: Pace = Pace(),
        traces: Traces = NO_TRACES,
    ) -> None:
        """``rehearse`` raises the error that storing the records would raise, and stores nothing.

        ``breaker`` is that of the tables of the rows.
        """
        self._writer = writer
        self._rehearse = rehearse
        self._breaker = breaker
        self._pace = pace
        self._traces = traces
        self._turns = asyncio.Semaphore(pace.at_once)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def finished(self) -> None:
        """Wait until no group is under way."""
        await self._idle.wait()

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        A record that was stored by the same request before stays as it is, and the others are stored. Raises
        GroupRefusedError if a record can't be stored; then nothing is stored, nor kept among the rejected.
        """
        self._under_way += 1
        self._idle.clear()
        taken_in = self._traces.taken_in(current_request(), is_single=len(records) == 1)
        try:
            async with self._turns:
                return await self._store(records, taken_in)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _store(self, records: Sequence[Record], taken_in: TakenIn | None) -> list[StoredRecord]:
        members: Sequence[_Member] = (
            () if taken_in is None else [_Member(record, taken_in) for record in records]
        )
        trace = self._traces.commit(members)
        try:
            return await self._commit(records, self._writer.store, trace)
        except WorkRefusedError:
            pass
        except RecordRefusedError as error:
            count_failures(records)
            raise await self._explained(records, error) from error
        try:  # rows and vectors together may be too much for PostgreSQL
            return await self._commit(records, self._writer.store_bare, trace)
        except (RecordRefusedError, WorkRefusedError) as error:
            count_failures(records)
            raise await self._explained(records, error) from error

    async def _commit(
        self,
        records: Sequence[Record],
        store: Callable[..., Awaitable[list[StoredRecord]]],
        trace: CommitTrace,
    ) -> list[StoredRecord]:
        attempts = Attempts(partial(store, whole=True), records, trace)
        try:
            return await self._breaker.judge(attempts)
        except asyncio.CancelledError:  # the time is over
            attempts.given_up()
            raise

    async def _explained(self, records: Sequence[Record], refusal: _Refusal) -> GroupRefusedError:
        """Find the records that are refused, in halves; those that are found in time are named."""
        refused: dict[int, _Refusal] = {}

        async def rehearse(items: Sequence[tuple[int, Record]]) -> None:
            await self._rehearse([record for _, record in items])

        def note(item: tuple[int, Record], error: _Refusal) -> None:
            refused[item[0]] = error

        # A limit of time or size concerns the group: no single record is at fault.
        if not (isinstance(refusal, WorkRefusedError) and refusal.is_limit):
            try:
                async with asyncio.timeout(self._pace.search_seconds):
                    await in_halves_without_breaker(rehearse, list(enumerate(records)), note)
            except (TransientError, TimeoutError):
                pass  # the refusal itself is known
        return GroupRefusedError(str(refusal), refused, is_transient=isinstance(refusal, TransientError))
