"""Identifiers that clients choose: one record each, whatever comes with it, and whenever."""

import asyncio
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline.rejectedretry import Retry
from datastorage.records.record import Record, StoredRecord
from datastorage.resources.reading.requestrecord import record_of_request
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedCriteria, RejectedRecords
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, record_of

NOW = datetime(2026, 3, 5, 10, 20, 30, 123456, tzinfo=UTC)


def sent(
    uid: str | None = None,
    *,
    key: str | None = None,
    at: datetime = NOW,
    namespace: str = "payments",
    namespace_created_at: datetime | None = None,
    **spec: Any,
) -> Record:
    """Return the record of a request."""
    metadata = {"namespace": namespace, **({} if uid is None else {"uid": uid})}
    body = {"metadata": metadata, "spec": {**AUDIT_SPEC, **spec}}
    return record_of_request(
        body, recorded_by="robot", idempotency_key=key, namespace_created_at=namespace_created_at, now=at,
        with_text=False,
    )  # fmt: skip


async def rows(owner: Any) -> int:
    count: int = await owner.fetchval("SELECT count(*) FROM datastorage.audit_records")
    return count


@pytest.mark.oldest_postgres
async def test_a_repeated_request_finds_its_record_in_another_month(archive: Archive, owner: Any) -> None:
    uid = str(uuid.uuid4())
    [first] = await archive.write([sent(uid)])
    [again] = await archive.write([sent(uid, at=NOW + timedelta(days=90))])
    assert (first.is_new, first.claimed) == (True, None)
    assert again.claimed is not None
    assert (again.claimed.key, again.claimed.same_request) == (sent(uid).key, True)
    assert (again.stored_at, again.content_hash) == (first.stored_at, first.content_hash)
    assert await rows(owner) == 1


async def test_an_identifier_is_taken_for_another_content(archive: Archive, owner: Any) -> None:
    await archive.write([sent(key="k")])
    [other] = await archive.write([sent(key="k", phase="Failed")])
    assert other.claimed is not None
    assert not other.claimed.same_request
    assert await rows(owner) == 1


async def test_an_identifier_counts_in_its_namespace(archive: Archive, owner: Any) -> None:
    uid = str(uuid.uuid4())
    # At the same moment, with the same spec: only the namespace differs.
    here, there = sent(uid), sent(uid, namespace="shop", at=NOW + timedelta(microseconds=1))
    stored = await archive.write([here, there])
    assert [row.claimed for row in stored] == [None, None]
    assert await rows(owner) == 2


async def test_an_identifier_of_an_earlier_namespace_is_free(archive: Archive, owner: Any) -> None:
    uid = str(uuid.uuid4())
    earlier, later = NOW - timedelta(days=9), NOW + timedelta(days=1)
    await archive.write([sent(uid, namespace_created_at=earlier)])
    new = sent(uid, at=later, namespace_created_at=later, phase="Failed")
    [stored] = await archive.write([new])
    assert stored.claimed is None
    [again] = await archive.write([sent(uid, at=later, namespace_created_at=later)])
    assert again.claimed is not None
    assert (again.claimed.key, again.claimed.same_request) == (new.key, False)
    assert await rows(owner) == 2


async def test_of_one_identifier_twice_in_a_batch_the_first_is_stored(archive: Archive, owner: Any) -> None:
    batch = [sent(key="k"), sent(key="k"), sent(key="k", phase="Failed"), record_of(audit_record())]
    stored = await archive.write(batch)
    assert [row.claimed and row.claimed.same_request for row in stored] == [None, True, False, None]
    assert {row.claimed.key for row in stored if row.claimed} == {batch[0].key}
    assert await rows(owner) == 2


async def test_of_racing_requests_one_is_stored(archive: Archive, owner: Any) -> None:
    keys = [f"key-{n}" for n in range(20)]

    async def send(order: int) -> list[StoredRecord]:
        # In opposite orders, so that two transactions would wait for each other.
        return await archive.write([sent(key=key) for key in keys[:: 1 if order % 2 else -1]])

    answers = [row for batch in await asyncio.gather(*map(send, range(4))) for row in batch]
    assert Counter(row.claimed is None for row in answers) == {True: 20, False: 60}
    assert await rows(owner) == 20


async def test_a_commit_that_is_tried_again_is_no_repeated_request(archive: Archive, owner: Any) -> None:
    record = sent(key="k")
    await archive.write([record])
    [again] = await archive.write([record])  # the answer of the first commit was lost
    assert again.claimed is None
    assert await rows(owner) == 1


@pytest.mark.oldest_postgres
async def test_a_record_with_the_key_of_another_namespace_is_not_taken_for_it(
    archive: Archive, owner: Any
) -> None:
    """Two processes may receive the same uid and spec in the same microsecond."""
    uid = str(uuid.uuid4())
    await archive.write([sent(uid)])
    for batch in ([sent(uid, namespace="shop")], [sent(), sent(uid, namespace="shop")]):
        with pytest.raises(WorkRefusedError, match="does not keep"):
            await archive.write(batch)
    again = sent(uid, namespace="shop", at=NOW + timedelta(microseconds=1))
    [stored] = await archive.write([again])
    assert (stored.is_new, stored.claimed) == (True, None)
    # The one that still waits is not stored beside it.
    [waiting] = await archive.write([sent(uid, namespace="shop")])
    assert waiting.claimed is not None
    assert waiting.claimed.key == again.key
    found = await owner.fetch("SELECT namespace FROM datastorage.audit_records ORDER BY namespace")
    assert [row["namespace"] for row in found] == ["payments", "shop"]


async def test_an_identifier_is_free_if_its_record_was_not_stored(archive: Archive, owner: Any) -> None:
    await owner.execute("ALTER TABLE datastorage.audit_records ADD CHECK (phase <> 'Failed')")
    with pytest.raises(WorkRefusedError):
        await archive.write([sent(key="k", phase="Failed")])
    [stored] = await archive.write([sent(key="k")])
    assert stored.claimed is None


async def test_the_sender_is_in_its_columns(archive: Archive, owner: Any) -> None:
    record = sent()
    await archive.write([record, record_of(audit_record())])
    found = await owner.fetch("SELECT via, recorded_by FROM datastorage.audit_records ORDER BY via")
    assert [(row["via"], row["recorded_by"]) for row in found] == [("api", "robot"), ("cluster", None)]


async def test_a_rejected_request_is_stored_once_and_keeps_its_sender(
    archive: Archive, database: Database, owner: Any
) -> None:
    rejected, record = RejectedRecords(database), sent(key="k")
    for again in (record, record, sent(key="k", at=NOW + timedelta(seconds=1))):
        await rejected.reject(again, "the value is out of range")
    # The same request is not stored beside the kept bytes, from which the record may be stored later.
    [early] = await archive.write([sent(key="k", at=NOW + timedelta(seconds=2))])
    assert early.claimed is not None
    assert not early.claimed.same_request
    progress = await Retry(rejected=rejected, store=archive.write, with_texts=False).run(RejectedCriteria())
    assert (progress.stored, progress.refused) == (1, 0)
    [late] = await archive.write([sent(key="k", at=NOW + timedelta(seconds=3))])
    assert late.claimed is not None
    assert late.claimed.same_request
    [row] = await owner.fetch("SELECT via, recorded_by FROM datastorage.audit_records")
    assert (row["via"], row["recorded_by"]) == ("api", "robot")


async def test_a_rejected_record_does_not_take_the_place_of_another_namespace(database: Database) -> None:
    rejected, uid = RejectedRecords(database), str(uuid.uuid4())
    await rejected.reject(sent(uid), "the value is out of range")
    with pytest.raises(RecordRefusedError, match="another namespace"):
        await rejected.reject(sent(uid, namespace="shop"), "the value is out of range")


async def test_a_rejected_record_does_not_take_the_place_of_one_of_a_later_namespace(
    database: Database,
) -> None:
    rejected, uid, later = RejectedRecords(database), str(uuid.uuid4()), NOW + timedelta(days=1)
    await rejected.reject(sent(uid, namespace_created_at=NOW), "the value is out of range")
    with pytest.raises(RecordRefusedError, match="another namespace"):
        await rejected.reject(sent(uid, at=later, namespace_created_at=later), "the value is out of range")
