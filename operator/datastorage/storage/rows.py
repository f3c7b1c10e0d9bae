"""The rows of records: the statements that add them and look them up, on a connection of the caller.

The columns come from resources/reading, which knows what the specs of each kind mean.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from datastorage.errors import WorkRefusedError
from datastorage.records.hashes import NO_TEXT
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.records.writes import WITHOUT_TEXT, WITHOUT_VECTORS, VectorWrite, WriteState
from datastorage.resources.reading.reading import Reading
from datastorage.resources.reading.registry import READINGS
from datastorage.storage.keys import key_columns, key_in
from datastorage.storage.outbox import OutboxState

# The columns that both tables have, before and behind those of the kind.
_BEFORE: Final[Mapping[str, tuple[str, Callable[[Record], Any]]]] = {
    "uid": ("uuid", lambda record: record.key.uid),
    "generation": ("bigint", lambda record: record.key.generation),
    "created_at": ("timestamptz", lambda record: record.key.created_at),
    "namespace": ("text", lambda record: record.namespace),
    "name": ("text", lambda record: record.name),
    "content": ("bytea", lambda record: record.content),
    "content_hash": ("bytea", lambda record: record.content_hash),
}
_BEHIND: Final[Mapping[str, tuple[str, Callable[[Record], Any]]]] = {
    "text_hash": ("bytea", lambda record: record.text.hash if record.text is not None else None),
    "resource_version": ("bigint", lambda record: record.resource_version),
}
# Far more than a server that serves needs for nothing.
_PROBE_SECONDS: Final = 5.0


def _insert(reading: Reading) -> str:
    """Return the statement that adds any number of rows of a kind, with texts.

    The arrays travel in binary, and the plan is made once. A repeat of a key changes nothing, so that every
    step before it can safely run twice. The key has the hash of the spec, which the server makes of the
    content: a row that is added although its generation has one says something different, and is marked.
    LIMIT keeps each of these look-ups one of the key; for EXISTS the planner may read the whole table into a
    hash. The answer has the rows that were added, and no others.
    """
    columns = {
        **{name: (pg_type, name) for name, (pg_type, _) in _BEFORE.items()},
        **{column.name: (column.pg_type, column.expression or column.name) for column in reading.columns},
        **{name: (pg_type, name) for name, (pg_type, _) in _BEHIND.items()},
    }
    names = ", ".join(columns)
    arrays = ", ".join(f"${n}::{pg_type}[]" for n, (pg_type, _) in enumerate(columns.values(), 1))
    return f"""
        WITH texts AS (
            INSERT INTO datastorage.embedding_texts (text_hash, text)
            SELECT * FROM unnest(${len(columns) + 1}::bytea[], ${len(columns) + 2}::text[])
            ON CONFLICT DO NOTHING)
        INSERT INTO datastorage.{reading.table} ({names}, diverged)
        SELECT {", ".join(expression for _, expression in columns.values())},
            (SELECT true FROM datastorage.{reading.table} AS r WHERE r.uid = rows.uid
                AND r.generation = rows.generation AND r.created_at = rows.created_at LIMIT 1) IS NOT NULL
        FROM unnest({arrays}) AS rows ({names})
        ON CONFLICT DO NOTHING
        RETURNING uid, generation, created_at, spec_hash, content_hash, stored_at, diverged
    """  # noqa: S608  # names of our own


_INSERT: Final = {reading.table: _insert(reading) for reading in READINGS}
FIND: Final[dict[Table, str]] = {
    table: f"""
        SELECT r.uid, r.generation, r.created_at, r.spec_hash, r.content_hash, r.stored_at, r.text_hash,
            r.diverged, o.state, o.last_error
        FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[])
            AS k (uid, generation, created_at, spec_hash)
        JOIN datastorage.{table} r USING (uid, generation, created_at, spec_hash)
        LEFT JOIN datastorage.vector_outbox o USING (uid, generation, text_hash)
    """  # noqa: S608  # the names of our own tables
    for table in Table
}


async def insert(
    connection: Any,
    table: Table,
    records: Sequence[Record],
    *,
    texts: Mapping[bytes, str],
    writes: Mapping[bytes, VectorWrite],
    model: str | None,
) -> dict[RecordKey, StoredRecord]:
    """Add rows to a table, and ``texts``; return what the table now holds for each record.

    ``texts`` are in the order of their hashes, so that two transactions never wait for each other. ``writes``
    says what became of each text's vector, ``model`` what makes vectors (see ``find``).

    Raises WorkRefusedError where PostgreSQL does not keep the rows.
    """
    columns = [
        *([value(record) for record in records] for _, value in _BEFORE.values()),
        *map(list, zip(*(record.index for record in records), strict=True)),
        *([value(record) for record in records] for _, value in _BEHIND.values()),
    ]
    added = {
        key_in(row): row
        for row in await connection.fetch(_INSERT[table], *columns, list(texts), list(texts.values()))
    }
    stored: dict[RecordKey, StoredRecord] = {}
    repeated: list[RecordKey] = []
    for record in records:
        row = added.get(record.key)
        if row is None:
            repeated.append(record.key)
            continue
        stored[record.key] = StoredRecord(
            row["content_hash"], row["stored_at"], _vector_of(record, writes), row["diverged"], is_new=True
        )
    # Some keys were there before. Their rows are the truth, whatever this attempt carried.
    if repeated:
        stored |= await find(connection, table, repeated, model=model)
        if not stored.keys() >= set(repeated):
            raise WorkRefusedError(
                f"PostgreSQL takes rows of {table} and does not keep them: look for a trigger, a rule, "
                "a policy or a unique index that is not the archive's own"
            )
    return stored


async def find(
    connection: Any, table: Table, keys: Sequence[RecordKey], *, model: str | None
) -> dict[RecordKey, StoredRecord]:
    """Return what the archive holds of the keys. One with another content is not among it.

    ``model`` names what makes the vectors of the records; None where no vectors are kept.
    """
    rows = await connection.fetch(FIND[table], *key_columns(keys))
    return {
        key_in(row): StoredRecord(
            row["content_hash"], row["stored_at"], _vector_in(row, model), diverged=row["diverged"]
        )
        for row in rows
    }


async def probe(connection: Any) -> None:
    """Return when a row could be added: the server may be written to, and the role has the rights."""
    for reading in READINGS:
        # Nothing is inserted, and the server still checks everything that an insert needs.
        arrays = len(_BEFORE) + len(reading.columns) + len(_BEHIND) + 2
        await connection.fetch(_INSERT[reading.table], *([] for _ in range(arrays)), timeout=_PROBE_SECONDS)


def _vector_of(record: Record, writes: Mapping[bytes, VectorWrite]) -> VectorWrite:
    if record.text is None:
        return WITHOUT_VECTORS
    return writes.get(record.text.hash, WITHOUT_VECTORS) if record.text.text else WITHOUT_TEXT


def _vector_in(row: Any, model: str | None) -> VectorWrite:
    if model is None or row["text_hash"] is None:
        return WITHOUT_VECTORS  # whatever the outbox has: where no vectors are kept, nobody makes them
    error = row["last_error"] or ""
    match row["state"]:
        case OutboxState.PENDING:
            return VectorWrite(WriteState.PENDING, Reason.OWED, error, model)
        case OutboxState.DROPPED:
            return VectorWrite(WriteState.FAILED, Reason.DROPPED, error, model)
        case OutboxState.FAILED:
            return VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, error, model)
    if row["text_hash"] == NO_TEXT:
        return WITHOUT_TEXT
    return VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model=model)
