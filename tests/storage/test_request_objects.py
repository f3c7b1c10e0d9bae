"""Objects that stand for requests take their claims: one record, and nothing acknowledged is lost."""

import asyncio
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from datastorage.pipeline.rejectedretry import Retry
from datastorage.records.hashes import sha256
from datastorage.records.record import Record
from datastorage.resources.reading.requestobject import claim_of, name_of
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedCriteria, RejectedRecords
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, record_of
from tests.storage.test_claims import NOW, rows, sent


def standing(key: str = "k", **spec: Any) -> Record:
    """Return the record of an object that stands for a request."""
    body = audit_record(
        {**AUDIT_SPEC, **spec},
        name=name_of(sha256(f"key:{key}".encode())),
        uid=str(uuid.uuid4()),
    )
    record = replace(record_of(body), claim=claim_of(body))
    assert record.claim is not None
    return record


async def test_an_object_takes_the_claim_of_its_request(archive: Archive, owner: Any) -> None:
    record = standing()
    [stored] = await archive.write([record])
    assert (stored.is_new, stored.claimed) == (True, None)
    [again] = await archive.write([record])  # the answer of the first commit was lost
    assert (again.is_new, again.claimed) == (False, None)
    [repeat] = await archive.write([sent(key="k", at=NOW + timedelta(days=90))])
    assert repeat.claimed is not None
    assert (repeat.claimed.key, repeat.claimed.same_request) == (record.key, True)
    [other] = await archive.write([sent(key="k", phase="Failed")])
    assert other.claimed is not None
    assert not other.claimed.same_request
    assert await rows(owner) == 1


async def test_an_object_whose_request_is_stored_gets_no_row(archive: Archive, owner: Any) -> None:
    request = sent(key="k")
    await archive.write([request])
    [stored, ordinary] = await archive.write([standing(), record_of(audit_record())])
    assert stored.claimed is not None
    assert (stored.claimed.key, stored.claimed.same_request, stored.is_new) == (request.key, True, False)
    assert (ordinary.claimed, ordinary.is_new) == (None, True)
    assert await rows(owner) == 2


@pytest.mark.parametrize("object_first", [True, False])
async def test_of_both_in_one_batch_one_is_stored(
    archive: Archive, owner: Any, *, object_first: bool
) -> None:
    batch = [standing(), sent(key="k")]
    stored = await archive.write(batch if object_first else batch[::-1])
    assert sorted(row.claimed is None for row in stored) == [False, True]
    assert all(row.claimed.same_request for row in stored if row.claimed is not None)
    assert await rows(owner) == 1


async def test_of_racing_objects_and_requests_one_is_stored(archive: Archive, owner: Any) -> None:
    keys = [f"key-{n}" for n in range(20)]
    batches = [[standing(key) for key in keys], [sent(key=key) for key in reversed(keys)]]
    answers = await asyncio.gather(*(archive.write(batch) for batch in batches))
    assert sum(row.claimed is None for batch in answers for row in batch) == 20
    assert await rows(owner) == 20


async def test_an_object_with_another_content_is_stored_without_the_claim(
    archive: Archive, owner: Any
) -> None:
    """It was acknowledged too. A request with another content is refused, but an object can't be."""
    request, other = sent(key="k"), standing(phase="Failed")
    await archive.write([request])
    for _ in range(2):
        [stored] = await archive.write([other])
        assert stored.claimed is None
    both = await archive.write([standing("b"), standing("b", phase="Failed")])
    assert [row.claimed for row in both] == [None, None]
    [again] = await archive.write([sent(key="k")])
    assert again.claimed is not None
    assert (again.claimed.key, again.claimed.same_request) == (request.key, True)
    assert await rows(owner) == 4


async def test_an_object_is_stored_if_the_row_of_its_request_is_gone(archive: Archive, owner: Any) -> None:
    await archive.write([sent(key="k")])
    await owner.execute("DELETE FROM datastorage.audit_records")
    [stored] = await archive.write([standing()])
    assert (stored.claimed, stored.is_new) == (None, True)
    assert await rows(owner) == 1


async def test_a_rejected_object_is_kept_whoever_has_its_identifier(
    archive: Archive, database: Database, owner: Any
) -> None:
    rejected, record = RejectedRecords(database), standing(phase="Failed")
    await archive.write([sent(key="k")])
    for _ in range(2):
        await rejected.reject(record, "the value is out of range")
    assert await rejected.find(record.table, [record.key]) == {record.key}
    progress = await Retry(rejected=rejected, store=archive.write, with_texts=False).run(RejectedCriteria())
    assert (progress.stored, progress.refused) == (1, 0)
    assert await rows(owner) == 2
