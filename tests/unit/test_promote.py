"""The promotion: objects whose vectors are written get a new status, each once, and no other is touched."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from datastorage.errors import ClusterUnavailableError, NotServedError, RequestRefusedError
from datastorage.pipeline.register import Register
from datastorage.pipeline.statusqueue import StatusUpdate
from datastorage.records.reasons import Reason
from datastorage.records.record import RecordKey, StoredRecord, Table
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.vectors.promote import Pace, Promotion, PromotionRequests
from harness.objects import TRACE_SPEC, action_trace, audit_record, key_of_body, with_status
from harness.polling import eventually, settle
from tests.support.fakes import STORED_AT, FakeCluster, KeptUpdates
from tests.support.tasks import Spawn

WRITTEN = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="fake/tiny")
FAILED = VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, "not finite", "fake/tiny")
STILL_PENDING = VectorWrite(WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, "does not answer", "fake/tiny")
QUEUED = VectorWrite(WriteState.PENDING, Reason.QUEUED, model="fake/tiny")
LATER = STORED_AT + timedelta(minutes=1)
PENDING = {"writes": {"vector": {"state": "Pending"}}}


class Vectors:
    """The states of the objects' vectors in the archive."""

    def __init__(self, of: Mapping[RecordKey, VectorWrite]) -> None:
        self.of = of

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]:
        assert isinstance(table, Table)
        return {each: StoredRecord(b"h" * 32, STORED_AT, self.of[each]) for each in keys if each in self.of}

    async def time(self) -> float:
        return LATER.timestamp()


def degraded(**metadata: Any) -> dict[str, Any]:
    return with_status(audit_record(**metadata), phase="Degraded", **PENDING)


def stored() -> dict[str, Any]:
    return with_status(audit_record(), phase="Stored", **PENDING)


def recording() -> dict[str, Any]:
    return with_status(action_trace(TRACE_SPEC), phase="Recording", **PENDING)


class Bench:
    """A promotion with fakes around it."""

    def __init__(
        self,
        breaker: Breaker,
        *bodies: Mapping[str, Any],
        vectors: Mapping[RecordKey, VectorWrite] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Without ``vectors``, the vectors of all objects are written."""
        self.cluster = FakeCluster(*bodies)
        self.register = Register()
        self.updates = KeptUpdates()
        self.serving = True
        self.trouble: tuple[Reason, str] | None = None
        self.requests = PromotionRequests(lambda: self.serving, lambda: self.trouble)
        if vectors is None:
            vectors = {key_of_body(body): WRITTEN for body in bodies}
        self.promotion = Promotion(
            cluster=self.cluster, archive=Vectors(vectors), breaker=breaker, register=self.register,
            statuses=self.updates, requests=self.requests, default_ttl_seconds=600, pace=pace or Pace(),
        )  # fmt: skip

    async def promote(self, *, complete: bool = True) -> list[StatusUpdate]:
        """Look at the objects once; return the status updates that this has queued."""
        self.updates.queued.clear()
        promoted = await self.promotion.promote()
        assert (promoted.queued, promoted.complete) == (len(self.updates.queued), complete)
        return list(self.updates.queued)

    @property
    def looks(self) -> int:
        """How often the objects of the kind that is listed last were looked at."""
        return self.cluster.calls.count(("list", "actiontraces", "status.phase=Recording"))


async def test_an_object_with_a_written_vector_is_queued_with_its_status(breaker: Breaker) -> None:
    record, trace = degraded(), recording()
    record["spec"]["ttlSecondsAfterStored"] = 7
    first, second = await Bench(breaker, record, trace).promote()
    assert (first.version.key, second.version.key) == (key_of_body(record), key_of_body(trace))
    assert (first.version.final, first.version.ttl_seconds, first.version.resource_version) == (
        True,
        7,
        "100",
    )
    assert (second.version.final, second.version.ttl_seconds, second.delete_now) == (False, 600, False)
    assert isinstance(first.outcome, StoredRecord)
    assert first.outcome.vector == replace(WRITTEN, at=LATER)  # by the clock that stored_at is of
    # The row keeps its age; only the vector is new.
    assert first.outcome.stored_at == STORED_AT


async def test_a_stored_object_whose_vector_was_made_in_the_background_is_queued_too(
    breaker: Breaker,
) -> None:
    body = stored()
    [only] = await Bench(breaker, body).promote()
    assert isinstance(only.outcome, StoredRecord)
    assert only.outcome.vector == replace(WRITTEN, at=LATER)


async def test_a_stored_object_becomes_degraded_once_its_vector_is_held_up(breaker: Breaker) -> None:
    body = stored()
    bench = Bench(breaker, body, vectors={key_of_body(body): QUEUED})
    assert await bench.promote() == [], "nothing is wrong yet"
    bench.trouble = (Reason.EMBEDDER_UNAVAILABLE, "the model is gone")
    [only] = await bench.promote()
    assert isinstance(only.outcome, StoredRecord)
    assert (only.outcome.vector.reason, only.outcome.vector.message) == bench.trouble
    assert only.outcome.vector.is_held_up


async def test_an_object_whose_vector_has_failed_before_becomes_degraded(breaker: Breaker) -> None:
    body = stored()
    [only] = await Bench(breaker, body, vectors={key_of_body(body): STILL_PENDING}).promote()
    assert isinstance(only.outcome, StoredRecord)
    assert only.outcome.vector.is_held_up


async def test_a_degraded_object_is_not_called_degraded_again(breaker: Breaker) -> None:
    body = degraded()
    bench = Bench(breaker, body, vectors={key_of_body(body): QUEUED})
    bench.trouble = (Reason.VECTOR_STORE_UNAVAILABLE, "away")
    assert await bench.promote() == []


async def test_an_object_with_ttl_0_is_not_deleted_in_place_of_its_status(breaker: Breaker) -> None:
    body = degraded()
    body["spec"]["ttlSecondsAfterStored"] = 0
    [only] = await Bench(breaker, body).promote()
    assert not only.delete_now


async def test_an_object_whose_vector_can_never_be_written_is_queued_too(breaker: Breaker) -> None:
    body = degraded()
    [only] = await Bench(breaker, body, vectors={key_of_body(body): FAILED}).promote()
    assert isinstance(only.outcome, StoredRecord)
    assert only.outcome.vector == replace(FAILED, at=LATER)


async def test_an_object_whose_vector_is_still_pending_is_left(breaker: Breaker) -> None:
    body = degraded()
    assert await Bench(breaker, body, vectors={key_of_body(body): STILL_PENDING}).promote() == []


async def test_an_object_under_way_is_not_queued_twice(breaker: Breaker) -> None:
    body = degraded()
    bench = Bench(breaker, body)
    assert len(await bench.promote()) == 1
    # It has to be looked at again: the status under way may be from before the vector.
    assert await bench.promote(complete=False) == []
    bench.register.done(key_of_body(body), 1)
    assert len(await bench.promote()) == 1


@pytest.mark.parametrize(
    "body",
    [
        with_status(audit_record(), phase="Degraded", writes={"vector": {"state": "Written"}}),
        with_status(audit_record(), phase="Degraded"),
        with_status(action_trace(), phase="Recording", writes={"vector": {"state": "Written"}}),
        with_status(audit_record(), phase="Stored", writes={"vector": {"state": "Written"}}),
    ],
)
async def test_an_object_without_a_pending_vector_is_left(breaker: Breaker, body: dict[str, Any]) -> None:
    assert await Bench(breaker, body).promote() == []


async def test_a_later_generation_is_not_called_stored(breaker: Breaker) -> None:
    """The status is about generation 1, and the object is at generation 2, which is not stored yet."""
    body = degraded(generation=2)
    body["status"]["observedGeneration"] = 1
    assert await Bench(breaker, body).promote() == []


async def test_a_row_that_is_not_there_is_no_reason_to_say_stored(breaker: Breaker) -> None:
    assert await Bench(breaker, degraded(), vectors={}).promote() == []


async def test_an_absent_api_server_makes_a_look_incomplete(breaker: Breaker) -> None:
    bench = Bench(breaker, degraded(), vectors={})
    bench.cluster.failures = [ClusterUnavailableError("away")]
    assert await bench.promote(complete=False) == []


@pytest.mark.parametrize(
    ("error", "complete"), [(NotServedError("404"), True), (RequestRefusedError("forbidden"), False)]
)
async def test_trouble_with_one_kind_does_not_keep_the_other_from_being_promoted(
    breaker: Breaker, error: Exception, *, complete: bool
) -> None:
    bench = Bench(breaker, recording())
    bench.cluster.kind_failures = {AUDIT_RECORD: error}
    assert await bench.promote(complete=complete)


async def test_an_object_that_cannot_be_read_keeps_no_other_from_being_promoted(
    breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    body, bad = degraded(), degraded(name="bad")
    bench = Bench(breaker, bad, body)
    del bad["metadata"]["resourceVersion"]
    [only] = await bench.promote()
    assert only.version.key == key_of_body(body)
    assert [record.object_name for record in caplog.records] == ["bad"]  # type: ignore[attr-defined]


QUICK = Pace(first_pause_seconds=0.0, max_pause_seconds=0.0)


async def test_one_look_follows_many_requests(breaker: Breaker, spawn: Spawn) -> None:
    bench = Bench(breaker, pace=QUICK)
    spawn(bench.promotion.run())
    await eventually(lambda: bench.looks == 1)  # entries that a crash has left
    await settle()
    for _ in range(100):
        bench.requests.request_if_serving()
    await eventually(lambda: bench.looks == 2)
    await settle()
    assert bench.looks == 2, "one look for all"


async def test_a_request_during_a_look_brings_another_one(breaker: Breaker, spawn: Spawn) -> None:
    """The page of its object may have been read before."""
    bench = Bench(breaker, degraded(), pace=QUICK, vectors={})
    gate = bench.cluster.page_gate = asyncio.Semaphore(0)
    spawn(bench.promotion.run())
    await eventually(lambda: bool(bench.cluster.calls))
    bench.requests.request_if_serving()
    gate.release()
    await eventually(lambda: bench.looks == 1)
    gate.release()
    await eventually(lambda: bench.looks == 2)
    await settle()
    assert bench.looks == 2


async def test_a_look_that_was_not_complete_is_repeated(breaker: Breaker, spawn: Spawn) -> None:
    bench = Bench(breaker, pace=QUICK)
    bench.cluster.kind_failures = {AUDIT_RECORD: RequestRefusedError("forbidden")}
    spawn(bench.promotion.run())
    await eventually(lambda: bench.looks >= 3)


async def test_no_status_asks_for_a_look_while_no_vector_can_be_written(
    breaker: Breaker, spawn: Spawn
) -> None:
    bench = Bench(breaker, pace=QUICK)
    spawn(bench.promotion.run())
    await eventually(lambda: bench.looks == 1)
    bench.serving = False
    bench.requests.request_if_serving()
    await settle()
    assert bench.looks == 1
    # A person has dropped one: its object says so even now.
    bench.requests.signal.set()
    await eventually(lambda: bench.looks == 2)
