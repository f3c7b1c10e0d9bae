"""Takes batches from the intake, stores them with their vectors, and hands each item on with its outcome."""

import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

from datastorage import metrics
from datastorage.breaker import Breaker
from datastorage.errors import RecordRefusedError
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.workitem import Outcome, Rejection, WorkItem
from datastorage.storage.records import Record, StoredRecord

_log = logging.getLogger(__name__)

# Large enough that the cost of a transaction vanishes, small enough that a batch takes tens of milliseconds.
_MAX_BATCH_ITEMS: Final = 500
_MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
_LINGER_SECONDS: Final = 0.02


class Archive(Protocol):
    """Where rejected records are kept (storage/archive.py). It may be repeated without harm."""

    async def reject(self, record: Record, reason: str) -> None: ...


class Writer(Protocol):
    """Where records are stored (pipeline/writer.py). It may be repeated without harm."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]: ...


class Announcer(Protocol):
    """Who tells the cluster what became of an item (statuswriter.py)."""

    async def announce(self, item: WorkItem, outcome: Outcome) -> None: ...


class Coordinator:
    """The middle of the pipeline. Nothing leaves it before it is committed."""

    def __init__(
        self, *, intake: Intake, writer: Writer, archive: Archive, breaker: Breaker, announcer: Announcer
    ) -> None:
        """``breaker`` is that of PostgreSQL."""
        self._intake = intake
        self._writer = writer
        self._archive = archive
        self._breaker = breaker
        self._announcer = announcer
        self._busy = 0

    @property
    def idle(self) -> bool:
        """True when nothing waits in the intake and no batch is under way."""
        return not self._busy and not self._intake.depth

    async def run(self) -> None:
        """Work until cancelled. Several may run at once: a batch is prepared while another commits."""
        while True:
            batch = await self._intake.take(
                max_items=_MAX_BATCH_ITEMS, max_bytes=_MAX_BATCH_BYTES, linger_seconds=_LINGER_SECONDS
            )
            self._busy += 1
            try:
                metrics.BATCH_SIZE.observe(len(batch))
                outcomes = await self._store(batch)
                for item, outcome in zip(batch, outcomes, strict=True):
                    if outcome is not None:
                        self._intake.secure(item.record.key)
                for item, outcome in zip(batch, outcomes, strict=True):
                    if outcome is None:
                        self._intake.release(item.record.key)
                    else:
                        # Waits while the status queue is full: the cluster sets the pace then.
                        await self._announcer.announce(item, outcome)
            finally:
                self._busy -= 1

    async def _store(self, batch: Sequence[WorkItem]) -> list[Outcome | None]:
        try:
            return list(await self._breaker.run(lambda: self._commit(batch)))
        except RecordRefusedError as error:
            if len(batch) == 1:
                return [await self._reject(batch[0], str(error))]
        # At least one of them can't be stored. Halving finds it without holding up the others.
        middle = len(batch) // 2
        return [*await self._store(batch[:middle]), *await self._store(batch[middle:])]

    async def _commit(self, batch: Sequence[WorkItem]) -> list[StoredRecord]:
        started = time.perf_counter()
        stored = await self._writer.store([item.record for item in batch])
        seconds = time.perf_counter() - started
        for written in {item.record.table for item in batch}:
            metrics.WRITE_DURATION.labels(written.value).observe(seconds)
        for item, row in zip(batch, stored, strict=True):
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
        return stored

    async def _reject(self, item: WorkItem, reason: str) -> Rejection | None:
        """Keep the bytes of a record that can't be a row. None when even that is refused."""
        metrics.VALIDATION_FAILURES.labels("record", "rejected").inc()
        try:
            await self._breaker.run(lambda: self._archive.reject(item.record, reason))
        except RecordRefusedError as error:
            _log.error(  # an answer, not a crash
                "Record can't be kept at all; it stays in the cluster",
                extra={**item.ref.as_log_fields(), "reason": reason, "error": str(error)},
            )
            return None
        metrics.WRITE_TOTAL.labels(item.record.table.value, "rejected").inc()
        _log.error("Record rejected", extra={**item.ref.as_log_fields(), "reason": reason})
        return Rejection(reason)
