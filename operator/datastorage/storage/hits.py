"""Reads what a search shows of its hits: their contents, their incidents, and how many more are like them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.contents import MAX_ANSWER_BYTES, load_rows
from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.matches import Match
from datastorage.storage.places import Place, StoredRow, place_columns, place_of
from datastorage.storage.readonly import ONE_PLAN, reading

# The number of records that have a value in a column, up to $3 in each table.
_COUNTED: Final = """
        (SELECT count(*) FROM (
            SELECT FROM datastorage.audit_records AS r
            WHERE r.{column} = given.shared AND {{of_audit_records}} LIMIT $3) AS counted)
        + (SELECT count(*) FROM (
            SELECT FROM datastorage.action_traces AS r
            WHERE r.{column} = given.shared AND {{of_action_traces}} AND {{newest}} LIMIT $3) AS counted)
        AS rows"""
_SHARING: Final = with_conditions(f"""
    SELECT given.shared AS text_hash, NULL AS correlation_id, {_COUNTED.format(column="text_hash")}
    FROM unnest($1::bytea[]) AS given (shared)
    UNION ALL
    SELECT NULL, given.shared, {_COUNTED.format(column="correlation_id")}
    FROM unnest($2::text[]) AS given (shared)
""")  # noqa: S608  # names of our own
_CORRELATION_IDS: Final = """
    WITH wanted AS (
        SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::bytea[])
            WITH ORDINALITY AS k (table_name, uid, generation, created_at, spec_hash, place))
    SELECT k.place, r.correlation_id
    FROM wanted AS k JOIN datastorage.audit_records AS r USING (uid, generation, created_at, spec_hash)
    WHERE k.table_name = 'audit_records' AND r.correlation_id IS NOT NULL
    UNION ALL
    SELECT k.place, r.correlation_id
    FROM wanted AS k JOIN datastorage.action_traces AS r USING (uid, generation, created_at, spec_hash)
    WHERE k.table_name = 'action_traces' AND r.correlation_id IS NOT NULL
"""
# The newest rows of each correlation ID, $2 of each table: the last ones of its timeline. Several may have
# happened in the same second; which of them are taken must not depend on where PostgreSQL has put them.
_CORRELATED: Final = with_conditions("""
    SELECT given.shared AS correlation_id, found.* FROM unnest($1::text[]) AS given (shared)
    CROSS JOIN LATERAL (
        (SELECT 'audit_records' AS table_name, r.uid, r.generation, r.created_at, r.spec_hash, r.text_hash
        FROM datastorage.audit_records AS r
        WHERE r.correlation_id = given.shared AND {of_audit_records}
        ORDER BY r.happened_at DESC, ARRAY[r.resource_version, r.generation, r.stored_order] DESC
        LIMIT $2)
        UNION ALL
        (SELECT 'action_traces', r.uid, r.generation, r.created_at, r.spec_hash, r.text_hash
        FROM datastorage.action_traces AS r
        WHERE r.correlation_id = given.shared AND {of_action_traces} AND {newest}
        ORDER BY r.happened_at DESC, ARRAY[r.resource_version, r.generation, r.stored_order] DESC
        LIMIT $2)) AS found
""")


@dataclass(frozen=True, slots=True)
class LoadedAndCounted:
    """Rows, and how many records share a text or a correlation ID with them."""

    rows: Sequence[StoredRow]
    left_out: int
    """The number of further rows whose contents would make the answer too large."""
    of_texts: Mapping[bytes, int]
    """By the hash of the text."""
    of_correlation_ids: Mapping[str, int]


class HitReader:
    """Reads what belongs to the hits of a search.

    All methods raise TransientError when PostgreSQL can't serve.
    """

    def __init__(self, database: Database, *, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        """``database`` is that of the records. Its role need only have the right to read them.

        The contents of one answer have about ``max_bytes`` in all.
        """
        self._database = database
        self._max_bytes = max_bytes

    async def correlation_ids(self, places: Sequence[Place]) -> dict[Place, str]:
        """Return the correlation ID of each of the rows that has one."""
        async with reading(self._database, plan=ONE_PLAN) as connection:
            rows = await connection.fetch(_CORRELATION_IDS, *place_columns(places))
        return {places[row["place"] - 1]: row["correlation_id"] for row in rows}

    async def correlated(
        self, correlation_ids: Sequence[str], criteria: Criteria, *, limit: int
    ) -> dict[str, list[Match]]:
        """Return the newest rows of each correlation ID that meet the criteria, not compared with a question.

        There are at most ``limit`` of each table.
        """
        async with reading(self._database, plan=ONE_PLAN) as connection:
            rows = await connection.fetch(_CORRELATED, correlation_ids, limit, *criteria.arguments)
        found: dict[str, list[Match]] = {}
        for row in rows:
            found.setdefault(row["correlation_id"], []).append(Match(place_of(row), row["text_hash"]))
        return found

    async def load_and_count(
        self,
        places: Sequence[Place],
        criteria: Criteria,
        *,
        texts: Collection[bytes],
        correlation_ids: Collection[str],
        limit: int,
    ) -> LoadedAndCounted:
        """Return rows, and how many records that meet the criteria have each text and each correlation ID.

        The rows are those of ``load_rows``. ``texts`` are hashes. The records are counted up to ``limit`` in
        each table.
        """
        async with reading(self._database, plan=ONE_PLAN) as connection:
            loaded = await load_rows(connection, places, self._max_bytes)
            arguments = (list(texts), list(correlation_ids), limit, *criteria.arguments)
            counts = await connection.fetch(_SHARING, *arguments)
        of_texts = {row["text_hash"]: row["rows"] for row in counts if row["text_hash"] is not None}
        of_ids = {row["correlation_id"]: row["rows"] for row in counts if row["correlation_id"] is not None}
        return LoadedAndCounted(loaded.rows, loaded.left_out, of_texts, of_ids)
