"""The rejected records: PostgreSQL can't hold them as rows, so their bytes are kept for a later retry."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any, Final

from datastorage.errors import RecordRefusedError
from datastorage.records.record import Record, RecordKey, Table, Via
from datastorage.storage import claims
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.keys import key_columns, key_in

_ADD: Final = """
    INSERT INTO datastorage.rejected_objects (
        uid, generation, created_at, table_name, namespace, name, content, content_hash, reason, via,
        recorded_by)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    ON CONFLICT DO NOTHING
"""
# Two clients may choose the same uid for the same spec: in two namespaces, or in two that had the same name
# at different times.
_IS_KEPT: Final = """
    SELECT EXISTS (SELECT FROM datastorage.rejected_objects WHERE uid = $1 AND generation = $2
        AND spec_hash = $3 AND namespace = $4 AND created_at = $5)
"""
_REOPEN: Final = "SELECT datastorage.reopen_rejected($1, $2, $3, $4)"
_RESOLVE: Final = "SELECT datastorage.resolve_rejected($1, $2, $3)"
# A record that has a row is not rejected any more, even if it has not been marked as resolved yet. The
# function has_row of the schema would also read the other table, which may be locked.
_FIND: Final[dict[Table, str]] = {
    table: f"""
        SELECT r.uid, r.generation, r.created_at, r.spec_hash
        FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[])
            AS k (uid, generation, created_at, spec_hash)
        JOIN datastorage.rejected_objects AS r USING (uid, generation, created_at, spec_hash)
        WHERE r.resolved_at IS NULL AND NOT EXISTS (SELECT FROM datastorage.{table} AS t
            WHERE t.uid = r.uid AND t.generation = r.generation AND t.created_at = r.created_at
                AND t.spec_hash = r.spec_hash)
    """  # noqa: S608  # the names of our own tables
    for table in Table
}
_CONDITIONS: Final = """
    ($1::boolean OR resolved_at IS NULL) AND ($2::uuid IS NULL OR uid = $2)
        AND ($3::text IS NULL OR namespace = $3)
        AND ($4::text IS NULL OR position(lower($4) IN lower(reason)) > 0)
"""
_LIST: Final = f"""
    SELECT uid, generation, created_at, spec_hash, table_name, namespace, name, octet_length(content) AS size,
        reason, rejected_at, resolved_at
    FROM datastorage.rejected_objects WHERE {_CONDITIONS}
        AND ($5::timestamptz IS NULL OR (rejected_at, uid, generation, spec_hash)
            < ($5, $6::uuid, $7::bigint, $8::bytea))
    ORDER BY rejected_at DESC, uid DESC, generation DESC, spec_hash DESC LIMIT $9
"""  # noqa: S608  # conditions of our own
_COUNT: Final = f"SELECT count(*) FROM datastorage.rejected_objects WHERE {_CONDITIONS}"  # noqa: S608
_CONTENTS: Final = """
    SELECT uid, generation, created_at, spec_hash, content, content_hash, via, recorded_by
    FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[])
        AS k (uid, generation, created_at, spec_hash)
    JOIN datastorage.rejected_objects USING (uid, generation, created_at, spec_hash)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedCriteria:
    """Conditions on rejected records; None means no condition."""

    resolved: bool = False
    """Whether to include records that have a row now."""
    uid: str | None = None
    namespace: str | None = None
    reason: str | None = None
    """A text that the reason contains, in upper or lower case."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of a statement with ``_CONDITIONS``."""
        return self.resolved, self.uid, self.namespace, self.reason


@dataclass(frozen=True, slots=True)
class RejectedPosition:
    """The place of a record in the list of rejected records, which is ordered by these fields."""

    rejected_at: datetime
    uid: str
    generation: int
    spec_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A rejected record without its content."""

    key: RecordKey
    table: Table
    namespace: str
    name: str
    size: int
    """The size of the content in bytes."""
    reason: str
    rejected_at: datetime
    resolved_at: datetime | None
    """The time at which it was found to have a row."""

    @property
    def position(self) -> RejectedPosition:
        """The position of the record in a list."""
        return RejectedPosition(self.rejected_at, self.key.uid, self.key.generation, self.key.spec_hash)


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a rejected record, and the hash that was stored with them."""

    content: bytes = field(repr=False)
    content_hash: bytes = field(repr=False)
    via: Via
    recorded_by: str | None


class RejectedRecords:
    """The table of rejected records. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reject(self, record: Record, reason: str) -> None:
        """Keep the bytes of a record that can't be stored as a row, with the reason.

        Its identifier is taken too: otherwise the record could be stored twice, by the retry of its bytes and
        by that of its request. An object is kept even if its identifier belongs to another record: it was
        acknowledged when it was created. A repeat changes nothing. Raises RecordRefusedError if its place is
        taken by a record of another namespace, or of an earlier one of that name.
        """
        key = record.key
        async with self._database.connection() as connection, transaction(connection):
            if await claims.take(connection, [record]) and record.via is Via.API:
                return  # an equal request was quicker, and its record is kept
            await connection.execute(
                _ADD, key.uid, key.generation, key.created_at, record.table.value,
                record.namespace, record.name, record.content, record.content_hash, reason,
                record.via, record.recorded_by,
            )  # fmt: skip
            if not await connection.fetchval(
                _IS_KEPT, key.uid, key.generation, key.spec_hash, record.namespace, key.created_at
            ):
                raise RecordRefusedError("a rejected record of another namespace has the same uid and spec")
            await connection.execute(_REOPEN, key.uid, key.generation, key.spec_hash, reason)

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> set[RecordKey]:
        """Return the keys that are still rejected: their bytes are kept, and the table has no row of them."""
        async with self._database.connection() as connection:
            return {key_in(row) for row in await connection.fetch(_FIND[table], *key_columns(keys))}

    async def resolve(self, keys: Sequence[RecordKey]) -> int:
        """Mark the keys that have a row now as resolved; return how many."""
        uids, generations, _, spec_hashes = key_columns(keys)
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_RESOLVE, uids, generations, spec_hashes))

    async def list(
        self, criteria: RejectedCriteria, *, after: RejectedPosition | None, limit: int
    ) -> list[RejectedRecord]:
        """Return rejected records that come after a position, the last rejected first."""
        start = (None,) * 4 if after is None else astuple(after)
        async with self._database.connection() as connection:
            rows = await connection.fetch(_LIST, *criteria.arguments, *start, limit)
        return [
            RejectedRecord(
                key_in(row), Table(row["table_name"]), row["namespace"], row["name"], row["size"],
                row["reason"], row["rejected_at"], row["resolved_at"],
            )
            for row in rows
        ]  # fmt: skip

    async def count(self, criteria: RejectedCriteria) -> int:
        """Return the number of rejected records that meet the criteria."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT, *criteria.arguments))

    async def contents(self, keys: Iterable[RecordKey]) -> dict[RecordKey, Content]:
        """Return the contents of rejected records, by their keys."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_CONTENTS, *key_columns(list(keys)))
        return {
            key_in(row): Content(row["content"], row["content_hash"], Via(row["via"]), row["recorded_by"])
            for row in rows
        }
