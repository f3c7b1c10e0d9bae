"""The statements that add to the archive and confirm what it holds."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from datastorage.errors import WorkRefusedError
from datastorage.records.hashes import NO_TEXT
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.records.writes import WITHOUT_TEXT, WITHOUT_VECTORS, VectorWrite, WriteState
from datastorage.storage.database import Database
from datastorage.storage.keys import key_columns, key_in
from datastorage.storage.sessions import transaction

# One statement stores any number of rows: the arrays travel in binary, and the plan is made once.
# A repeat of a key changes nothing, which is what makes every step before it safe to run twice. The key has
# the hash of the spec, which the server makes of the content: a row that is added although its generation has
# one says something else, and is marked. LIMIT keeps each of these look-ups one of the key; for EXISTS the
# planner may read the whole table into a hash. The statement answers with the number of new rows, of marked
# ones, and with the time that stored_at got.
# The texts come with the rows, each once and in order, so that two transactions never wait for each other.
_INSERT: Final[dict[Table, str]] = {
    Table.AUDIT_RECORDS: """
        WITH texts AS (
            INSERT INTO datastorage.embedding_texts (text_hash, text)
            SELECT * FROM unnest($28::bytea[], $29::text[]) ON CONFLICT DO NOTHING),
        stored AS (
            INSERT INTO datastorage.audit_records (
                uid, generation, created_at, namespace, name, content, content_hash,
                type, action, phase, correlation_id, start_time, end_time, severity, environment, cluster,
                actor_kind, actor_name, resource_api_version, resource_kind, resource_namespace,
                resource_name, resource_uid, alert_fingerprint, search, text_hash, resource_version, diverged)
            SELECT uid, generation, created_at, namespace, name, content, content_hash,
                type, action, phase, correlation_id, start_time, end_time, severity, environment, cluster,
                actor_kind, actor_name, resource_api_version, resource_kind, resource_namespace,
                resource_name, resource_uid, alert_fingerprint,
                pg_catalog.to_tsvector('english'::regconfig, search), text_hash, resource_version,
                (SELECT true FROM datastorage.audit_records AS r WHERE r.uid = rows.uid
                    AND r.generation = rows.generation AND r.created_at = rows.created_at LIMIT 1) IS NOT NULL
            FROM unnest(
                $1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::bytea[], $7::bytea[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[],
                $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],
                $21::text[], $22::text[], $23::text[], $24::text[], $25::text[], $26::bytea[],
                $27::bigint[])
            AS rows (
                uid, generation, created_at, namespace, name, content, content_hash,
                type, action, phase, correlation_id, start_time, end_time, severity, environment, cluster,
                actor_kind, actor_name, resource_api_version, resource_kind, resource_namespace,
                resource_name, resource_uid, alert_fingerprint, search, text_hash, resource_version)
            ON CONFLICT DO NOTHING
            RETURNING diverged)
        SELECT count(*) AS inserted, count(*) FILTER (WHERE diverged) AS diverged, now() AS stored_at
        FROM stored
    """,
    Table.ACTION_TRACES: """
        WITH texts AS (
            INSERT INTO datastorage.embedding_texts (text_hash, text)
            SELECT * FROM unnest($28::bytea[], $29::text[]) ON CONFLICT DO NOTHING),
        stored AS (
            INSERT INTO datastorage.action_traces (
                uid, generation, created_at, namespace, name, content, content_hash,
                final, correlation_id, action_type, target_api_version, target_kind, target_namespace,
                target_name, alert_name, alert_severity, alert_fingerprint, model_name, model_confidence,
                execution_status, start_time, end_time, assessed_at, effectiveness_score, search, text_hash,
                resource_version, diverged)
            SELECT uid, generation, created_at, namespace, name, content, content_hash,
                final, correlation_id, action_type, target_api_version, target_kind, target_namespace,
                target_name, alert_name, alert_severity, alert_fingerprint, model_name, model_confidence,
                execution_status, start_time, end_time, assessed_at, effectiveness_score,
                pg_catalog.to_tsvector('english'::regconfig, search), text_hash, resource_version,
                (SELECT true FROM datastorage.action_traces AS r WHERE r.uid = rows.uid
                    AND r.generation = rows.generation AND r.created_at = rows.created_at LIMIT 1) IS NOT NULL
            FROM unnest(
                $1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::bytea[], $7::bytea[],
                $8::boolean[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
                $15::text[], $16::text[], $17::text[], $18::text[], $19::double precision[], $20::text[],
                $21::timestamptz[], $22::timestamptz[], $23::timestamptz[], $24::double precision[],
                $25::text[], $26::bytea[], $27::bigint[])
            AS rows (
                uid, generation, created_at, namespace, name, content, content_hash,
                final, correlation_id, action_type, target_api_version, target_kind, target_namespace,
                target_name, alert_name, alert_severity, alert_fingerprint, model_name, model_confidence,
                execution_status, start_time, end_time, assessed_at, effectiveness_score, search, text_hash,
                resource_version)
            ON CONFLICT DO NOTHING
            RETURNING diverged)
        SELECT count(*) AS inserted, count(*) FILTER (WHERE diverged) AS diverged, now() AS stored_at
        FROM stored
    """,
}
_FIND: Final[dict[Table, str]] = {
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
_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_ENSURE_PARTITIONS: Final = "SELECT datastorage.ensure_partitions($1)"
# How many arrays each of the inserts takes.
_ARRAYS_OF: Final = {sql: sql.count("$") for sql in _INSERT.values()}
# Far more than a server that serves needs for nothing.
_PROBE_SECONDS: Final = 5.0
# How many months ahead of now partitions are kept in readiness.
_MONTHS_AHEAD: Final = 2

Companion = Callable[[Any], Awaitable[Mapping[bytes, VectorWrite]]]
"""Does its part on the connection of the rows' transaction; tells what became of each text's vector."""


class Archive:
    """Adds records to PostgreSQL. Every method may be repeated without harm.

    All methods raise TransientError when PostgreSQL can't serve.
    """

    def __init__(self, database: Database, *, model: str | None = None) -> None:
        """``model`` names what makes the vectors of the records; None where none are kept."""
        self._database = database
        self._model = model
        self._known_months: set[tuple[int, int]] = set()
        self._known_in = database.generation

    async def store(
        self, records: Sequence[Record], companion: Companion | None = None
    ) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        A key that is there already keeps its first content, and its stored hash and time are returned. The
        spec is the same then; what may differ is what changes without a generation, such as labels.
        What ``companion`` does becomes part of the transaction.

        Raises RecordRefusedError when PostgreSQL refuses the data of at least one; then none is stored.
        """
        async with self._database.connection() as connection:
            try:
                stored = await self._store(connection, records, companion)
            except asyncpg.CheckViolationError as error:
                # Only a missing partition comes without a constraint's name: retention may have dropped a
                # month since it was last seen here. That is no fault of the records.
                if error.constraint_name is not None:
                    raise
                self._known_months.clear()
                stored = await self._store(connection, records, companion)
            return [stored[record.key] for record in records]

    async def store_in(self, connection: Any, records: Sequence[Record]) -> None:
        """Store records of both tables within a transaction of the caller, which may be undone."""
        for time in {record.key.created_at for record in records}:
            await connection.execute(_ENSURE_PARTITIONS, time)
        for table in Table:
            await self._insert(connection, table, [r for r in records if r.table is table], {})

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]:
        """Return what the archive holds of the keys. One with another content is not among it."""
        async with self._database.connection() as connection:
            return await self._find(connection, table, keys)

    async def probe(self) -> None:
        """Return when a record could be stored: the server may be written to, and the role has the rights."""
        async with self._database.connection() as connection:
            for sql, arrays in _ARRAYS_OF.items():
                # Nothing is inserted, and everything that an insert needs is needed all the same.
                await connection.fetchrow(sql, *([] for _ in range(arrays)), timeout=_PROBE_SECONDS)

    async def time(self) -> float:
        """Return what PostgreSQL's clock says, in Unix seconds."""
        async with self._database.connection() as connection:
            return float(await connection.fetchval(_TIME))

    async def prepare_partitions(self) -> None:
        """Make the partitions of this month and the coming ones, before the first record needs them."""
        async with self._database.connection() as connection:
            now = datetime.fromtimestamp(await connection.fetchval(_TIME), UTC)
            months = [now.year * 12 + now.month - 1 + ahead for ahead in range(_MONTHS_AHEAD + 1)]
            for month in months:
                await connection.execute(
                    _ENSURE_PARTITIONS, datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
                )

    async def _store(
        self, connection: Any, records: Sequence[Record], companion: Companion | None
    ) -> dict[RecordKey, StoredRecord]:
        await self._ensure_partitions(connection, (record.key.created_at for record in records))
        by_table = {table: [record for record in records if record.table is table] for table in Table}
        groups = {table: rows for table, rows in by_table.items() if rows}
        if len(groups) == 1 and companion is None:
            # A single statement is a transaction of its own, and spares two round trips.
            [(table, rows)] = groups.items()
            return await self._insert(connection, table, rows, {})
        stored: dict[RecordKey, StoredRecord] = {}
        async with transaction(connection):
            vectors = await companion(connection) if companion is not None else {}
            for table, rows in groups.items():
                stored |= await self._insert(connection, table, rows, vectors)
        return stored

    async def _ensure_partitions(self, connection: Any, times: Iterable[datetime]) -> None:
        if self._known_in != self._database.generation:  # it may be another database by now
            self._known_in = self._database.generation
            self._known_months.clear()
        missing = {(time.year, time.month): time for time in times}
        for month in missing.keys() - self._known_months:
            await connection.execute(_ENSURE_PARTITIONS, missing[month])
            self._known_months.add(month)

    async def _insert(
        self,
        connection: Any,
        table: Table,
        records: Sequence[Record],
        vectors: Mapping[bytes, VectorWrite],
    ) -> dict[RecordKey, StoredRecord]:
        rows = (
            (
                r.key.uid, r.key.generation, r.key.created_at, r.namespace, r.name, r.content, r.content_hash,
                *r.index, r.text.hash if r.text is not None else None, r.resource_version,
            )
            for r in records
        )  # fmt: skip
        texts = distinct_texts(records)
        outcome = await connection.fetchrow(
            _INSERT[table], *map(list, zip(*rows, strict=True)), list(texts), list(texts.values())
        )
        if outcome["inserted"] == len(records) and not outcome["diverged"]:
            return {
                r.key: StoredRecord(r.content_hash, outcome["stored_at"], _vector_of(r, vectors), is_new=True)
                for r in records
            }
        # Some keys were there before. Their rows are the truth, whatever this attempt carried.
        found = await self._find(connection, table, [record.key for record in records])
        if any(record.key not in found for record in records):
            raise WorkRefusedError(
                f"PostgreSQL takes rows of {table} and does not keep them: look for a trigger, a rule, "
                "a policy or a unique index that is not the archive's own"
            )
        for record in records:
            row = found[record.key]
            if row.stored_at == outcome["stored_at"]:
                found[record.key] = replace(row, vector=_vector_of(record, vectors), is_new=True)
        return found

    async def _find(
        self, connection: Any, table: Table, keys: Sequence[RecordKey]
    ) -> dict[RecordKey, StoredRecord]:
        rows = await connection.fetch(_FIND[table], *key_columns(keys))
        return {
            key_in(row): StoredRecord(
                row["content_hash"], row["stored_at"], self._vector_in(row), diverged=row["diverged"]
            )
            for row in rows
        }

    def _vector_in(self, row: Any) -> VectorWrite:
        if self._model is None or row["text_hash"] is None:
            return WITHOUT_VECTORS  # whatever the outbox has: where no vectors are kept, nobody makes them
        if row["state"] == "pending":
            return VectorWrite(WriteState.PENDING, Reason.OWED, row["last_error"] or "", self._model)
        if row["state"] is not None:
            reason = Reason.DROPPED if row["state"] == "dropped" else Reason.EMBEDDING_REFUSED
            return VectorWrite(WriteState.FAILED, reason, row["last_error"] or "", self._model)
        if row["text_hash"] == NO_TEXT:
            return WITHOUT_TEXT
        return VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model=self._model)


def distinct_texts(records: Iterable[Record]) -> dict[bytes, str]:
    """Return the texts of the records by their hashes, each once, in the order of the hashes."""
    texts = {r.text.hash: r.text.text for r in records if r.text is not None and r.text.text}
    return dict(sorted(texts.items()))


def _vector_of(record: Record, vectors: Mapping[bytes, VectorWrite]) -> VectorWrite:
    if record.text is not None and not record.text.text:
        return WITHOUT_TEXT
    return vectors.get(record.text.hash, WITHOUT_VECTORS) if record.text is not None else WITHOUT_VECTORS
