"""Commits a batch, or keeps a record that can't be a row, and hands the outcomes to the records' origins.

A record gets its outcome (stored, or kept among the rejected) only after that is committed.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from datastorage import metrics
from datastorage.errors import RecordRefusedError
from datastorage.pipeline.item import Outcome, Rejection, WorkItem
from datastorage.pipeline.measuring import Attempts, count_failures
from datastorage.pipeline.register import Register
from datastorage.records.record import Record, StoredRecord, Via
from datastorage.resilience.breaker import Breaker
from datastorage.tracing import NO_TRACES, Traces

_log = logging.getLogger(__name__)


class Rejected(Protocol):
    """The store of rejected records (storage/rejected.py). Calls may be repeated without harm."""

    async def reject(self, record: Record, reason: str) -> None: ...


class Writer(Protocol):
    """The writer of batches (pipeline/batchwriter.py). Calls may be repeated without harm."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]: ...
    async def store_bare(self, records: Sequence[Record]) -> list[StoredRecord]: ...


class Authors(Protocol):
    """The authors of records that came from objects (pipeline/authors.py)."""

    async def named(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]: ...


class BatchCommit:
    """The two ways to finish a record. Both wait while PostgreSQL is away; calls may run at once."""

    def __init__(
        self,
        *,
        register: Register,
        writer: Writer,
        rejected: Rejected,
        breaker: Breaker,
        authors: Authors | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        """``breaker`` is that of the tables of the rows. Without ``authors``, nobody vouches for a name that
        an object gives.
        """
        self._register = register
        self._writer = writer
        self._rejected = rejected
        self._breaker = breaker
        self._authors = authors
        self._traces = traces

    async def commit(self, batch: Sequence[WorkItem], *, bare: bool = False) -> None:
        """Store all items in one transaction and hand them on; ``bare``: their vectors stay pending.

        Raises RecordRefusedError and WorkRefusedError when PostgreSQL refuses the batch while it serves
        others; then none is stored.
        """
        batch = await self._named(batch)
        store = self._writer.store_bare if bare else self._writer.store
        trace = self._traces.commit(batch)
        rows = await self._breaker.judge(Attempts(store, [item.record for item in batch], trace))
        await self._hand_on(batch, rows)

    async def reject(self, item: WorkItem, reason: str) -> None:
        """Keep the bytes of a record that can't be a row, and hand it on as rejected.

        Raises WorkRefusedError as ``commit`` does. A record that can't even be kept stays in the cluster, or
        its request gets an error; if it is gone from the cluster, it is lost.
        """
        metrics.RECORD_REJECTED.inc()
        [item] = await self._named([item])
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
            count_failures([item.record])
            self._register.forget(item.record.key)
            # The error may be about a record of another namespace, which a request must not learn of.
            hidden = f"PostgreSQL can't hold it ({reason}), and its bytes can't be kept"
            item.origin.given_up(hidden if item.record.via is Via.API else str(error))
            return
        metrics.WRITE_TOTAL.labels(item.record.table, metrics.WriteStatus.REJECTED).inc()
        _log.error("Record rejected", extra={**item.as_log_fields(), "reason": reason})
        self._traces.rejected(item)
        await self._hand_on([item], [Rejection(reason)])

    async def _named(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]:
        return items if self._authors is None else await self._authors.named(items)

    async def _hand_on(self, batch: Sequence[WorkItem], outcomes: Sequence[Outcome]) -> None:
        # All items are noted before the first origin is awaited: while one waits, the others must not look
        # uncommitted.
        for item in batch:
            self._register.committed(item.record.key)
        for item, outcome in zip(batch, outcomes, strict=True):
            await item.origin.committed(outcome)
