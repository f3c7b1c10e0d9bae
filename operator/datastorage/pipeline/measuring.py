"""Counts and times the commits, and logs the records that differ from what is stored already."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from datastorage import metrics
from datastorage.errors import DataStorageError, RecordRefusedError, WorkRefusedError
from datastorage.metrics import WriteStatus
from datastorage.pipeline.item import log_fields
from datastorage.records.record import Record, StoredRecord
from datastorage.tracing import NO_COMMIT, CommitTrace, Exemplar

_log = logging.getLogger(__name__)

Store = Callable[[Sequence[Record]], Awaitable[list[StoredRecord]]]
"""Stores records in one transaction."""


class Attempts:
    """The attempts of a breaker to store records in one transaction.

    A refusal counts nothing: the records are stored in smaller pieces, or rejected, or counted by whoever
    gives them up for now. One bad record would otherwise be hundreds of failures.
    """

    def __init__(self, store: Store, records: Sequence[Record], trace: CommitTrace = NO_COMMIT) -> None:
        self._store = store
        self._records = records
        self._trace = trace
        self._is_refused = False

    async def __call__(self) -> list[StoredRecord]:
        """Return what ``store`` returns for the records. The time of a commit that fails does not count."""
        if self._is_refused:  # the breaker has found an outage: for a refusal it makes no other attempt
            count_failures(self._records)
        self._is_refused = False
        started = time.perf_counter()
        try:
            with self._trace.attempt():
                rows = await self._store(self._records)
        except (RecordRefusedError, WorkRefusedError):
            self._is_refused = True
            raise
        except DataStorageError:
            count_failures(self._records)
            raise
        self._note(rows, time.perf_counter() - started)
        return rows

    def given_up(self) -> None:
        """Count the last attempt if it was refused: an outage was suspected, and nobody waits any more."""
        if self._is_refused:
            count_failures(self._records)

    def _note(self, rows: Sequence[StoredRecord], seconds: float) -> None:
        records, trace = self._records, self._trace
        trace.stored(rows)
        for table in {record.table for record in records}:
            metrics.WRITE_DURATION.labels(table).observe(seconds, trace.exemplar)
        _count(
            (record, WriteStatus.SUCCESS if row.is_new else WriteStatus.DUPLICATE)
            for record, row in zip(records, rows, strict=True)
        )
        for place, (record, row) in enumerate(zip(records, rows, strict=True)):
            if row.is_new:
                _observe_new(record, row, trace.exemplar_of(place))


def count_failures(records: Sequence[Record]) -> None:
    """Count records that are not stored this time."""
    _count((record, WriteStatus.FAILURE) for record in records)


def _count(outcomes: Iterable[tuple[Record, WriteStatus]]) -> None:
    # Counting each record by itself would take a lock for each.
    counts = Counter((record.table, status) for record, status in outcomes)
    for (table, status), count in counts.items():
        metrics.WRITE_TOTAL.labels(table, status).inc(count)


def _observe_new(record: Record, row: StoredRecord, exemplar: Exemplar | None) -> None:
    if record.key.generation == 1:  # nothing says when a later generation was made
        age = row.stored_at - record.key.created_at
        metrics.STORED_SECONDS.observe(max(0.0, age.total_seconds()), exemplar)
    if row.diverged:
        metrics.DIVERGED.labels(record.table).inc()
        _log.warning(
            "Another content of this generation is in the archive; both are kept "
            "(was the cluster restored from a backup, or cloned?)",
            extra={**log_fields(record), "generation": record.key.generation},
        )
