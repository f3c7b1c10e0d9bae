"""Rejected records: every byte is kept, and those that have a row by now are marked."""

import hashlib
import uuid
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from datastorage.query.cursor import rejected_cursor, rejected_position
from datastorage.records.record import Record, Table
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedCriteria, RejectedRecords
from datastorage.storage.write import Archive
from harness.objects import TRACE_SPEC, action_trace, audit_record, record_of, utc


@pytest.fixture
def rejected(database: Database) -> RejectedRecords:
    """The dead letters under the service role."""
    return RejectedRecords(database)


@pytest.mark.oldest_postgres
async def test_a_rejected_record_is_kept_byte_for_byte(rejected: RejectedRecords, owner: Any) -> None:
    body = action_trace({**TRACE_SPEC, "parameters": {"nul": "\0", "lone": "\ud800", "big": 2**63 - 1}})
    record = record_of(body)
    # Its time is out of the range of the tables, but it is not refused here.
    record = replace(record, key=replace(record.key, created_at=utc("0001-01-02T00:00:00Z")))
    await rejected.reject(record, "some reason")
    await rejected.reject(record, "another reason")
    [row] = await owner.fetch("SELECT * FROM datastorage.rejected_objects")
    assert row["content"] == record.content
    assert row["content_hash"] == hashlib.sha256(record.content).digest()
    assert (row["table_name"], row["namespace"], row["name"], row["reason"]) == (
        "action_traces", "payments", record.name, "some reason",
    )  # fmt: skip
    assert (str(row["uid"]), row["generation"], row["created_at"]) == (
        record.key.uid, 1, record.key.created_at,
    )  # fmt: skip


async def test_one_uid_may_be_refused_once_for_each_generation_and_content(
    rejected: RejectedRecords, owner: Any
) -> None:
    body = action_trace(uid=str(uuid.uuid4()))
    for generation in (1, 2):
        await rejected.reject(
            record_of({**body, "metadata": {**body["metadata"], "generation": generation}}), "reason"
        )
    await rejected.reject(record_of({**body, "spec": {**body["spec"], "correlationID": "other"}}), "reason")
    assert await owner.fetchval("SELECT count(*) FROM datastorage.rejected_objects") == 3


async def test_contents_of_one_moment_are_listed_over_pages(rejected: RejectedRecords, owner: Any) -> None:
    body = action_trace(uid=str(uuid.uuid4()))
    for number in range(5):
        changed = {**body, "spec": {**body["spec"], "parameters": {"number": number}}}
        await rejected.reject(record_of(changed), "reason")
    await owner.execute("UPDATE datastorage.rejected_objects SET rejected_at = '2026-03-05T10:00Z'")
    found: list[bytes] = []
    after = None
    while page := await rejected.list(RejectedCriteria(), after=after, limit=2):
        found += [rejected_record.key.spec_hash for rejected_record in page]
        after = rejected_position(rejected_cursor(page[-1].position))
    assert len(found) == len(set(found)) == 5


async def test_a_mark_goes_with_the_row(archive: Archive, rejected: RejectedRecords, owner: Any) -> None:
    """After a restored backup a record may lose its row, and be rejected a second time."""
    record, other = record_of(audit_record()), record_of(audit_record())
    await rejected.reject(record, "first")
    assert await rejected.find(Table.AUDIT_RECORDS, [record.key, other.key]) == {record.key}
    assert await rejected.resolve([record.key, other.key]) == 0  # it has no row
    await archive.write([record])
    # It is no longer rejected, marked or not, because it has a row.
    assert await rejected.find(Table.AUDIT_RECORDS, [record.key]) == set()
    assert await rejected.resolve([record.key]) == 1
    assert await rejected.resolve([record.key]) == 0
    await rejected.reject(record, "too late: it has a row")
    assert await _letter(owner, record) == (True, "first")
    await owner.execute("DELETE FROM datastorage.audit_records")
    assert await rejected.find(Table.AUDIT_RECORDS, [record.key]) == set()  # tried again, and then
    await rejected.reject(record, "second")
    assert await _letter(owner, record) == (False, "second")
    assert await rejected.find(Table.AUDIT_RECORDS, [record.key]) == {record.key}


async def test_a_locked_table_keeps_no_look_up_for_the_other_waiting(
    rejected: RejectedRecords, owner: Any
) -> None:
    record = record_of(audit_record())
    await rejected.reject(record, "reason")
    await owner.execute("BEGIN; LOCK TABLE datastorage.action_traces IN ACCESS EXCLUSIVE MODE")
    assert await rejected.find(Table.AUDIT_RECORDS, [record.key]) == {record.key}
    await owner.execute("ROLLBACK")


async def _letter(owner: Any, record: Record) -> tuple[bool, str]:
    row = await owner.fetchrow(
        "SELECT resolved_at, reason FROM datastorage.rejected_objects WHERE uid = $1", record.key.uid
    )
    return row["resolved_at"] is not None, row["reason"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE datastorage.rejected_objects SET resolved_at = now()",
        "UPDATE datastorage.rejected_objects SET content = ''",
        "DELETE FROM datastorage.rejected_objects",
    ],
)
async def test_the_service_can_t_remove_a_rejected_record(
    rejected: RejectedRecords, service: Any, statement: str
) -> None:
    await rejected.reject(record_of(audit_record()), "reason")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(statement)
