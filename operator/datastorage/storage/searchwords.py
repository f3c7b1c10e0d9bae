"""Gives rows from before the words by which their records are found now. This needs the rights of the owner.

The column ``search`` is only an index, made from the content. The content and its hash, which are the
evidence, stay as they are, and so do the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from datastorage.records.record import RecordKey, Table
from datastorage.resources.reading.kindreading import SEARCH_VERSION, Reading
from datastorage.resources.reading.registry import READINGS
from datastorage.storage.connection.database import Database
from datastorage.storage.keys import key_columns, key_in
from datastorage.storage.texts import Texts

# The order is that of an index as far as created_at and uid. A page is read whether its rows are old or not,
# so that no statement has to look through the whole table for the next old one.
_PAGE: Final[dict[Table, str]] = {
    table: f"""
    SELECT uid, generation, created_at, spec_hash, octet_length(content) AS size,
        search_version IS DISTINCT FROM $6::smallint AS is_old
    FROM datastorage.{table}
    WHERE created_at >= $1 AND (created_at, uid, generation, spec_hash) > ($1, $2, $3, $4)
    ORDER BY created_at, uid, generation, spec_hash LIMIT $5
    """  # noqa: S608  # the names of our own tables
    for table in Table
}
_COUNT: Final = """
    SELECT (SELECT count(*) FROM datastorage.audit_records) + (SELECT count(*) FROM datastorage.action_traces)
"""
_COUNT_OLD: Final = """
    SELECT (SELECT count(*) FROM datastorage.audit_records WHERE search_version IS DISTINCT FROM $1::smallint)
        + (SELECT count(*) FROM datastorage.action_traces WHERE search_version IS DISTINCT FROM $1::smallint)
"""
# A count reads a whole index, or the whole tables: some seconds for a million rows.
_COUNT_SECONDS: Final = 600.0


def _update(reading: Reading) -> str:
    return f"""
        UPDATE datastorage.{reading.table} AS r SET search = w.search, search_version = $6
        FROM (
            SELECT uid, generation, created_at, spec_hash, {reading.search.expression} AS search
            FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[], $5::text[])
                AS given (uid, generation, created_at, spec_hash, search)) AS w
        WHERE r.uid = w.uid AND r.generation = w.generation AND r.created_at = w.created_at
            AND r.spec_hash = w.spec_hash AND r.search_version IS DISTINCT FROM $6::smallint
    """  # noqa: S608  # names of our own


_UPDATE: Final = {reading.table: _update(reading) for reading in READINGS}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the archive, without its content."""

    key: RecordKey
    size: int
    """The size of its content in bytes."""
    is_old: bool
    """Whether its words were made by other rules than those of this program."""


class SearchWords:
    """Reads rows and changes their words. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database) -> None:
        """``database`` is that of the records. Its role has to own the tables."""
        self._database = database
        self._texts = Texts(database)

    async def count(self) -> int:
        """Count all rows."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT, timeout=_COUNT_SECONDS))

    async def count_old(self) -> int:
        """Count the old rows, by reading both tables."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT_OLD, SEARCH_VERSION, timeout=_COUNT_SECONDS))

    async def rows(self, table: Table, after: RecordKey, limit: int) -> list[Row]:
        """Return the rows that come after a key, the oldest first."""
        key = (after.created_at, after.uid, after.generation, after.spec_hash)
        async with self._database.connection() as connection:
            found = await connection.fetch(_PAGE[table], *key, limit, SEARCH_VERSION)
        return [Row(key_in(row), row["size"], row["is_old"]) for row in found]

    async def contents(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, bytes]:
        """Return the contents of the rows that still exist, by their keys."""
        return await self._texts.contents(table, keys)

    async def replace(self, table: Table, words: Sequence[tuple[RecordKey, str]]) -> int:
        """Give old rows their words, in one transaction; return how many rows that were.

        A row that has them already stays as it is.

        Raises RecordRefusedError when PostgreSQL refuses the words of at least one row; then none changes.
        """
        keys, texts = [key for key, _ in words], [text for _, text in words]
        async with self._database.connection() as connection:
            done = await connection.execute(_UPDATE[table], *key_columns(keys), texts, SEARCH_VERSION)
        return int(done.split()[-1])  # "UPDATE 200"

    async def probe(self) -> None:
        """Check that ``replace`` would succeed. Raises MissingRightsError if the role lacks a right."""
        for table in Table:
            await self.replace(table, [])
