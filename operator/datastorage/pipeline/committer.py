"""The loop that takes batches from the intake and commits them.

Each item gets its outcome (stored, or kept among the rejected) only after that is committed.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from datastorage import metrics
from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Outcome, Rejection, WorkItem
from datastorage.pipeline.register import Register
from datastorage.pipeline.setaside import Aside
from datastorage.pipeline.setaside import Pace as AsidePace
from datastorage.records.record import Record, StoredRecord, Via
from datastorage.resilience.breaker import Breaker

_log = logging.getLogger(__name__)


class Rejected(Protocol):
    """The store of rejected records (storage/rejected.py). Calls may be repeated without harm."""

    async def reject(self, record: Record, reason: str) -> None: ...


class Writer(Protocol):
    """The writer of batches (pipeline/batchwriter.py). Calls may be repeated without harm."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]: ...
    async def store_bare(self, records: Sequence[Record]) -> list[StoredRecord]: ...


@dataclass(frozen=True)
class Pace:
    """How large a batch is, and how long it waits for more items."""

    batch_items: int = 500
    """Large enough that the cost of a transaction vanishes, small enough to take tens of milliseconds."""
    batch_bytes: int = 8 * 1024 * 1024
    linger_seconds: float = 0.02
    growth: float = 1.1
    """After a batch was too large, the next ones are half its size and grow again by this factor. While the
    limit lasts, about one batch in eight is too large.
    """
    least_share: float = 0.05
    """The smallest share of a full batch: large enough that one refusal takes many bad records out of the way
    of the others.
    """


class Committer:
    """Commits batches; waits while PostgreSQL is away. Several of its loops may run at once."""

    def __init__(
        self,
        *,
        intake: Intake,
        register: Register,
        writer: Writer,
        rejected: Rejected,
        breaker: Breaker,
        pace: Pace = Pace(),
        aside_pace: AsidePace | None = None,
    ) -> None:
        """``breaker`` is that of the tables of the rows."""
        self._intake = intake
        self._register = register
        self._writer = writer
        self._rejected = rejected
        self._breaker = breaker
        self._pace = pace
        self._busy = 0
        # How much of a full batch PostgreSQL takes at present.
        self._share = 1.0
        self.aside = Aside(self, register, aside_pace or AsidePace())
        """Takes over the batches that are refused. It has to run as well."""

    @property
    def idle(self) -> bool:
        """True when nothing waits in the intake, and no batch is under way. What is set aside is not."""
        return not self._busy and not self._intake.depth

    async def run(self) -> None:
        """Take batches and commit them until cancelled. A refused batch is set aside, and the next one taken.

        Two of these loops are useful: a batch is prepared while another one commits.
        """
        pace = self._pace
        while True:
            batch = await self._intake.take(
                max_items=max(1, round(pace.batch_items * self._share)),
                max_bytes=round(pace.batch_bytes * self._share),
                linger_seconds=pace.linger_seconds,
            )
            self._busy += 1
            try:
                metrics.BATCH_SIZE.observe(len(batch))
                await self.commit(batch)
            except (RecordRefusedError, WorkRefusedError) as error:
                # Another batch of this size would meet the same limit (of time or size). Smaller batches are
                # no help against a rule about single records: each refused one would hold up those behind.
                if len(batch) > 1 and isinstance(error, WorkRefusedError) and error.is_limit:
                    self._share = max(self._share / 2, pace.least_share)
                await self.aside.put(batch, error)
            else:
                self._share = min(self._share * pace.growth, 1.0)
            finally:
                self._busy -= 1

    async def commit(self, batch: Sequence[WorkItem], *, bare: bool = False) -> None:
        """Store all items in one transaction and hand them on; ``bare``: their vectors stay pending.

        Raises RecordRefusedError and WorkRefusedError when PostgreSQL refuses the batch while it serves
        others; then none is stored.
        """
        store = self._writer.store_bare if bare else self._writer.store
        rows = await self._breaker.judge(partial(_timed, store, batch))
        await self._hand_on(batch, rows)

    async def reject(self, item: WorkItem, reason: str) -> None:
        """Keep the bytes of a record that can't be a row, and hand it on as rejected.

        Raises WorkRefusedError as ``commit`` does. A record that can't even be kept stays in the cluster, or
        its request gets an error; if it is gone from the cluster, it is lost.
        """
        metrics.VALIDATION_FAILURES.labels("record", "rejected").inc()
        try:
            await self._breaker.judge(lambda: self._rejected.reject(item.record, reason))
        except RecordRefusedError as error:
            _log.error(  # PostgreSQL has answered: a traceback would not help
                "Lost: deleted in the cluster, and it can't be kept at all"
                if self._register.is_last_copy(item.record.key)
                else "Record of a request can't be kept at all; the request gets an error"
                if item.record.via is Via.API
                else "Record can't be kept at all; it stays in the cluster",
                extra={**item.as_log_fields(), "reason": reason, "error": str(error)},
            )
            self._register.forget(item.record.key)
            item.origin.given_up(str(error))
            return
        metrics.WRITE_TOTAL.labels(item.record.table.value, "rejected").inc()
        _log.error("Record rejected", extra={**item.as_log_fields(), "reason": reason})
        await self._hand_on([item], [Rejection(reason)])

    async def _hand_on(self, batch: Sequence[WorkItem], outcomes: Sequence[Outcome]) -> None:
        # All items are noted before the first origin is awaited: while one waits, the others must not look
        # uncommitted.
        for item in batch:
            self._register.committed(item.record.key)
        for item, outcome in zip(batch, outcomes, strict=True):
            await item.origin.committed(outcome)


_Store = Callable[[Sequence[Record]], Awaitable[list[StoredRecord]]]


async def _timed(store: _Store, batch: Sequence[WorkItem]) -> list[StoredRecord]:
    started = time.perf_counter()
    rows = await store([item.record for item in batch])
    seconds = time.perf_counter() - started
    for table in {item.record.table.value for item in batch}:
        metrics.WRITE_DURATION.labels(table).observe(seconds)
    for item, row in zip(batch, rows, strict=True):
        table = item.record.table.value
        if not row.is_new:
            metrics.WRITE_TOTAL.labels(table, "duplicate").inc()
            continue
        metrics.WRITE_TOTAL.labels(table, "success").inc()
        age = row.stored_at - item.record.key.created_at
        metrics.STORED_SECONDS.observe(max(0.0, age.total_seconds()))
        if row.diverged:
            metrics.DIVERGED.labels(table).inc()
            _log.warning(
                "Another content of this generation is in the archive; both are kept "
                "(was the cluster restored from a backup, or cloned?)",
                extra={**item.as_log_fields(), "generation": item.record.key.generation},
            )
    return rows
