"""The statements that read records: pages, single objects and remediations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.database import Database
from datastorage.storage.reading import reading
from datastorage.storage.records import RecordKey, Table, key_columns, key_in

# The rows of a page are found by their keys first and read then: what is sorted and thrown away is small.
_PAGE: Final = with_conditions("""
    (SELECT 'audit_records' AS table_name, r.uid, r.generation, r.created_at, r.spec_hash
    FROM datastorage.audit_records AS r
    WHERE {of_audit_records} AND r.created_at <= coalesce($14::timestamptz, 'infinity')
        AND ($14::timestamptz IS NULL OR (r.created_at, r.uid, r.generation) < ($14, $15::uuid, $16::bigint))
    ORDER BY r.created_at DESC, r.uid DESC, r.generation DESC LIMIT $17)
    UNION ALL
    (SELECT 'action_traces', r.uid, r.generation, r.created_at, r.spec_hash
    FROM datastorage.action_traces AS r
    WHERE {of_action_traces} AND r.created_at <= coalesce($14::timestamptz, 'infinity')
        AND ($14::timestamptz IS NULL OR (r.created_at, r.uid, r.generation) < ($14, $15::uuid, $16::bigint))
        AND {newest}
    ORDER BY r.created_at DESC, r.uid DESC, r.generation DESC LIMIT $17)
    ORDER BY created_at DESC, uid DESC, generation DESC LIMIT $17
""")
_REMEDIATION: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash
    FROM datastorage.audit_records
    WHERE correlation_id = $1 ORDER BY created_at LIMIT $2)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash FROM datastorage.action_traces
    WHERE correlation_id = $1 ORDER BY created_at LIMIT $2)
    ORDER BY created_at, uid, generation LIMIT $2
"""
_GENERATIONS: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash
    FROM datastorage.audit_records
    WHERE uid = $1 AND ($2::bigint IS NULL OR generation = $2)
    ORDER BY generation DESC, stored_order DESC LIMIT $3)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash FROM datastorage.action_traces
    WHERE uid = $1 AND ($2::bigint IS NULL OR generation = $2)
    ORDER BY generation DESC, stored_order DESC LIMIT $3)
    ORDER BY generation DESC LIMIT $3
"""
_NEWEST_OF_NAME: Final = """
    (SELECT 'audit_records' AS table_name, uid, generation, created_at, spec_hash
    FROM datastorage.audit_records
    WHERE $1::boolean AND namespace = $3 AND name = $4
    ORDER BY created_at DESC, generation DESC, stored_order DESC LIMIT 1)
    UNION ALL
    (SELECT 'action_traces', uid, generation, created_at, spec_hash FROM datastorage.action_traces
    WHERE $2::boolean AND namespace = $3 AND name = $4
    ORDER BY created_at DESC, generation DESC, stored_order DESC LIMIT 1)
    ORDER BY created_at DESC, generation DESC LIMIT 1
"""
_SHARING: Final = with_conditions("""
    SELECT given.text_hash,
        (SELECT count(*) FROM (
            SELECT FROM datastorage.audit_records AS r
            WHERE r.text_hash = given.text_hash AND {of_audit_records} LIMIT $15) AS counted)
        + (SELECT count(*) FROM (
            SELECT FROM datastorage.action_traces AS r
            WHERE r.text_hash = given.text_hash AND {of_action_traces} AND {newest} LIMIT $15) AS counted)
        AS rows
    FROM unnest($14::bytea[]) AS given (text_hash)
""")
# The sizes are known without reading the contents.
_LOAD: Final = """
    WITH wanted AS (
        SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::bytea[])
            WITH ORDINALITY AS k (table_name, uid, generation, created_at, spec_hash, place)),
    found AS (
        SELECT k.place, k.table_name, k.uid, k.generation, k.created_at, k.spec_hash, r.diverged,
            r.namespace, r.name, r.content, r.content_hash, r.stored_at
        FROM wanted AS k JOIN datastorage.audit_records AS r USING (uid, generation, created_at, spec_hash)
        WHERE k.table_name = 'audit_records'
        UNION ALL
        SELECT k.place, k.table_name, k.uid, k.generation, k.created_at, k.spec_hash, r.diverged,
            r.namespace, r.name, r.content, r.content_hash, r.stored_at
        FROM wanted AS k JOIN datastorage.action_traces AS r USING (uid, generation, created_at, spec_hash)
        WHERE k.table_name = 'action_traces'),
    measured AS (SELECT *, sum(octet_length(content)) OVER (ORDER BY place) AS bytes FROM found)
    SELECT * FROM measured WHERE bytes - octet_length(content) < $6 ORDER BY place
"""
# One answer in memory: some tens of the largest objects that etcd takes, or thousands of usual ones.
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is."""

    table: Table
    key: RecordKey


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row as it is stored; the content is not checked against its hash yet."""

    place: Place
    namespace: str
    name: str
    stored_at: datetime
    content: bytes = field(repr=False)
    content_hash: bytes = field(repr=False)
    diverged: bool
    """Whether another content was stored under its uid and generation before."""


class ArchiveReader:
    """Reads records. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database) -> None:
        """Take the database of the records; any role that may read them will do."""
        self._database = database

    async def page(self, criteria: Criteria, after: RecordKey | None, limit: int) -> list[Place]:
        """Return the rows that meet the criteria and come after a key, the newest created first.

        Of an ActionTrace only the newest generation is looked at.
        """
        position = (after.created_at, after.uid, after.generation) if after is not None else (None,) * 3
        return await self._places(_PAGE, *criteria.arguments, *position, limit)

    async def remediation(self, correlation_id: str, limit: int) -> list[Place]:
        """Return the rows of a remediation, with all generations of its traces, the first created first."""
        return await self._places(_REMEDIATION, correlation_id, limit)

    async def generations(self, uid: str, generation: int | None, limit: int) -> list[Place]:
        """Return the generations of an object, or the one that is asked for, newest first."""
        return await self._places(_GENERATIONS, uid, generation, limit)

    async def newest_of_name(self, tables: frozenset[Table], namespace: str, name: str) -> list[Place]:
        """Return the newest row of the newest object that had the name, if there is one."""
        of_kind = (Table.AUDIT_RECORDS in tables, Table.ACTION_TRACES in tables)
        return await self._places(_NEWEST_OF_NAME, *of_kind, namespace, name)

    async def load(self, places: Sequence[Place], max_bytes: int = MAX_ANSWER_BYTES) -> list[StoredRow]:
        """Return the rows in the order of their places; fewer when their contents exceed ``max_bytes``."""
        arguments = (
            [place.table.value for place in places],
            *key_columns([place.key for place in places]),
        )
        async with reading(self._database) as connection:
            rows = await connection.fetch(_LOAD, *arguments, max_bytes)
        return [
            StoredRow(
                place_of(row), row["namespace"], row["name"], row["stored_at"], row["content"],
                row["content_hash"], row["diverged"],
            )
            for row in rows
        ]  # fmt: skip

    async def count_sharing(
        self, criteria: Criteria, hashes: Sequence[bytes], limit: int
    ) -> dict[bytes, int]:
        """Return how many records that meet the criteria have each text, counted up to ``limit`` or so."""
        async with reading(self._database) as connection:
            rows = await connection.fetch(_SHARING, *criteria.arguments, list(hashes), limit)
        return {row["text_hash"]: row["rows"] for row in rows}

    async def _places(self, sql: str, *arguments: Any) -> list[Place]:
        async with reading(self._database) as connection:
            return [place_of(row) for row in await connection.fetch(sql, *arguments)]


def place_of(row: Any) -> Place:
    """Return the place that a row of an answer tells."""
    return Place(Table(row["table_name"]), key_in(row))
