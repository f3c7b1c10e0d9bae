"""The statements that read records: pages, single objects and incidents."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any, Final

from datastorage.records.record import Table, Via
from datastorage.storage.connection.database import Database
from datastorage.storage.contents import MAX_ANSWER_BYTES, load_rows, stored_row
from datastorage.storage.criteria import EVERYTHING, Criteria, Scope, ShapedStatement
from datastorage.storage.places import Orders, Outline, Place, PlacedRow, Position, StoredRow, place_of
from datastorage.storage.readonly import ONE_PLAN, plan_for, reading

# In a list, a trace has the position of its first generation. Otherwise each new generation would move it,
# and a reader could miss it between two pages.
_OF_FIRST: Final = """CASE WHEN r.diverged THEN ARRAY[r.resource_version, r.stored_order] ELSE (
            SELECT ARRAY[min(f.resource_version), min(f.stored_order)] FROM datastorage.action_traces AS f
            WHERE f.uid = r.uid AND f.created_at = r.created_at AND NOT f.diverged) END"""

# The keys of a page's rows are found first and the rows are read afterwards, so that the rows that are sorted
# and discarded are small. Within one second of creation, rows are ordered by startTime, then by the order in
# which the cluster wrote the objects, then by the order in which they were stored.
_PAGE_ROWS: Final = """
    (SELECT 'audit_records' AS table_name, r.uid, r.generation, r.created_at, r.spec_hash,
        r.happened_at AS began_at, ARRAY[r.resource_version, r.stored_order] AS numbers
    FROM datastorage.audit_records AS r
    WHERE {of_audit_records} AND r.created_at <= coalesce($1::timestamptz, 'infinity')
        AND ($1::timestamptz IS NULL OR r.created_at < $1
            OR (r.happened_at, ARRAY[r.resource_version, r.stored_order]) < ($2::timestamptz, $3::bigint[]))
    ORDER BY r.created_at DESC, r.happened_at DESC, numbers DESC LIMIT $4)
    UNION ALL
    (SELECT 'action_traces', r.uid, r.generation, r.created_at, r.spec_hash,
        r.created_at AS began_at, {of_first} AS numbers
    FROM datastorage.action_traces AS r
    WHERE {of_action_traces} AND r.created_at <= coalesce($1::timestamptz, 'infinity')
        AND ($1::timestamptz IS NULL OR r.created_at < $1
            OR (r.created_at, {of_first}) < ($2::timestamptz, $3::bigint[]))
        AND {newest}
    ORDER BY r.created_at DESC, numbers DESC LIMIT $4)
    ORDER BY created_at DESC, began_at DESC, numbers DESC LIMIT $4
""".replace("{of_first}", _OF_FIRST)
PAGE: Final = ShapedStatement(_PAGE_ROWS)
_OF_PAGE: Final = """r.uid = page.uid AND r.generation = page.generation
            AND r.created_at = page.created_at AND r.spec_hash = page.spec_hash"""
# The same with the columns of the rows, but not their contents, which may be large. A row is looked up by
# itself: a join could read all rows.
OUTLINED_PAGE: Final = ShapedStatement(f"""
    WITH page AS MATERIALIZED ({_PAGE_ROWS})
    SELECT page.*, r.* FROM page CROSS JOIN LATERAL (
        (SELECT namespace, name, content_hash, stored_at, diverged, via, recorded_by, correlation_id, type,
            action, phase, severity, resource_kind AS target_kind, resource_namespace AS target_namespace,
            resource_name AS target_name
        FROM datastorage.audit_records AS r
        WHERE page.table_name = 'audit_records' AND {_OF_PAGE} LIMIT 1)
        UNION ALL
        (SELECT namespace, name, content_hash, stored_at, diverged, via, recorded_by, correlation_id, NULL,
            action_type, execution_status, alert_severity, target_kind, target_namespace, target_name
        FROM datastorage.action_traces AS r
        WHERE page.table_name = 'action_traces' AND {_OF_PAGE} LIMIT 1)) AS r
    ORDER BY created_at DESC, began_at DESC, numbers DESC
""")  # noqa: S608  # names of our own
# The order of storing of a row, and the one that counts for its object in a list (see _OF_FIRST).
_ORDERS: Final = {
    table: f"""
        SELECT r.stored_order, {of_object} AS of_object FROM datastorage.{table} AS r
        WHERE r.uid = $1 AND r.generation = $2 AND r.created_at = $3 AND r.spec_hash = $4
            AND ($5::text IS NULL OR r.namespace = $5)
            AND r.created_at >= coalesce($6::timestamptz, '-infinity')
    """  # noqa: S608  # names of our own
    for table, of_object in (
        (Table.AUDIT_RECORDS, "r.stored_order"),
        (Table.ACTION_TRACES, f"({_OF_FIRST})[2]"),
    )
}
_INCIDENT: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash, happened_at,
        ARRAY[resource_version, generation, stored_order] AS numbers
    FROM datastorage.audit_records
    WHERE correlation_id = $1 AND ($5::text IS NULL OR namespace = $5)
        AND created_at >= coalesce($6::timestamptz, '-infinity')
        AND happened_at >= coalesce($2::timestamptz, '-infinity')
        AND ($2::timestamptz IS NULL OR happened_at > $2
            OR ARRAY[resource_version, generation, stored_order] > $3::bigint[])
    ORDER BY happened_at, numbers LIMIT $4)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash, happened_at,
        ARRAY[resource_version, generation, stored_order] AS numbers
    FROM datastorage.action_traces
    WHERE correlation_id = $1 AND ($5::text IS NULL OR namespace = $5)
        AND created_at >= coalesce($6::timestamptz, '-infinity')
        AND happened_at >= coalesce($2::timestamptz, '-infinity')
        AND ($2::timestamptz IS NULL OR happened_at > $2
            OR ARRAY[resource_version, generation, stored_order] > $3::bigint[])
    ORDER BY happened_at, numbers LIMIT $4)
    ORDER BY happened_at, numbers LIMIT $4
"""
_GENERATIONS: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash, stored_order
    FROM datastorage.audit_records
    WHERE $1::boolean AND uid = $3 AND ($5::text IS NULL OR namespace = $5)
        AND created_at >= coalesce($6::timestamptz, '-infinity')
    ORDER BY generation DESC, stored_order DESC LIMIT $4)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash, stored_order
    FROM datastorage.action_traces
    WHERE $2::boolean AND uid = $3 AND ($5::text IS NULL OR namespace = $5)
        AND created_at >= coalesce($6::timestamptz, '-infinity')
    ORDER BY generation DESC, stored_order DESC LIMIT $4)
    ORDER BY generation DESC, stored_order DESC LIMIT $4
"""
# One statement, without a transaction: a get is the most frequent question.
ONE: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash, diverged, namespace, name,
        content, content_hash, stored_at, via, recorded_by, stored_order
    FROM datastorage.audit_records
    WHERE $1::boolean AND uid = $3 AND ($4::bigint IS NULL OR generation = $4)
        AND ($5::text IS NULL OR namespace = $5) AND created_at >= coalesce($6::timestamptz, '-infinity')
    ORDER BY generation DESC, stored_order DESC LIMIT 1)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash, diverged, namespace, name,
        content, content_hash, stored_at, via, recorded_by, stored_order
    FROM datastorage.action_traces
    WHERE $2::boolean AND uid = $3 AND ($4::bigint IS NULL OR generation = $4)
        AND ($5::text IS NULL OR namespace = $5) AND created_at >= coalesce($6::timestamptz, '-infinity')
    ORDER BY generation DESC, stored_order DESC LIMIT 1)
    ORDER BY generation DESC, stored_order DESC LIMIT 1
"""
# The first ones alone: an error that names them stays short.
NAMESPACES: Final = """
    (SELECT namespace FROM datastorage.audit_records
    WHERE $1::boolean AND uid = $3 AND ($4::bigint IS NULL OR generation = $4))
    UNION
    (SELECT namespace FROM datastorage.action_traces
    WHERE $2::boolean AND uid = $3 AND ($4::bigint IS NULL OR generation = $4))
    ORDER BY namespace LIMIT 5
"""
_NEWEST_OF_NAME: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash, resource_version,
        stored_order
    FROM datastorage.audit_records
    WHERE $1::boolean AND namespace = $3 AND name = $4
        AND created_at >= coalesce($5::timestamptz, '-infinity')
    ORDER BY created_at DESC, resource_version DESC, generation DESC, stored_order DESC LIMIT 1)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash, resource_version, stored_order
    FROM datastorage.action_traces
    WHERE $2::boolean AND namespace = $3 AND name = $4
        AND created_at >= coalesce($5::timestamptz, '-infinity')
    ORDER BY created_at DESC, resource_version DESC, generation DESC, stored_order DESC LIMIT 1)
    ORDER BY created_at DESC, resource_version DESC, stored_order DESC LIMIT 1
"""


class ArchiveReader:
    """Reads records. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database, *, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        """``database`` is that of the records. Its role need only have the right to read them.

        The contents of one answer have about ``max_bytes`` in all: the content that exceeds the limit is the
        last one.
        """
        self._database = database
        self._max_bytes = max_bytes

    async def page(self, criteria: Criteria, after: Position | None, limit: int) -> list[PlacedRow]:
        """Return the rows that meet the criteria and come after a position, the newest created first.

        Only the newest generation of an ActionTrace counts. Positions have two times and two numbers.
        """
        return _placed_in_page(await self._page(PAGE, criteria, after, limit))

    async def outlined_page(
        self, criteria: Criteria, after: Position | None, limit: int
    ) -> list[tuple[PlacedRow, Outline]]:
        """Return the rows of ``page``, each with what its columns say."""
        rows = await self._page(OUTLINED_PAGE, criteria, after, limit)
        placed = _placed_in_page(rows)
        return [(each, _outline(each.place, row)) for each, row in zip(placed, rows, strict=True)]

    async def incident(
        self, correlation_id: str, after: Position | None, limit: int, *, scope: Scope = EVERYTHING
    ) -> list[PlacedRow]:
        """Return the rows of an incident that come after a position, with all generations of its traces.

        The order is that of query/timeline.py. Positions have one time and three numbers. Only rows within
        the scope are returned.
        """
        start = (*after.times, list(after.numbers)) if after is not None else (None,) * 2
        async with reading(self._database) as connection:
            rows = await connection.fetch(_INCIDENT, correlation_id, *start, limit, *astuple(scope))
        return [_placed(row, row["happened_at"]) for row in rows]

    async def generations(
        self, tables: frozenset[Table], uid: str, limit: int, *, scope: Scope = EVERYTHING
    ) -> list[Place]:
        """Return the rows of an object, newest first. Only those within the scope are found."""
        return await self._places(_GENERATIONS, *_in(tables), uid, limit, *astuple(scope))

    async def one(
        self, tables: frozenset[Table], uid: str, generation: int | None, *, scope: Scope = EVERYTHING
    ) -> StoredRow | None:
        """Return the newest row of an object, or of one generation of it, that is within the scope."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(ONE, *_in(tables), uid, generation, *astuple(scope))
        return None if row is None else stored_row(row)

    async def namespaces(self, tables: frozenset[Table], uid: str, generation: int | None) -> list[str]:
        """Return the namespaces with rows of a uid, or of one generation of it; the first five alone."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(NAMESPACES, *_in(tables), uid, generation)
        return [row["namespace"] for row in rows]

    async def orders(self, place: Place, *, scope: Scope = EVERYTHING) -> Orders | None:
        """Return the order of storing of a row; None if there is no such row within the scope."""
        async with reading(self._database) as connection:
            row = await connection.fetchrow(_ORDERS[place.table], *astuple(place.key), *astuple(scope))
        return None if row is None else Orders(row["stored_order"], row["of_object"])

    async def newest_of_name(
        self, tables: frozenset[Table], namespace: str, name: str, *, scope: Scope = EVERYTHING
    ) -> list[Place]:
        """Return the newest row, within the scope, of the newest object that had the name, or nothing."""
        if scope.namespace not in {None, namespace}:
            return []
        return await self._places(_NEWEST_OF_NAME, *_in(tables), namespace, name, scope.since)

    async def load(self, places: Sequence[Place]) -> list[StoredRow]:
        """Return the rows in the order of their places; only the first ones if the contents are large."""
        async with reading(self._database, plan=ONE_PLAN) as connection:
            return (await load_rows(connection, places, self._max_bytes)).rows

    async def _places(self, sql: str, *arguments: Any) -> list[Place]:
        async with reading(self._database) as connection:
            return [place_of(row) for row in await connection.fetch(sql, *arguments)]

    async def _page(
        self, statement: ShapedStatement, criteria: Criteria, after: Position | None, limit: int
    ) -> Sequence[Any]:
        start = (*after.times, list(after.numbers)) if after is not None else (None,) * 3
        sql, arguments = statement.of(criteria)
        async with reading(self._database, plan=plan_for(criteria)) as connection:
            rows: Sequence[Any] = await connection.fetch(sql, *start, limit, *arguments)
        return rows


def _placed_in_page(rows: Sequence[Any]) -> list[PlacedRow]:
    return [_placed(row, row["created_at"], row["began_at"]) for row in rows]


def _outline(place: Place, row: Any) -> Outline:
    return Outline(
        place, row["namespace"], row["name"], row["stored_at"], row["content_hash"],
        row["diverged"], Via(row["via"]), row["recorded_by"], row["correlation_id"], row["type"],
        row["action"], row["phase"], row["severity"],
        (row["target_kind"], row["target_namespace"], row["target_name"]),
    )  # fmt: skip


def _in(tables: frozenset[Table]) -> tuple[bool, bool]:
    return Table.AUDIT_RECORDS in tables, Table.ACTION_TRACES in tables


def _placed(row: Any, *times: datetime) -> PlacedRow:
    return PlacedRow(place_of(row), Position(times, tuple(row["numbers"])))
