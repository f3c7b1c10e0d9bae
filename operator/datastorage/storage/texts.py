"""Reads the texts that vectors are made from, page by page, and adds the texts of rows that have none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from datastorage.records.record import RecordKey, Table, Text
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.keys import key_columns, key_in

ADD: Final = """
    INSERT INTO datastorage.embedding_texts (text_hash, text)
    SELECT * FROM unnest($1::bytea[], $2::text[]) ON CONFLICT DO NOTHING
"""
"""Adds texts. The hashes have to be in order, so that two transactions never wait for each other."""

# None of these rows has a text_hash. ORDER BY names it nevertheless, so that the order matches the index.
_WITHOUT_TEXT: Final[dict[Table, str]] = {
    table: f"""
    SELECT uid, generation, created_at, spec_hash, octet_length(content) AS size FROM datastorage.{table}
    WHERE text_hash IS NULL AND created_at >= $1
        AND (created_at, uid, generation, spec_hash) > ($1, $2, $3, $4)
    ORDER BY text_hash, created_at, uid, generation, spec_hash LIMIT $5
    """  # noqa: S608  # the names of our own tables
    for table in Table
}
_CONTENTS: Final[dict[Table, str]] = {
    table: f"""
    SELECT r.uid, r.generation, r.created_at, r.spec_hash, r.content
    FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[])
        AS k (uid, generation, created_at, spec_hash)
    JOIN datastorage.{table} AS r USING (uid, generation, created_at, spec_hash)
    """  # noqa: S608  # the names of our own tables
    for table in Table
}
_COUNT_WITHOUT_TEXT: Final = """
    SELECT (SELECT count(*) FROM datastorage.audit_records WHERE text_hash IS NULL)
        + (SELECT count(*) FROM datastorage.action_traces WHERE text_hash IS NULL)
"""
_SET: Final = "SELECT datastorage.set_text_hashes($1, $2, $3, $4, $5, $6)"
_COUNT: Final = "SELECT count(*) FROM datastorage.embedding_texts"
_HASHES: Final = """
    SELECT text_hash FROM datastorage.embedding_texts WHERE text_hash > $1 ORDER BY text_hash LIMIT $2
"""
_TEXTS: Final = "SELECT text_hash, text FROM datastorage.embedding_texts WHERE text_hash = ANY($1::bytea[])"
# A count reads a whole index: a second or so for a million entries.
_COUNT_SECONDS: Final = 600.0

FIRST_ROW: Final = RecordKey("00000000-0000-0000-0000-000000000000", -1, datetime(1, 1, 1, tzinfo=UTC), b"")
"""A key that comes before the keys of all rows."""
FIRST_TEXT: Final = b""
"""A hash that comes before the hashes of all texts."""


@dataclass(frozen=True, slots=True)
class RowWithoutText:
    """A row without a text, and the size of its content in bytes."""

    key: RecordKey
    size: int


class Texts:
    """Reads and adds the texts of rows. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database) -> None:
        """``database`` is that of the records."""
        self._database = database

    async def count_without_text(self) -> int:
        """Count the rows without a text, by reading that many entries of an index."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT_WITHOUT_TEXT, timeout=_COUNT_SECONDS))

    async def without_text(self, table: Table, after: RecordKey, limit: int) -> list[RowWithoutText]:
        """Return rows without a text that come after a key, the oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                _WITHOUT_TEXT[table], after.created_at, after.uid, after.generation, after.spec_hash, limit
            )
        return [RowWithoutText(key_in(row), row["size"]) for row in rows]

    async def contents(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, bytes]:
        """Return the contents of the rows that still exist, by their keys."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_CONTENTS[table], *key_columns(keys))
        return {key_in(row): row["content"] for row in rows}

    async def add_texts(self, table: Table, rows: Sequence[tuple[RecordKey, Text]]) -> None:
        """Add the texts of rows that have none, in one transaction. A row that already has one keeps it.

        Raises RecordRefusedError when PostgreSQL refuses at least one of the texts; then none is added.
        """
        # The texts are in the order of their hashes, so that two transactions never wait for each other.
        texts = dict(sorted((text.hash, text.text) for _, text in rows if text.text))
        hashes = [text.hash for _, text in rows]
        async with self._database.connection() as connection, transaction(connection):
            await connection.execute(ADD, list(texts), list(texts.values()))
            await connection.execute(_SET, table.value, *key_columns([key for key, _ in rows]), hashes)

    async def probe(self) -> None:
        """Check that ``add_texts`` would succeed. Raises MissingRightsError if the role lacks a right."""
        for table in Table:
            await self.add_texts(table, [])

    async def count(self) -> int:
        """Count the distinct texts, by reading a whole index of them."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT, timeout=_COUNT_SECONDS))

    async def hashes(self, after: bytes, limit: int) -> list[bytes]:
        """Return the hashes of texts that come after a hash, in order."""
        async with self._database.connection() as connection:
            return [row["text_hash"] for row in await connection.fetch(_HASHES, after, limit)]

    async def texts(self, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """Return the texts that exist, by their hashes."""
        async with self._database.connection() as connection:
            return {row["text_hash"]: row["text"] for row in await connection.fetch(_TEXTS, hashes)}
