"""Adds the rows of records and looks them up, on the caller's connection.

The columns come from resources/reading, which knows the meaning of each kind's specs.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from datastorage.errors import WorkRefusedError
from datastorage.records.hashes import NO_TEXT
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.records.vectorwrite import (
    WITHOUT_TEXT,
    WITHOUT_VECTORS,
    OutboxState,
    VectorWrite,
    WriteState,
)
from datastorage.resources.reading.kindreading import SEARCH_VERSION, Reading
from datastorage.resources.reading.registry import READINGS
from datastorage.storage.connection.sessions import Session
from datastorage.storage.keys import key_columns, key_in

# The columns that both tables have, before and after those of the kind, with their types.
_BEFORE: Final[Mapping[str, str]] = {
    "uid": "uuid",
    "generation": "bigint",
    "created_at": "timestamptz",
    "namespace": "text",
    "name": "text",
    "content": "bytea",
    "content_hash": "bytea",
}
_AFTER: Final[Mapping[str, str]] = {
    "text_hash": "bytea",
    "resource_version": "bigint",
    "via": "text",
    "recorded_by": "text",
}
# Far more time than a working server needs to insert nothing.
_PROBE_SECONDS: Final = 5.0


def _insert(reading: Reading) -> str:
    """Return the statement that adds any number of rows of a kind, with texts.

    The arrays are sent in binary, and the plan is made once. A repeated key changes nothing, so that every
    step before this statement can safely run twice. The key contains the hash of the spec, which the server
    computes from the content. So a row that is added although its generation already has one differs in the
    spec, and is marked as diverged. LIMIT makes this look-up use the key; for EXISTS the planner may read the
    whole table into a hash.

    The result has the number of rows that were added, and their time. It lists the keys of diverged rows, and
    of all added rows only if some were not added: sending 500 keys back takes 3 ms.
    """
    types = {
        **_BEFORE,
        **{column.name: column.pg_type for column in reading.columns},
        **_AFTER,
    }
    expressions = {column.name: column.expression for column in reading.columns if column.expression}
    names = ", ".join(types)
    arrays = ", ".join(f"${n}::{pg_type}[]" for n, pg_type in enumerate(types.values(), 1))
    count = len(types)
    return f"""
        WITH texts AS (
            INSERT INTO datastorage.embedding_texts (text_hash, text)
            SELECT * FROM unnest(${count + 1}::bytea[], ${count + 2}::text[]) ON CONFLICT DO NOTHING),
        added AS (
            INSERT INTO datastorage.{reading.table} ({names}, search_version, diverged)
            SELECT {", ".join(expressions.get(name, name) for name in types)}, {SEARCH_VERSION},
                (SELECT true FROM datastorage.{reading.table} AS r WHERE r.uid = rows.uid
                    AND r.generation = rows.generation AND r.created_at = rows.created_at LIMIT 1) IS NOT NULL
            FROM unnest({arrays}) AS rows ({names})
            ON CONFLICT DO NOTHING
            RETURNING uid, generation, created_at, spec_hash, diverged),
        total AS (SELECT count(*) AS added, now() AS stored_at FROM added)
        SELECT total.added, total.stored_at, a.uid, a.generation, a.created_at, a.spec_hash, a.diverged
        FROM total LEFT JOIN added AS a ON a.diverged OR total.added < ${count + 3}::bigint
    """  # noqa: S608  # names of our own


def _values(record: Record) -> tuple[Any, ...]:
    """Return the values of a row, in the order of the columns."""
    key = record.key
    return (
        key.uid, key.generation, key.created_at, record.namespace, record.name, record.content,
        record.content_hash, *record.index, record.text.hash if record.text is not None else None,
        record.resource_version, record.via, record.recorded_by,
    )  # fmt: skip


_INSERT: Final = {reading.table: _insert(reading) for reading in READINGS}
FIND: Final[dict[Table, str]] = {
    table: f"""
        SELECT r.uid, r.generation, r.created_at, r.spec_hash, r.namespace, r.content_hash, r.stored_at,
            r.text_hash, r.diverged, o.state, o.last_error
        FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[])
            AS k (uid, generation, created_at, spec_hash)
        JOIN datastorage.{table} r USING (uid, generation, created_at, spec_hash)
        LEFT JOIN datastorage.vector_outbox o USING (uid, generation, text_hash)
    """  # noqa: S608  # the names of our own tables
    for table in Table
}


def by_content(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Divide records so that no group has two contents of one generation; the first contents come first.

    A row is marked as diverged only beside a row that an earlier statement added. So each group needs a
    statement of its own.
    """
    if len({record.key.uid for record in records}) == len(records):
        return [records]  # nearly always, at almost no cost
    contents: dict[tuple[str, int, datetime], list[bytes]] = {}
    groups: list[list[Record]] = [[]]
    for record in records:
        key = record.key
        known = contents.setdefault((key.uid, key.generation, key.created_at), [])
        if key.spec_hash not in known:
            known.append(key.spec_hash)
        if len(known) > len(groups):
            groups.append([])
        groups[known.index(key.spec_hash)].append(record)
    return [*groups]


async def insert(
    connection: Session,
    table: Table,
    records: Sequence[Record],
    *,
    texts: Mapping[bytes, str],
    writes: Mapping[bytes, VectorWrite],
    model: str | None,
) -> dict[RecordKey, StoredRecord]:
    """Add rows to a table, and ``texts``; return what the table now holds for each record.

    Different contents of one generation have to be inserted one after the other (see ``by_content``).

    ``texts`` are in the order of their hashes, so that two transactions never wait for each other. ``writes``
    holds the state of each text's vector, ``model`` names the embedding model (see ``find``).

    Raises WorkRefusedError if PostgreSQL does not keep the rows, or a key is that of another namespace's row.
    """
    columns = map(list, zip(*map(_values, records), strict=True))
    answer = await connection.fetch(_INSERT[table], *columns, list(texts), list(texts.values()), len(records))
    stored_at, listed = (
        answer[0]["stored_at"],
        {key_in(row): row["diverged"] for row in answer if row["uid"] is not None},
    )
    all_new = answer[0]["added"] == len(records)
    stored = {
        record.key: StoredRecord(
            record.content_hash,
            stored_at,
            _vector_of(record, writes),
            diverged=listed.get(record.key, False),
            is_new=True,
        )
        for record in reversed(records)  # of two records with one key, the first was added
        if all_new or record.key in listed
    }
    if not all_new:
        # Some keys existed before. The archive holds their rows, not the records of this attempt.
        repeated = {record.key: record for record in records if record.key not in stored}
        for row in await connection.fetch(FIND[table], *key_columns(list(repeated))):
            # Clients choose uids: with the same spec in the same microsecond, two processes may make the same
            # key for two namespaces. The row of the other one is no answer for this record.
            if row["namespace"] == repeated[key_in(row)].namespace:
                stored[key_in(row)] = _stored_in(row, model)
        if not stored.keys() >= repeated.keys():
            raise WorkRefusedError(
                f"PostgreSQL accepts rows of {table} and does not keep them: if that lasts, look for a "
                "trigger, a rule, a policy or a unique index that is not the archive's own"
            )
    return stored


async def find(
    connection: Session, table: Table, keys: Sequence[RecordKey], *, model: str | None
) -> dict[RecordKey, StoredRecord]:
    """Return what the archive holds for the keys. Rows with another spec have another key.

    ``model`` is the name of the embedding model; None if no vectors are kept.
    """
    rows = await connection.fetch(FIND[table], *key_columns(keys))
    return {key_in(row): _stored_in(row, model) for row in rows}


async def probe(connection: Session) -> None:
    """Check that a row could be added: the server accepts writes, and the role has the rights."""
    for reading in READINGS:
        # Nothing is inserted, but the server checks everything that an insert needs.
        arrays = len(_BEFORE) + len(reading.columns) + len(_AFTER) + 2
        empty: list[list[Any]] = [[] for _ in range(arrays)]
        await connection.fetch(_INSERT[reading.table], *empty, 0, timeout=_PROBE_SECONDS)


def _vector_of(record: Record, writes: Mapping[bytes, VectorWrite]) -> VectorWrite:
    if record.text is None:
        return WITHOUT_VECTORS
    return writes.get(record.text.hash, WITHOUT_VECTORS) if record.text.text else WITHOUT_TEXT


def _stored_in(row: Any, model: str | None) -> StoredRecord:
    return StoredRecord(
        row["content_hash"], row["stored_at"], _vector_in(row, model), diverged=row["diverged"]
    )


def _vector_in(row: Any, model: str | None) -> VectorWrite:
    if model is None or row["text_hash"] is None:
        # An entry in the outbox does not matter here: where no vectors are kept, nothing makes them.
        return WITHOUT_VECTORS
    error = row["last_error"] or ""
    match row["state"]:
        case OutboxState.PENDING:
            reason = Reason.IN_OUTBOX if error else Reason.QUEUED
            return VectorWrite(WriteState.PENDING, reason, error, model)
        case OutboxState.DROPPED:
            return VectorWrite(WriteState.FAILED, Reason.DROPPED, error, model)
        case OutboxState.FAILED:
            return VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, error, model)
    if row["text_hash"] == NO_TEXT:
        return WITHOUT_TEXT
    return VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model=model)
