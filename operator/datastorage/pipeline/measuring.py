"""Counts and times the commits, and logs the records that differ from what is stored already."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from datastorage import metrics
from datastorage.errors import DataStorageError
from datastorage.metrics import WriteStatus
from datastorage.pipeline.item import log_fields
from datastorage.records.record import Record, StoredRecord
from datastorage.tracing import NO_COMMIT, CommitTrace, Exemplar

_log = logging.getLogger(__name__)

Store = Callable[[Sequence[Record]], Awaitable[list[StoredRecord]]]
"""Stores records in one transaction."""


async def measured(
    store: Store, records: Sequence[Record], trace: CommitTrace = NO_COMMIT
) -> list[StoredRecord]:
    """Return what ``store`` returns for the records. The time of a commit that fails does not count."""
    started = time.perf_counter()
    try:
        with trace.attempt():
            rows = await store(records)
    except DataStorageError:
        count_failures(records)
        raise
    seconds = time.perf_counter() - started
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
    return rows


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
