"""The statements of an export: rows in the order of storing, and how far this order is complete.

The position of a row is its ``stored_order``, a number of a sequence. Positions are handed out in the order
of the sequence, but transactions commit in any order: a row may appear behind a position that was read
already. So an export reads no further than a mark, before which no row can appear any more:

1. The mark is the greatest position of a committed row. All positions up to it have been handed out.
2. A transaction that adds rows locks the table (ROW EXCLUSIVE) before it takes a position, and unlocks it
   after its rows have become visible. So the transactions that hold such a lock after step 1 include all that
   may yet commit a row up to the mark. Once they have ended, the order is complete up to it.

The locks say this on the primary only. Neither transaction numbers nor times would do: a transaction may have
a position before it has a number, the numbers do not survive a dump, and two transactions may have one time.
The mark belongs to a committed row, so that no crash of the server can hand out a position up to it again.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from datastorage.errors import TransientError, WorkRefusedError
from datastorage.resilience.backoff import Backoff
from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.readonly import reading

_NEWEST: Final = """
    SELECT pg_is_in_recovery() AS is_standby, (SELECT last_value FROM datastorage.storage_order) AS last,
        coalesce(greatest(
            (SELECT max(stored_order) FROM datastorage.audit_records),
            (SELECT max(stored_order) FROM datastorage.action_traces)), 0) AS newest
"""
# The table that a statement names is always locked, and so is the partition that a row goes to.
_WRITERS: Final = """
    SELECT DISTINCT l.virtualtransaction AS writer FROM pg_catalog.pg_locks AS l
    WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND l.relation IN (
            SELECT relid FROM pg_catalog.pg_partition_tree('datastorage.audit_records')
            UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree('datastorage.action_traces'))
"""
_COLUMNS: Final = """r.stored_order, r.uid, r.generation, r.created_at, r.namespace, r.name, r.content,
        r.content_hash, r.stored_at, r.diverged, r.via, r.recorded_by"""
# Returns rows until their contents exceed $4 bytes. PostgreSQL knows the sizes without reading the contents.
_ROWS: Final = with_conditions(f"""
    SELECT * FROM (
        SELECT *, count(*) OVER () AS found,
            sum(octet_length(content)) OVER (ORDER BY stored_order ROWS UNBOUNDED PRECEDING) AS bytes
        FROM (
            (SELECT 'audit_records' AS table_name, {_COLUMNS}
            FROM datastorage.audit_records AS r
            WHERE r.stored_order > $1::bigint AND r.stored_order <= $2::bigint AND {{of_audit_records}}
            ORDER BY r.stored_order LIMIT $3)
            UNION ALL
            (SELECT 'action_traces', {_COLUMNS}
            FROM datastorage.action_traces AS r
            WHERE r.stored_order > $1::bigint AND r.stored_order <= $2::bigint AND {{of_action_traces}}
            ORDER BY r.stored_order LIMIT $3)
            ORDER BY stored_order LIMIT $3) AS first) AS measured
    WHERE bytes - octet_length(content) < $4 ORDER BY stored_order
""")  # noqa: S608  # names of our own


@dataclass(frozen=True, slots=True)
class ExportPace:
    """How much one statement of an export reads, and how long an export waits."""

    page_rows: int = 1_000
    """Rows of a page."""
    page_bytes: int = 4 * 1024 * 1024
    """A page ends with the row whose content exceeds this: it has at most one large object more."""
    max_span: int = 50_000
    """Positions that one statement looks at: a filter that fits few rows must not make it read the whole
    archive. An export begins with as many as a page has rows, since PostgreSQL sorts all of them if it has no
    statistics yet; while pages have few rows, the span doubles."""
    patience_seconds: float = 5.0
    """An export waits no longer for the transactions that were adding rows when it began. A batch takes far
    less."""
    first_look_seconds: float = 0.01
    """The pause before the second look at these transactions; the pauses grow to half a second."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the order of storing is complete."""

    position: int
    """No row can appear at this position or before it any more."""
    last: int
    """The greatest position that was handed out. A greater one is none of this archive."""


@dataclass(frozen=True, slots=True)
class ExportPage:
    """Rows in the order of their positions."""

    rows: list[Any]
    """The rows of the result, with the columns that the statement names."""
    end: int
    """All rows up to this position have been read."""
    next_span: int
    """How many positions the statement for the next page should look at."""


class ExportReader:
    """Reads rows in the order in which they were stored, from the primary.

    Each page is a short transaction of its own, since rows never change: however slow the reader of an export
    is, it holds back neither VACUUM nor another transaction.

    All methods raise TransientError when PostgreSQL can't serve.
    """

    def __init__(self, database: Database, pace: ExportPace = ExportPace()) -> None:
        self._database = database
        self._pace = pace

    async def mark(self, after: int) -> Mark:
        """Return how far the order is complete: up to the newest row that was committed before the call.

        Waits for the transactions that are adding rows now, unless no row is newer than ``after``, an earlier
        mark. Raises TransientError if one of them stays open.
        """
        # The order counts: each transaction with a position up to the newest one is among the writers that
        # are looked up next, or has ended.
        async with reading(self._database) as connection:
            newest = await connection.fetchrow(_NEWEST)
        if newest["is_standby"]:
            raise TransientError(
                "this PostgreSQL is a standby, and only the primary knows which rows may be added before "
                "others: let DATASTORAGE_DATABASE_URL name the primary for an export"
            )
        awaited = await self._writers() if newest["newest"] > after else set()
        looks = Backoff(self._pace.first_look_seconds, 0.5)
        try:
            async with asyncio.timeout(self._pace.patience_seconds):
                while awaited:
                    await asyncio.sleep(looks.next())
                    awaited &= await self._writers()
        except TimeoutError:
            raise TransientError(
                "a transaction that writes to the archive has been open for "
                f"{self._pace.patience_seconds:g} s, and may add rows before those that are committed: try "
                "again later. If it stays open, look into pg_stat_activity and pg_prepared_xacts"
            ) from None
        return Mark(newest["newest"], newest["last"])

    async def page(self, criteria: Criteria, after: int, end: int, span: int | None = None) -> ExportPage:
        """Return the next rows that meet the criteria: positions greater than ``after``, up to ``end``.

        Of an ActionTrace, every generation counts. ``span`` is that of the page before.
        """
        pace = self._pace
        span, count = span or pace.page_rows, pace.page_rows
        while True:
            last = min(end, after + span)
            try:
                async with reading(self._database) as connection:
                    rows = await connection.fetch(
                        _ROWS, after, last, count, pace.page_bytes, *criteria.arguments
                    )
            except WorkRefusedError as error:
                if not error.is_limit or (span == 1 and count == 1):
                    raise
                # The statement took too long, or too much memory: a smaller one may not.
                span, count = max(1, span // 8), max(1, count // 8)
                continue
            if rows and (rows[-1]["found"] >= count or len(rows) < rows[-1]["found"]):
                return ExportPage(rows, rows[-1]["stored_order"], span)
            is_sparse = len(rows) < pace.page_rows // 2
            return ExportPage(rows, last, min(2 * span, pace.max_span) if is_sparse else span)

    async def _writers(self) -> set[str]:
        async with reading(self._database) as connection:
            return {row["writer"] for row in await connection.fetch(_WRITERS)}
