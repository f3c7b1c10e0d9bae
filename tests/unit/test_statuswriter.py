"""The status writer: one write per object, tied to the stored version, and a reaction to every refusal."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from datastorage.errors import (
    ClusterUnavailableError,
    NotServedError,
    ObjectChangedError,
    ObjectTooLargeError,
    RequestRefusedError,
)
from datastorage.metrics import Verdict
from datastorage.pipeline.clusterobject import Expiry
from datastorage.pipeline.item import Outcome, Rejection, WorkItem
from datastorage.pipeline.statuswriter import Followers, Pace, StatusWriter
from datastorage.records.reasons import Reason
from datastorage.records.record import Claimed, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.kinds import ACTION_TRACE
from harness.objects import (
    AUDIT_SPEC,
    TRACE_SPEC,
    TTL_SECONDS,
    action_trace,
    audit_record,
    key_of_body,
    kind_of,
    with_status,
)
from harness.polling import eventually
from tests.support.entrance import Entrance
from tests.support.fakes import STORED_AT, FakeCluster
from tests.support.tasks import Spawn

PACE = Pace(concurrency=2, first_retry_seconds=0.0, max_retry_seconds=0.0)
STORED = StoredRecord(b"\x01" * 32, STORED_AT)
FINAL_TRACE = {**TRACE_SPEC, "execution": {"status": "Completed"}}
ON_HOLD = {"datastorage.kubernaut.io/legal-hold": "true"}


class Bench:
    """A status writer with fakes around it, and the intake before it."""

    def __init__(self, entrance: Entrance, spawn: Spawn, *bodies: dict[str, Any], pace: Pace = PACE) -> None:
        self.entrance = entrance
        self.cluster = FakeCluster(*bodies)
        self.scheduled: list[Expiry] = []
        self.abandoned = 0
        self.promotions = 0
        self.refusals: list[RequestRefusedError] = []
        followers = Followers(
            schedule=self.scheduled.append,
            offer=entrance.objects.offer,
            sweep=self._count_abandoned,
            promote=self._count_promotion,
            refused=self.refusals.append,
        )
        writer = StatusWriter(
            cluster=self.cluster, register=entrance.register, statuses=entrance.statuses, followers=followers,
            pace=pace,
        )  # fmt: skip
        spawn(writer.run())

    def _count_abandoned(self) -> None:
        self.abandoned += 1

    def _count_promotion(self) -> None:
        self.promotions += 1

    async def commit(self, body: dict[str, Any], outcome: Outcome = STORED, *, deleted: bool = False) -> None:
        """Take an object the whole way: in, stored, its status written."""
        offer = self.entrance.offer_last_copy if deleted else self.entrance.offer
        assert offer(body) is Verdict.ACCEPTED
        [item] = await self.entrance.take()
        await item.origin.committed(outcome)
        await eventually(lambda: self.entrance.statuses.idle)

    def status(self, body: dict[str, Any]) -> dict[str, Any]:
        metadata = body["metadata"]
        kept = self.cluster.objects[kind_of(body).plural, metadata["namespace"], metadata["name"]]
        return dict(kept.get("status", {}))

    def again(self, body: dict[str, Any]) -> Verdict:
        """Offer the object as its old event would."""
        return self.entrance.offer(body)

    async def taken_in(self) -> WorkItem:
        """Return the one item that was taken in."""
        [item] = await self.entrance.take()
        return item


async def test_a_stored_record_gets_one_patch_and_is_scheduled(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    await bench.commit(body)
    assert [call[0] for call in bench.cluster.calls] == ["patch_status"]
    status = bench.status(body)
    assert status["phase"] == "Stored"
    assert status["recordID"] == body["metadata"]["uid"]
    assert status["contentHash"] == "sha256:" + "01" * 32
    assert status["storedAt"] == "2026-03-05T10:20:31.000Z"
    assert status["expiresAt"] == "2026-03-05T11:20:31.000Z"
    (expiry,) = bench.scheduled
    assert expiry.due == (STORED_AT + timedelta(seconds=TTL_SECONDS)).timestamp()
    # The version after the patch: with the one before it, the deletion would be refused.
    assert expiry.resource_version == "1000"
    assert bench.again(body) is Verdict.DUPLICATE


async def test_ttl_0_is_one_deletion_and_no_patch(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record({**AUDIT_SPEC, "ttlSecondsAfterStored": 0})
    bench = Bench(entrance, spawn, body)
    await bench.commit(body)
    assert [call[0] for call in bench.cluster.calls] == ["delete"]
    assert bench.cluster.objects == {}
    assert bench.scheduled == []
    assert bench.again(body) is Verdict.DUPLICATE


async def test_an_object_whose_request_was_stored_before_it_is_deleted(
    entrance: Entrance, spawn: Spawn
) -> None:
    """With a status, its own row would be missed later, and stored after all."""
    body = audit_record(finalizers=["example.org/keep"])
    bench = Bench(entrance, spawn, body)
    key = replace(key_of_body(body), uid="5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41")
    await bench.commit(body, replace(STORED, claimed=Claimed(key, same_request=True)))
    assert [call[0] for call in bench.cluster.calls] == ["delete"]
    assert bench.scheduled == []
    assert bench.again(body) is Verdict.DUPLICATE


async def test_ttl_0_waits_for_the_end_of_a_trace(entrance: Entrance, spawn: Spawn) -> None:
    body = action_trace({**TRACE_SPEC, "ttlSecondsAfterStored": 0})
    bench = Bench(entrance, spawn, body)
    await bench.commit(body)
    assert bench.status(body)["phase"] == "Recording"


@pytest.mark.parametrize("ttl", [0, 60])
async def test_a_held_object_gets_its_status_and_is_never_scheduled(
    entrance: Entrance, spawn: Spawn, ttl: int
) -> None:
    body = audit_record({**AUDIT_SPEC, "ttlSecondsAfterStored": ttl}, labels=ON_HOLD)
    bench = Bench(entrance, spawn, body)
    await bench.commit(body)
    assert [call[0] for call in bench.cluster.calls] == ["patch_status"]
    assert bench.status(body)["phase"] == "Stored"
    assert bench.scheduled == []


async def test_a_running_trace_is_recording_and_not_scheduled(entrance: Entrance, spawn: Spawn) -> None:
    body = action_trace()
    bench = Bench(entrance, spawn, body)
    await bench.commit(body)
    assert bench.status(body)["phase"] == "Recording"
    assert bench.scheduled == []


async def test_a_rejection_says_why(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    await bench.commit(body, Rejection("the year is out of range"))
    assert bench.status(body)["phase"] == "Rejected"
    assert bench.status(body)["message"] == "the year is out of range"
    assert bench.scheduled == []


async def test_a_deleted_object_needs_no_status(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    await bench.commit(body, deleted=True)
    assert bench.cluster.calls == []
    assert bench.again(body) is Verdict.DUPLICATE


@pytest.mark.parametrize("spec", [TRACE_SPEC, FINAL_TRACE])
async def test_a_generation_that_arrived_meanwhile_is_not_hidden(
    entrance: Entrance, spawn: Spawn, spec: dict[str, Any]
) -> None:
    body = action_trace(spec)
    later = {**body, "metadata": {**body["metadata"], "generation": 2, "resourceVersion": "101"}}
    bench = Bench(entrance, spawn, later)
    await bench.commit(body)
    # The status of the first generation was refused, and the second was looked up and taken in.
    assert bench.status(later) == {}
    assert [call[0] for call in bench.cluster.calls] == ["patch_status", "get"]
    assert (await bench.taken_in()).record.key == key_of_body(later)
    assert bench.scheduled == []


async def test_a_change_since_an_earlier_status_is_taken_in(entrance: Entrance, spawn: Spawn) -> None:
    """The phase Degraded does not lock the spec: it says nothing about a generation that came later."""
    body = action_trace(FINAL_TRACE)
    later = with_status(body, phase="Degraded", expiresAt="2026-03-05T11:00:00Z")
    later["metadata"] = {**body["metadata"], "generation": 2, "resourceVersion": "102"}
    bench = Bench(entrance, spawn, later)
    await bench.commit(body)
    assert entrance.intake.depth == 1
    assert (await bench.taken_in()).record.key == key_of_body(later)
    assert bench.scheduled == []


async def test_another_object_of_the_same_name_is_left_alone(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    successor = audit_record(name=body["metadata"]["name"], resourceVersion="205")
    bench = Bench(entrance, spawn, successor)
    await bench.commit(body)
    assert bench.status(successor) == {}
    assert (await bench.taken_in()).record.key.uid == successor["metadata"]["uid"]


async def test_a_label_set_meanwhile_only_costs_another_round(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    labelled = {**body, "metadata": {**body["metadata"], "labels": {"x": "y"}, "resourceVersion": "101"}}
    bench = Bench(entrance, spawn, labelled)
    await bench.commit(body)
    await (await bench.taken_in()).origin.committed(STORED)
    await eventually(lambda: entrance.statuses.idle)
    assert bench.status(labelled)["phase"] == "Stored", "written at the version of the label"


async def test_a_conflict_with_our_own_earlier_status_ends_there(entrance: Entrance, spawn: Spawn) -> None:
    """The patch succeeded and its answer was lost: the repeat conflicts with the first write."""
    body = audit_record()
    done = with_status({**body, "metadata": {**body["metadata"], "resourceVersion": "101"}}, phase="Stored")
    bench = Bench(entrance, spawn, done)
    await bench.commit(body)
    assert entrance.intake.depth == 0


@pytest.mark.parametrize("spec", [AUDIT_SPEC, {**AUDIT_SPEC, "ttlSecondsAfterStored": 0}])
async def test_a_missing_object_is_settled(entrance: Entrance, spawn: Spawn, spec: dict[str, Any]) -> None:
    body = audit_record(spec)
    bench = Bench(entrance, spawn)
    await bench.commit(body)
    assert bench.again(body) is Verdict.DUPLICATE
    assert bench.scheduled == []


async def test_an_object_that_is_not_served_may_come_back_and_is_not_settled(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [NotServedError("404 page not found")]
    await bench.commit(body)
    assert bench.cluster.named("patch_status") == [body["metadata"]["name"]], "no repeats: others wait behind"
    assert bench.again(body) is Verdict.ACCEPTED


async def test_a_refused_status_is_left_to_a_later_sweep(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [RequestRefusedError("forbidden")] * Pace().max_refusals
    await bench.commit(body)
    assert bench.status(body) == {}
    assert bench.cluster.failures == []
    assert [str(refusal) for refusal in bench.refusals] == ["forbidden"]
    assert bench.again(body) is Verdict.ACCEPTED


async def test_an_api_server_that_refuses_while_it_starts_is_waited_for(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [RequestRefusedError("rules are not loaded yet")] * 3
    await bench.commit(body)
    assert bench.status(body)["phase"] == "Stored"
    assert bench.again(body) is Verdict.DUPLICATE


async def test_a_write_whose_answer_was_lost_is_not_forgotten(entrance: Entrance, spawn: Spawn) -> None:
    """The patch succeeded and its repeat conflicts. The object must still be deleted on time."""
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [ObjectChangedError("changed")]
    key = ("auditrecords", body["metadata"]["namespace"], body["metadata"]["name"])
    bench.cluster.objects[key] = with_status(body, phase="Stored", expiresAt="2026-03-05T11:20:31.000Z")
    await bench.commit(body)
    assert [expiry.ref.uid for expiry in bench.scheduled] == [body["metadata"]["uid"]]


async def test_a_write_is_repeated_while_the_api_server_is_away(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [ClusterUnavailableError("away")] * 2
    await bench.commit(body)
    assert len(bench.cluster.named("patch_status")) == 3
    assert bench.status(body)["phase"] == "Stored"
    assert bench.abandoned == 0


async def test_a_write_that_never_gets_through_is_left_to_the_sweep(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [ClusterUnavailableError("away")] * 1000
    await bench.commit(body)
    assert len(bench.cluster.named("patch_status")) == Pace().max_attempts
    assert bench.abandoned == 1
    assert bench.again(body) is Verdict.ACCEPTED


async def test_an_object_without_room_for_a_status_is_deleted_on_time(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [ObjectTooLargeError("too large")]
    await bench.commit(body)
    (expiry,) = bench.scheduled
    assert expiry.resource_version == body["metadata"]["resourceVersion"]
    assert bench.again(body) is Verdict.DUPLICATE


async def test_a_rejected_object_without_room_for_a_status_is_not_deleted(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [ObjectTooLargeError("too large")]
    await bench.commit(body, Rejection("reason"))
    assert bench.scheduled == []


async def test_a_running_trace_without_room_for_a_status_is_not_deleted(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = action_trace()
    bench = Bench(entrance, spawn, body)
    bench.cluster.failures = [ObjectTooLargeError("too large")]
    await bench.commit(body)
    assert bench.scheduled == []


async def test_ttl_0_with_a_finalizer_is_called_stored_first(entrance: Entrance, spawn: Spawn) -> None:
    """While the deletion waits for the finalizer, a change would be lost; the phase Stored forbids it."""
    body = action_trace({**FINAL_TRACE, "ttlSecondsAfterStored": 0}, finalizers=["example.org/keep"])
    bench = Bench(entrance, spawn, body)
    await bench.commit(body)
    assert [call[0] for call in bench.cluster.calls] == ["patch_status"]
    assert bench.status(body)["phase"] == "Stored"
    assert len(bench.scheduled) == 1


PENDING = StoredRecord(
    b"\x01" * 32, STORED_AT, VectorWrite(WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, "away", "fake/tiny")
)


async def test_an_object_with_a_pending_vector_is_degraded_and_still_deleted_on_time(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    await bench.commit(body, PENDING)
    status = bench.status(body)
    assert (status["phase"], status["writes"]["vector"]["state"]) == ("Degraded", "Pending")
    assert status["expiresAt"] == "2026-03-05T11:20:31.000Z"
    assert len(bench.scheduled) == 1
    # The vector may have been written while the status waited.
    assert bench.promotions == 1


async def test_an_object_whose_vector_is_made_in_the_background_is_stored(
    entrance: Entrance, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    queued = VectorWrite(WriteState.PENDING, Reason.QUEUED, model="fake/tiny")
    await bench.commit(body, replace(PENDING, vector=queued))
    status = bench.status(body)
    assert (status["phase"], status["writes"]["vector"]["state"]) == ("Stored", "Pending")
    assert len(bench.scheduled) == 1
    assert bench.promotions == 1


async def test_a_pending_vector_does_not_keep_an_object_with_ttl_0(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record({**AUDIT_SPEC, "ttlSecondsAfterStored": 0})
    bench = Bench(entrance, spawn, body)
    await bench.commit(body, PENDING)
    assert bench.cluster.objects == {}


async def test_a_promoted_object_says_when_its_vector_came(entrance: Entrance, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    later = STORED_AT + timedelta(seconds=40)
    written = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="fake/tiny", at=later)
    await bench.commit(body, replace(PENDING, vector=written))
    status = bench.status(body)
    assert (status["phase"], status["storedAt"]) == ("Stored", "2026-03-05T10:20:31.000Z")
    assert status["writes"]["vector"] == {
        "state": "Written", "at": "2026-03-05T10:21:11.000Z", "model": "fake/tiny",
    }  # fmt: skip
    # The expiry still counts from the row.
    assert status["expiresAt"] == "2026-03-05T11:20:31.000Z"


@pytest.mark.parametrize("phase", ["Degraded", "Stored"])
async def test_an_own_write_whose_answer_was_lost_is_scheduled_and_its_vector_looked_for(
    entrance: Entrance, spawn: Spawn, phase: str
) -> None:
    body = audit_record()
    bench = Bench(entrance, spawn)
    writes = {"vector": {"state": "Pending"}}
    seen = with_status(body, phase=phase, expiresAt="2026-03-05T11:00:00Z", writes=writes)
    seen["metadata"] = {**body["metadata"], "resourceVersion": "101"}
    bench.cluster.add(seen)
    await bench.commit(body, PENDING)
    [expiry] = bench.scheduled
    assert expiry.resource_version == "101"
    assert bench.promotions == 1


async def test_refused_writes_of_one_kind_keep_no_worker_from_the_other(
    entrance: Entrance, spawn: Spawn
) -> None:
    """Each kind has workers of its own, however many writes of the other one are repeated."""
    bodies = [action_trace() for _ in range(3)]
    record = audit_record()
    waits = Pace(concurrency=2, first_retry_seconds=3600.0, max_retry_seconds=3600.0)
    bench = Bench(entrance, spawn, *bodies, record, pace=waits)
    bench.cluster.refused_patches = {ACTION_TRACE}
    for body in (*bodies, record):
        entrance.offer(body)
    for item in await entrance.take():
        await item.origin.committed(STORED)
    await eventually(lambda: bench.status(record).get("phase") == "Stored")
    assert not entrance.statuses.idle
    assert all(bench.status(body) == {} for body in bodies)


async def test_each_kind_has_workers_of_its_own(entrance: Entrance, spawn: Spawn) -> None:
    record, trace = audit_record(), action_trace()
    bench = Bench(entrance, spawn, record, trace, pace=Pace(concurrency=1))
    await bench.commit(record)
    await bench.commit(trace)
    assert (bench.status(record)["phase"], bench.status(trace)["phase"]) == ("Stored", "Recording")


async def test_an_object_that_cannot_be_read_ends_no_worker(
    entrance: Entrance, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer under the object's name may lack any field."""
    body = audit_record()
    bench = Bench(entrance, spawn, body)
    key = ("auditrecords", body["metadata"]["namespace"], body["metadata"]["name"])
    bench.cluster.objects[key] = {"kind": "AuditRecord", "metadata": {"resourceVersion": "7"}}
    await bench.commit(body)
    assert "can't be read" in caplog.text
    good = audit_record()
    bench.cluster.add(good)
    await bench.commit(good)
    assert bench.status(good)["phase"] == "Stored"
