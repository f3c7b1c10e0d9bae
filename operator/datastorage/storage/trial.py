"""A harmless record that is written and undone: whether PostgreSQL stores records at all.

It takes every step that a batch takes, in both tables, so that it fails where any record would: a missing
right, a table that is locked or gone, a trigger that refuses all rows.
"""

import asyncio
import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from datastorage.errors import TransientError
from datastorage.records.record import Record, RecordKey, Table, Text
from datastorage.storage.archive import Archive
from datastorage.storage.database import Database
from datastorage.storage.outbox import Outbox
from datastorage.storage.sessions import transaction

# A server that takes longer for two rows serves nobody.
_SECONDS: Final = 5.0
# Ordinary values meet rules that somebody has made for the columns; empty ones may not.
_CONTENT: Final = b'{"kind":"Trial","metadata":{},"spec":{}}'
_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)
_INDEX: Final = {
    Table.AUDIT_RECORDS: (
        "Execution", "trial", "Completed", "trial", _TIME, _TIME, *["trial"] * 12,
    ),
    Table.ACTION_TRACES: (
        True, "trial", "trial", "v1", "Pod", "trial", "trial", "trial", "trial", "trial", "trial", 1.0,
        "Completed", _TIME, _TIME, _TIME, 1.0, "trial",
    ),
}  # fmt: skip


class _UndoneError(Exception):
    """Ends the transaction of a trial."""


class Trial:
    """Tells the state of the server from the fault of a record."""

    def __init__(self, database: Database, archive: Archive) -> None:
        self._database = database
        self._archive = archive

    async def write(self) -> None:
        """Return where a harmless record can be stored. Nothing is left of it.

        Raises TransientError, and RecordRefusedError where the server takes exception to this record too.
        """
        try:
            async with asyncio.timeout(_SECONDS), self._database.connection() as connection:
                await self._write(connection)
        except _UndoneError:
            return
        except TimeoutError as error:
            raise TransientError(f"PostgreSQL took longer than {_SECONDS:g} s for one record") from error

    async def _write(self, connection: Any) -> None:
        records = [_harmless(table) for table in Table]
        async with transaction(connection):
            await self._archive.store_in(connection, records)
            await Outbox.add(connection, records, {}, due_seconds=0.0)
            raise _UndoneError


def _harmless(table: Table) -> Record:
    # Each a text of its own: two trials must not wait for each other.
    words = f"trial {uuid.uuid4()}"
    now = datetime.now(UTC)
    return Record(
        table=table,
        key=RecordKey(str(uuid.uuid4()), 1, now, hashlib.sha256(b"{}").digest()),
        namespace="trial",
        name="trial",
        content=_CONTENT,
        content_hash=hashlib.sha256(_CONTENT).digest(),
        index=_INDEX[table],
        text=Text(hashlib.sha256(words.encode()).digest(), words),
    )
