"""Reads rows with their contents, up to a size: those of a page, and those that a search has found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from datastorage.records.record import Via
from datastorage.storage.connection.sessions import Session
from datastorage.storage.places import Place, StoredRow, place_columns, place_of

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Bounds one answer in memory: some tens of the largest objects that etcd accepts, or thousands of usual
ones."""

# Returns rows until their contents exceed $6 bytes. PostgreSQL knows the sizes without reading the contents.
LOAD: Final = """
    WITH wanted AS (
        SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::bytea[])
            WITH ORDINALITY AS k (table_name, uid, generation, created_at, spec_hash, place)),
    found AS (
        SELECT k.place, k.table_name, k.uid, k.generation, k.created_at, k.spec_hash, r.diverged,
            r.namespace, r.name, r.content, r.content_hash, r.stored_at, r.via, r.recorded_by
        FROM wanted AS k JOIN datastorage.audit_records AS r USING (uid, generation, created_at, spec_hash)
        WHERE k.table_name = 'audit_records'
        UNION ALL
        SELECT k.place, k.table_name, k.uid, k.generation, k.created_at, k.spec_hash, r.diverged,
            r.namespace, r.name, r.content, r.content_hash, r.stored_at, r.via, r.recorded_by
        FROM wanted AS k JOIN datastorage.action_traces AS r USING (uid, generation, created_at, spec_hash)
        WHERE k.table_name = 'action_traces'),
    measured AS (
        SELECT *, sum(octet_length(content)) OVER (ORDER BY place) AS bytes, count(*) OVER () AS existing
        FROM found)
    SELECT * FROM measured WHERE bytes - octet_length(content) < $6 ORDER BY place
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows that exist, in the order of their places: the first ones, if the contents are large."""

    rows: list[StoredRow]
    left_out: int
    """The number of the others that exist."""


async def load_rows(connection: Session, places: Sequence[Place], max_bytes: int) -> Loaded:
    """Return the rows that exist; the one whose content exceeds ``max_bytes`` is the last.

    Errors are those of asyncpg; ``reading`` translates them.
    """
    rows = await connection.fetch(LOAD, *place_columns(places), max_bytes)
    return Loaded([stored_row(row) for row in rows], rows[0]["existing"] - len(rows) if rows else 0)


def stored_row(row: Any) -> StoredRow:
    """Return the row of a result that has all columns of a StoredRow."""
    return StoredRow(
        place_of(row), row["namespace"], row["name"], row["stored_at"], row["content"],
        row["content_hash"], row["diverged"], Via(row["via"]), row["recorded_by"],
    )  # fmt: skip
