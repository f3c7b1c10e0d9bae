"""Writes a harmless record and rolls it back, to find out whether PostgreSQL stores records at all.

The trial takes every step that a batch takes. So it fails for every reason that affects all records of a
table: a missing right, a table that is locked or gone, a trigger that refuses all rows.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from datastorage.errors import TransientError
from datastorage.records.hashes import sha256
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, RecordKey, Table, Text
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.reading.kindreading import Column
from datastorage.resources.reading.registry import reading_of_table
from datastorage.storage import partitions, rows
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, transaction
from datastorage.storage.outbox import Outbox
from datastorage.storage.texts import ADD as ADD_TEXTS
from datastorage.storage.write import distinct_texts

# A server that takes longer than this for one or two rows counts as away.
_SECONDS: Final = 5.0
# Ordinary values satisfy constraints that somebody may have added to the columns; empty ones might not.
_CONTENT: Final = b'{"kind":"Trial","metadata":{},"spec":{}}'
_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)
_BY_TYPE: Final[dict[str, Any]] = {
    "boolean": True,
    "text": "trial",
    "timestamptz": _TIME,
    "double precision": 1.0,
}
_BY_NAME: Final[dict[str, Any]] = {
    "type": "Execution",
    "phase": "Completed",
    "execution_status": "Completed",
    "target_api_version": "v1",
    "target_kind": "Pod",
}
_PENDING: Final = VectorWrite(WriteState.PENDING, Reason.IN_OUTBOX)


class _RollbackError(Exception):
    """Raised to roll back the transaction of a trial."""


class Trial:
    """Distinguishes a fault of the server, or of one table, from a fault of a record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, tables: Sequence[Table] = tuple(Table)) -> None:
        """Check that a harmless record of each table can be stored; the records are rolled back.

        Raises TransientError, and RecordRefusedError if the server refuses these records too.
        """
        records = [_harmless(table) for table in tables]

        async def store(connection: Session) -> None:
            await partitions.ensure(connection, [record.key.created_at for record in records])
            texts = await _add_to_outbox(connection, records)
            for record in records:
                await rows.insert(connection, record.table, [record], texts=texts, writes={}, model=None)
                texts = {}
            raise _RollbackError

        await self._rolled_back(store, f"one record in {' and '.join(tables)}")

    async def write_shared(self) -> None:
        """Check the tables that records of every kind need: those of the texts and the pending vectors.

        Raises as ``write`` does.
        """

        async def store(connection: Session) -> None:
            texts = await _add_to_outbox(connection, [_harmless(Table.AUDIT_RECORDS)])
            await connection.execute(ADD_TEXTS, list(texts), list(texts.values()))
            raise _RollbackError

        await self._rolled_back(store, "one text")

    async def _rolled_back(self, store: Callable[[Session], Awaitable[None]], what: str) -> None:
        try:
            async with (
                asyncio.timeout(_SECONDS),
                self._database.connection() as connection,
                transaction(connection),
            ):
                await store(connection)
        except _RollbackError:
            return
        except TimeoutError as error:
            raise TransientError(f"PostgreSQL took longer than {_SECONDS:g} s for {what}") from error


async def _add_to_outbox(connection: Session, records: Sequence[Record]) -> dict[bytes, str]:
    """Note that the vectors of the records are pending; return their texts."""
    texts = distinct_texts(records)
    await Outbox.add(connection, records, dict.fromkeys(texts, _PENDING), due_seconds=0.0)
    return texts


def _harmless(table: Table) -> Record:
    # Each record has a text of its own, so that two trials never wait for each other.
    words = f"trial {uuid.uuid4()}"
    now = datetime.now(UTC)
    return Record(
        table=table,
        key=RecordKey(str(uuid.uuid4()), 1, now, sha256(b"{}")),
        namespace="trial",
        name="trial",
        content=_CONTENT,
        content_hash=sha256(_CONTENT),
        index=tuple(_value(column) for column in reading_of_table(table).columns),
        text=Text.of(words),
    )


def _value(column: Column) -> Any:
    return _BY_NAME.get(column.name, _BY_TYPE[column.pg_type])
