"""Records whose vectors are pending, and their rows in the outbox."""

from collections.abc import Sequence
from typing import Any

from datastorage.records.reasons import Reason
from datastorage.records.record import Record
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.storage.connection.database import Database
from datastorage.storage.outbox import Outbox
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, record_of

Identity = tuple[str, int]


def records_of(count: int, *, start: int = 0) -> list[Record]:
    return [
        record_of(audit_record({**AUDIT_SPEC, "message": f"disk {n} is full"}))
        for n in range(start, start + count)
    ]


def hash_of(record: Record) -> bytes:
    assert record.text is not None
    return record.text.hash


def identity_of(record: Record) -> Identity:
    return record.key.uid, record.key.generation


async def add_pending(
    database: Database, records: Sequence[Record], error: str = "", *, due_seconds: float = 0
) -> None:
    """Store records with their vectors pending."""
    writes = {hash_of(r): VectorWrite(WriteState.PENDING, Reason.IN_OUTBOX, error) for r in records}
    await Archive(database).write(records)
    async with database.connection() as connection, connection.transaction():
        await Outbox.add(connection, records, writes, due_seconds=due_seconds)


async def rows_in(owner: Any) -> dict[Identity, tuple[str, int, str | None]]:
    rows = await owner.fetch(
        "SELECT uid, generation, state, attempts, last_error FROM datastorage.vector_outbox"
    )
    return {(str(r["uid"]), r["generation"]): (r["state"], r["attempts"], r["last_error"]) for r in rows}


async def claimed(outbox: Outbox, limit: int = 100) -> set[Identity]:
    async with outbox.claim(limit) as claim:
        return {(row.uid, row.generation) for row in claim.rows}
