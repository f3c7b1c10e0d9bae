"""The lift: objects whose vectors are paid say so, each once, and nothing else is touched."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from datastorage.errors import ClusterUnavailableError, NotServedError, RequestRefusedError
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Announcement
from datastorage.records.reasons import Reason
from datastorage.records.record import RecordKey, StoredRecord, Table
from datastorage.records.writes import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.vectors.promote import Lift
from harness.objects import TRACE_SPEC, action_trace, audit_record, key_of_body, with_status
from tests.support.fakes import STORED_AT, FakeCluster

WRITTEN = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="fake/tiny")
FAILED = VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, "not finite", "fake/tiny")
OWED = VectorWrite(WriteState.PENDING, Reason.OWED, "does not answer", "fake/tiny")
LATER = STORED_AT + timedelta(minutes=1)
PENDING = {"writes": {"vector": {"state": "Pending"}}}


class Vectors:
    """What the archive says of each object."""

    def __init__(self, of: Mapping[RecordKey, VectorWrite]) -> None:
        self.of = of

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]:
        assert isinstance(table, Table)
        return {each: StoredRecord(b"h" * 32, STORED_AT, self.of[each]) for each in keys if each in self.of}

    async def time(self) -> float:
        return LATER.timestamp()


def degraded(**metadata: Any) -> dict[str, Any]:
    return with_status(audit_record(**metadata), phase="Degraded", **PENDING)


def recording() -> dict[str, Any]:
    return with_status(action_trace(TRACE_SPEC), phase="Recording", **PENDING)


async def lifted(
    breaker: Breaker,
    intake: Intake,
    cluster: FakeCluster,
    vectors: Mapping[RecordKey, VectorWrite],
    *,
    complete: bool = True,
) -> list[Announcement]:
    announced: list[Announcement] = []

    async def announce(announcement: Announcement) -> None:
        announced.append(announcement)

    lift = Lift(
        cluster=cluster, archive=Vectors(vectors), breaker=breaker, intake=intake, announce=announce,
        default_ttl_seconds=600,
    )  # fmt: skip
    result = await lift()
    assert (result.announced, result.complete) == (len(announced), complete)
    return announced


async def test_what_is_paid_is_announced_with_what_its_status_needs(breaker: Breaker, intake: Intake) -> None:
    record, trace = degraded(), recording()
    record["spec"]["ttlSecondsAfterStored"] = 7
    vectors = {key_of_body(record): WRITTEN, key_of_body(trace): WRITTEN}
    first, second = await lifted(breaker, intake, FakeCluster(record, trace), vectors)
    assert (first.key, second.key) == (key_of_body(record), key_of_body(trace))
    assert (first.final, first.ttl_seconds, first.resource_version) == (True, 7, "100")
    assert (second.final, second.ttl_seconds, second.at_once) == (False, 600, False)
    assert isinstance(first.outcome, StoredRecord)
    assert first.outcome.vector == replace(WRITTEN, at=LATER)  # by the clock that stored_at is of
    # The row is as old as it is; only the vector is new.
    assert first.outcome.stored_at == STORED_AT


async def test_what_can_never_be_paid_is_announced_too(breaker: Breaker, intake: Intake) -> None:
    body = degraded()
    [only] = await lifted(breaker, intake, FakeCluster(body), {key_of_body(body): FAILED})
    assert isinstance(only.outcome, StoredRecord)
    assert only.outcome.vector == replace(FAILED, at=LATER)


async def test_what_is_owed_still_is_left(breaker: Breaker, intake: Intake) -> None:
    body = degraded()
    assert await lifted(breaker, intake, FakeCluster(body), {key_of_body(body): OWED}) == []


async def test_what_is_under_way_is_not_announced_twice(breaker: Breaker, intake: Intake) -> None:
    body = degraded()
    vectors, cluster = {key_of_body(body): WRITTEN}, FakeCluster(body)
    assert len(await lifted(breaker, intake, cluster, vectors)) == 1
    # It is to be looked at again: what is under way may be the word of before the payment.
    assert await lifted(breaker, intake, cluster, vectors, complete=False) == []
    intake.settle(key_of_body(body), 1)
    assert len(await lifted(breaker, intake, cluster, vectors)) == 1


@pytest.mark.parametrize(
    "body",
    [
        with_status(audit_record(), phase="Degraded", writes={"vector": {"state": "Written"}}),
        with_status(audit_record(), phase="Degraded"),
        with_status(action_trace(), phase="Recording", writes={"vector": {"state": "Written"}}),
        with_status(audit_record(), phase="Stored", **PENDING),
    ],
)
async def test_what_owes_nothing_is_left(breaker: Breaker, intake: Intake, body: dict[str, Any]) -> None:
    assert await lifted(breaker, intake, FakeCluster(body), {key_of_body(body): WRITTEN}) == []


async def test_a_later_generation_is_not_called_stored(breaker: Breaker, intake: Intake) -> None:
    """The status speaks of generation 1, the object is at 2: nobody has stored that yet."""
    body = degraded(generation=2)
    body["status"]["observedGeneration"] = 1
    assert await lifted(breaker, intake, FakeCluster(body), {key_of_body(body): WRITTEN}) == []


async def test_a_row_that_is_not_there_is_no_reason_to_say_stored(breaker: Breaker, intake: Intake) -> None:
    assert await lifted(breaker, intake, FakeCluster(degraded()), {}) == []


async def test_an_absent_api_server_is_told(breaker: Breaker, intake: Intake) -> None:
    cluster = FakeCluster(degraded())
    cluster.failures = [ClusterUnavailableError("away")]
    assert await lifted(breaker, intake, cluster, {}, complete=False) == []


@pytest.mark.parametrize(
    ("error", "complete"), [(NotServedError("404"), True), (RequestRefusedError("forbidden"), False)]
)
async def test_trouble_with_one_kind_does_not_keep_the_other_from_being_lifted(
    breaker: Breaker, intake: Intake, error: Exception, *, complete: bool
) -> None:
    trace = recording()
    cluster = FakeCluster(trace)
    cluster.kind_failures = {AUDIT_RECORD: error}
    assert await lifted(breaker, intake, cluster, {key_of_body(trace): WRITTEN}, complete=complete)
