"""Commits a batch in one transaction: vectors, the outbox, rows.

Rows are stored even if vectors can't be written. Then the transaction adds entries to the outbox, so that the
vectors are written later and none is forgotten.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Self

import asyncpg

from datastorage.errors import GroupRefusedError, IdentifierReusedError, TransientError, WorkRefusedError
from datastorage.records.reasons import Reason
from datastorage.records.record import Claimed, Record, RecordKey, StoredRecord, Table, Via
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.storage import claims, partitions, rows
from datastorage.storage.clock import time_in
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, transaction
from datastorage.storage.outbox import Outbox
from datastorage.storage.texts import ADD as ADD_TEXTS
from datastorage.storage.vectors import VectorTables

# Vectors on another server are written within this time after the rows; then the backfill takes over.
_FOLLOW_SECONDS: Final = 5.0
# Far more time than a working server needs to insert nothing.
_PROBE_SECONDS: Final = 5.0
# The number of records in a full batch.
_MAX_VECTORS: Final = 500
_TOO_MANY: Final = TransientError("PostgreSQL accepts fewer vectors at once at present")


def distinct_texts(records: Iterable[Record]) -> dict[bytes, str]:
    """Return the texts of the records by their hashes, each once, in the order of the hashes."""
    texts = {r.text.hash: r.text.text for r in records if r.text is not None and r.text.text}
    return dict(sorted(texts.items()))


@dataclass(frozen=True, slots=True)
class TextVectors:
    """The distinct texts of a batch, and their vectors as far as they are known before the commit.

    Each text is in ``vectors``, or in ``missing`` with the reason; if no vectors are kept, in neither.
    """

    texts: Mapping[bytes, str]
    vectors: Mapping[bytes, Vector] = field(default_factory=dict)
    missing: Mapping[bytes, VectorWrite] = field(default_factory=dict)

    @classmethod
    def all_missing(cls, records: Iterable[Record], write: VectorWrite) -> Self:
        """Return the texts of the records, with all their vectors missing for the same reason."""
        texts = distinct_texts(records)
        return cls(texts, missing=dict.fromkeys(texts, write))


@dataclass(frozen=True, slots=True)
class VectorTarget:
    """The tables to which the write path writes vectors, and their breaker."""

    tables: VectorTables
    breaker: Breaker
    same_server: bool
    timeout_seconds: float = 3.0
    """The write path waits no longer than this for another server's answer. The backfill may wait longer."""


class Archive:
    """Adds records to PostgreSQL, and looks them up. Every method may be repeated without harm.

    All methods raise TransientError when PostgreSQL can't serve.
    """

    def __init__(
        self, database: Database, *, model: EmbeddingModel | None = None, target: VectorTarget | None = None
    ) -> None:
        """``model`` makes the vectors of the records; None if no vectors are kept.

        Without a ``target`` no vectors are written, and a batch must bring none.
        """
        self._database = database
        self._model = None if model is None else str(model)
        self._target = target
        self._partitions = partitions.KnownPartitions(database)
        # The number of vectors written together with rows. It shrinks after a refusal, and grows again.
        self._max_vectors = _MAX_VECTORS

    async def write(
        self, records: Sequence[Record], given: TextVectors | None = None, *, whole: bool = False
    ) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        A key that exists already keeps its first content, and its stored hash and time are returned. The spec
        is the same in that case; labels and other fields that change without a new generation may differ.

        Raises RecordRefusedError when PostgreSQL refuses the data of at least one row, and with ``whole``
        GroupRefusedError when an identifier belongs to another record; then none is stored.
        If vectors can't be written, that raises nothing.
        """
        given = TextVectors(distinct_texts(records)) if given is None else given
        apart = bool(given.vectors) and self._target is not None and not self._target.same_server
        if given.vectors and not apart:
            await self._look_up_model()
        async with self._database.connection() as connection:
            try:
                stored = await self._commit(connection, records, given, apart=apart, whole=whole)
            except asyncpg.CheckViolationError as error:
                # Only a missing partition raises this error without a constraint's name: the partition of a
                # month that was known here may have been dropped. The records are not at fault.
                if error.constraint_name is not None:
                    raise
                self._partitions.forget()
                stored = await self._commit(connection, records, given, apart=apart, whole=whole)
        answer = [stored[record.key] for record in records]
        return await self._follow(records, answer, given.vectors) if apart else answer

    async def _commit(
        self,
        connection: Session,
        records: Sequence[Record],
        given: TextVectors,
        *,
        apart: bool = False,
        whole: bool = False,
    ) -> dict[RecordKey, StoredRecord]:
        await self._partitions.ensure(connection, (record.key.created_at for record in records))
        claiming = any(record.claim is not None for record in records)
        # A single statement is a transaction of its own, which saves two round trips. What PostgreSQL has not
        # kept is noticed after the statement, and then a group must be rolled back.
        groups = _groups(records)
        single = not (given.vectors or given.missing or claiming or whole) and len(groups) == 1
        async with nullcontext() if single else transaction(connection):
            asked = records
            # A record whose identifier belongs to an earlier one is not stored; that one is the answer.
            claimed: Mapping[RecordKey, Claimed] = {}
            if claiming:
                claimed = await claims.take(connection, records)
            if claimed:
                claimed = await self._not_stored(connection, records, claimed)
                records = [record for record in records if record.key not in claimed]
                groups = _groups(records)
            # The vectors come first, in a savepoint: if they fail, the rows are stored nevertheless.
            writes = dict(given.missing)
            if apart:
                writes |= dict.fromkeys(given.vectors, self._pending(Reason.FOLLOWING))
            else:
                writes |= await self._write_vectors(connection, given.vectors)
            # The outbox comes before the rows, because a row that existed before is read with its entry.
            due_seconds = _FOLLOW_SECONDS if apart else 0.0
            await Outbox.add(connection, records, writes, due_seconds=due_seconds)
            # All texts are added by the first statement, in the same order in all transactions.
            stored: dict[RecordKey, StoredRecord] = {}
            texts = given.texts
            for table, group in groups:
                stored |= await rows.insert(
                    connection, table, group, texts=texts, writes=writes, model=self._model
                )
                texts = {}
            # A ledger would add its entries here: one for each record in ``stored`` that ``is_new``.
            if claimed:
                stored |= await self._holders(connection, claimed)
            if whole:
                _refuse_reused(asked, stored)
        return stored

    async def _not_stored(
        self, connection: Session, records: Sequence[Record], claimed: Mapping[RecordKey, Claimed]
    ) -> Mapping[RecordKey, Claimed]:
        """Return the claims of those records that are not stored, because a claim belongs to an earlier one.

        A request is refused then. But an object was acknowledged when it was created, and leaves the cluster
        after this: it is not stored only if the archive has the same content as the row of an equal request.
        """
        objects = {r.key for r in records if r.via is Via.CLUSTER and r.key in claimed}
        if not objects:
            return claimed
        equal = {key: claimed[key].key for key in objects if claimed[key].same_request}
        # The rows of this batch are added below, in the same transaction.
        present = {record.key for record in records if record.key not in claimed}
        earlier = list(set(equal.values()) - present)
        present |= (await rows.find(connection, Table.AUDIT_RECORDS, earlier, model=self._model)).keys()
        return {
            key: holder
            for key, holder in claimed.items()
            if key not in objects or (holder.same_request and holder.key in present)
        }

    async def _holders(
        self, connection: Session, claimed: Mapping[RecordKey, Claimed]
    ) -> dict[RecordKey, StoredRecord]:
        """Return for each record that was not stored what the archive holds under its identifier."""
        keys = list({holder.key for holder in claimed.values()})
        found = await rows.find(connection, Table.AUDIT_RECORDS, keys, model=self._model)
        # A row may be gone from the archive, by a person's hand: then nothing can be the same as it.
        gone = {
            holder.key: StoredRecord(b"", holder.key.created_at)
            for holder in claimed.values()
            if holder.key not in found
        }
        return {
            key: replace(
                (found | gone)[holder.key],
                claimed=replace(holder, same_request=holder.same_request and holder.key in found),
            )
            for key, holder in claimed.items()
        }

    async def rehearse(self, records: Sequence[Record]) -> None:
        """Raise the error that ``write`` would raise for the rows of the records; store nothing."""
        with suppress(_RollbackError):
            async with self._database.connection() as connection, transaction(connection):
                await self._commit(connection, records, TextVectors(distinct_texts(records)))
                raise _RollbackError

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]:
        """Return what the archive holds for the keys. Rows with another spec have another key."""
        async with self._database.connection() as connection:
            return await rows.find(connection, table, keys, model=self._model)

    async def probe_server(self) -> None:
        """Check that the server accepts writes. This says nothing about the tables of the rows."""
        async with self._database.connection() as connection:
            await connection.fetch(ADD_TEXTS, [], [], timeout=_PROBE_SECONDS)

    async def probe(self) -> None:
        """Check that any record could be stored: the server accepts writes, and the role has the rights."""
        async with self._database.connection() as connection:
            await rows.probe(connection)

    async def time(self) -> float:
        """Return the time by PostgreSQL's clock, in Unix seconds."""
        return await time_in(self._database)

    async def _look_up_model(self) -> None:
        # The look-up has a connection of its own, so it comes before the transaction: a server may end an
        # idle one.
        if self._target is not None and not self._target.tables.is_known:
            with suppress(TransientError):
                await self._target.breaker.attempt(self._target.tables.model_id)

    async def _write_vectors(
        self, connection: Session, vectors: Mapping[bytes, Vector]
    ) -> dict[bytes, VectorWrite]:
        """Write vectors, as many as PostgreSQL accepts now; return the state of each."""
        target = self._target
        if target is None or not vectors:
            return {}
        # Vectors go in the order of their hashes, so that two transactions never wait for each other.
        hashes = sorted(vectors)
        wanted = {key: vectors[key] for key in hashes[: self._max_vectors]}
        writes = dict.fromkeys(hashes[self._max_vectors :], self._unavailable(_TOO_MANY))
        try:
            await target.breaker.attempt(lambda: target.tables.insert_in(connection, wanted))
        except TransientError as error:
            if isinstance(error, WorkRefusedError):
                self._max_vectors = max(1, len(wanted) // 2)
            return writes | dict.fromkeys(wanted, self._unavailable(error))
        self._max_vectors = min(self._max_vectors + self._max_vectors // 8 + 1, _MAX_VECTORS)
        return writes | dict.fromkeys(wanted, self._written())

    async def _follow(
        self, records: Sequence[Record], stored: list[StoredRecord], vectors: Mapping[bytes, Vector]
    ) -> list[StoredRecord]:
        """Write the vectors to their own server, after the rows and the outbox were committed."""
        target = self._target
        assert target is not None
        try:
            await target.breaker.attempt(lambda: _insert_in_time(target, vectors))
        except TransientError as error:
            return _with_vectors(records, stored, dict.fromkeys(vectors, self._unavailable(error)))
        try:
            await Outbox(self._database).remove(
                r for r in records if r.text is not None and r.text.hash in vectors
            )
        except TransientError:
            return stored  # the backfill will find that the vectors exist
        return _with_vectors(records, stored, dict.fromkeys(vectors, self._written()))

    def _written(self) -> VectorWrite:
        return VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model=self._model)

    def _pending(self, reason: Reason, message: str = "") -> VectorWrite:
        return VectorWrite(WriteState.PENDING, reason, message, self._model)

    def _unavailable(self, error: TransientError) -> VectorWrite:
        return self._pending(Reason.VECTOR_STORE_UNAVAILABLE, str(error))


class _RollbackError(Exception):
    """Raised to roll back a transaction."""


def _refuse_reused(records: Sequence[Record], stored: Mapping[RecordKey, StoredRecord]) -> None:
    """Raise GroupRefusedError if an identifier belongs to another record than the one that came with it."""
    reused = {
        place: IdentifierReusedError()
        for place, record in enumerate(records)
        if (claimed := stored[record.key].claimed) is not None and not claimed.same_request
    }
    if reused:
        raise GroupRefusedError("identifiers belong to other records", reused)


def _groups(records: Sequence[Record]) -> list[tuple[Table, Sequence[Record]]]:
    """Return the records by table, and again so that a group has one content of each generation."""
    return [
        (table, group)
        for table in Table
        for group in rows.by_content([record for record in records if record.table is table])
        if group
    ]


async def _insert_in_time(target: VectorTarget, vectors: Mapping[bytes, Vector]) -> None:
    # Without this limit, a statement at a silent server would be given up only after half a minute.
    try:
        async with asyncio.timeout(target.timeout_seconds):
            await target.tables.insert(vectors)
    except TimeoutError as error:
        raise TransientError(f"the vectors' server gave no answer in {target.timeout_seconds:g} s") from error


def _with_vectors(
    records: Sequence[Record], stored: Sequence[StoredRecord], writes: Mapping[bytes, VectorWrite]
) -> list[StoredRecord]:
    return [
        replace(row, vector=writes[r.text.hash]) if r.text is not None and r.text.hash in writes else row
        for r, row in zip(records, stored, strict=True)
    ]
