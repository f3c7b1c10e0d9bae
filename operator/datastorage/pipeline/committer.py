"""Commits pieces of work, and hands each item on with its outcome: stored, or kept among the rejected."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from datastorage import metrics
from datastorage.errors import RecordRefusedError
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Outcome, Rejection, WorkItem
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker

_log = logging.getLogger(__name__)


class Rejected(Protocol):
    """Where rejected records are kept (storage/rejected.py). It may be repeated without harm."""

    async def reject(self, record: Record, reason: str) -> None: ...


class Writer(Protocol):
    """Where records are stored (pipeline/writer.py). It may be repeated without harm."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]: ...
    async def store_bare(self, records: Sequence[Record]) -> list[StoredRecord]: ...


class Announcer(Protocol):
    """Who tells the cluster what became of an item (statuswriter.py)."""

    async def announce(self, item: WorkItem, outcome: Outcome) -> None: ...


class Committer:
    """Nothing leaves it before it is committed. While PostgreSQL serves nobody, it waits."""

    def __init__(
        self, *, intake: Intake, writer: Writer, rejected: Rejected, breaker: Breaker, announcer: Announcer
    ) -> None:
        """``breaker`` is that of PostgreSQL."""
        self._intake = intake
        self._writer = writer
        self._rejected = rejected
        self._breaker = breaker
        self._announcer = announcer

    async def store(self, batch: Sequence[WorkItem], *, bare: bool = False) -> None:
        """Store all items in one transaction and hand them on; ``bare``: their vectors are owed.

        Raises RecordRefusedError and WorkRefusedError where PostgreSQL serves others. Then none is stored.
        """
        store = self._writer.store_bare if bare else self._writer.store
        await self._hand_on(batch, await self._breaker.judge(partial(_timed, store, batch)))

    async def reject(self, item: WorkItem, reason: str) -> None:
        """Keep the bytes of a record that can't be a row, and hand it on as rejected.

        Raises WorkRefusedError as ``store`` does. A record that can't even be kept stays in the cluster, and
        is lost where it is not there any more.
        """
        metrics.VALIDATION_FAILURES.labels("record", "rejected").inc()
        try:
            await self._breaker.judge(lambda: self._rejected.reject(item.record, reason))
        except RecordRefusedError as error:
            _log.error(  # an answer, not a crash
                "Lost: deleted in the cluster, and it can't be kept at all"
                if self._intake.is_last_copy(item)
                else "Record can't be kept at all; it stays in the cluster",
                extra={**item.ref.as_log_fields(), "reason": reason, "error": str(error)},
            )
            self._intake.release(item.record.key)
            return
        metrics.WRITE_TOTAL.labels(item.record.table.value, "rejected").inc()
        _log.error("Record rejected", extra={**item.ref.as_log_fields(), "reason": reason})
        await self._hand_on([item], [Rejection(reason)])

    async def _hand_on(self, batch: Sequence[WorkItem], outcomes: Sequence[Outcome]) -> None:
        for item in batch:
            self._intake.secure(item.record.key)
        for item, outcome in zip(batch, outcomes, strict=True):
            # Waits while the status queue is full: the cluster sets the pace then.
            await self._announcer.announce(item, outcome)


_Store = Callable[[Sequence[Record]], Awaitable[list[StoredRecord]]]


async def _timed(store: _Store, batch: Sequence[WorkItem]) -> list[StoredRecord]:
    started = time.perf_counter()
    rows = await store([item.record for item in batch])
    seconds = time.perf_counter() - started
    for written in {item.record.table for item in batch}:
        metrics.WRITE_DURATION.labels(written.value).observe(seconds)
    for item, row in zip(batch, rows, strict=True):
        table = item.record.table.value
        if row.is_new:
            metrics.WRITE_TOTAL.labels(table, "success").inc()
            age = row.stored_at - item.record.key.created_at
            metrics.STORED_SECONDS.observe(max(0.0, age.total_seconds()))
            if row.diverged:
                metrics.DIVERGED.labels(table).inc()
                _log.warning(
                    "Another content of this generation is in the archive; both are kept "
                    "(was the cluster restored from a backup, or cloned?)",
                    extra={**item.ref.as_log_fields(), "generation": item.generation},
                )
        else:
            metrics.WRITE_TOTAL.labels(table, "duplicate").inc()
    return rows
