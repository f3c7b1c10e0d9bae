"""The status writer: one write an object, tied to what was stored, and an answer to every refusal."""

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
from datastorage.pipeline import statuswriter as statuswriter_module
from datastorage.pipeline.intake import Intake, Verdict
from datastorage.pipeline.item import Expiry, Outcome, Rejection
from datastorage.pipeline.statuswriter import StatusWriter
from datastorage.records.reasons import Reason
from datastorage.records.record import StoredRecord
from datastorage.records.writes import VectorWrite, WriteState
from harness.objects import (
    AUDIT_SPEC,
    TRACE_SPEC,
    TTL_SECONDS,
    action_trace,
    audit_record,
    item_of,
    key_of_body,
    kind_of,
    with_status,
)
from harness.polling import eventually
from tests.support.fakes import STORED_AT, FakeCluster
from tests.unit.conftest import Spawn

STORED = StoredRecord(b"\x01" * 32, STORED_AT)
FINAL_TRACE = {**TRACE_SPEC, "execution": {"status": "Completed"}}
ON_HOLD = {"datastorage.kubernaut.io/legal-hold": "true"}


class Bench:
    """A status writer with all that it talks to."""

    def __init__(self, intake: Intake, spawn: Spawn, *bodies: dict[str, Any]) -> None:
        self.intake = intake
        self.cluster = FakeCluster(*bodies)
        self.scheduled: list[Expiry] = []
        self.abandoned = 0
        self.owing = 0
        self.writer = StatusWriter(
            cluster=self.cluster, intake=intake, schedule=self.scheduled.append,
            on_abandoned=self._count, on_owing=self._owe, concurrency=2,
        )  # fmt: skip
        spawn(self.writer.run())

    def _owe(self) -> None:
        self.owing += 1

    def _count(self) -> None:
        self.abandoned += 1

    async def announce(
        self, body: dict[str, Any], outcome: Outcome = STORED, *, deleted: bool = False
    ) -> None:
        """Take an object the whole way: in, stored, announced, written."""
        assert self.intake.offer(kind_of(body), body) is Verdict.ACCEPTED
        await self.intake.take(max_items=1, max_bytes=1, linger_seconds=0)
        await self.writer.announce(item_of(body, deleted=deleted), outcome)
        await eventually(lambda: self.writer.idle)

    def status(self, body: dict[str, Any]) -> dict[str, Any]:
        metadata = body["metadata"]
        kept = self.cluster.objects[kind_of(body).plural, metadata["namespace"], metadata["name"]]
        return dict(kept.get("status", {}))

    def again(self, body: dict[str, Any]) -> Verdict:
        """Offer the object as its old event would."""
        return self.intake.offer(kind_of(body), body)


async def test_a_stored_record_gets_one_patch_and_is_scheduled(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    await bench.announce(body)
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


async def test_ttl_0_is_one_deletion_and_no_patch(intake: Intake, spawn: Spawn) -> None:
    body = audit_record({**AUDIT_SPEC, "ttlSecondsAfterStored": 0})
    bench = Bench(intake, spawn, body)
    await bench.announce(body)
    assert [call[0] for call in bench.cluster.calls] == ["delete"]
    assert bench.cluster.objects == {}
    assert bench.scheduled == []
    assert bench.again(body) is Verdict.DUPLICATE


async def test_ttl_0_waits_for_the_end_of_a_trace(intake: Intake, spawn: Spawn) -> None:
    body = action_trace({**TRACE_SPEC, "ttlSecondsAfterStored": 0})
    bench = Bench(intake, spawn, body)
    await bench.announce(body)
    assert bench.status(body)["phase"] == "Recording"


@pytest.mark.parametrize("ttl", [0, 60])
async def test_what_is_held_is_told_but_never_scheduled(intake: Intake, spawn: Spawn, ttl: int) -> None:
    body = audit_record({**AUDIT_SPEC, "ttlSecondsAfterStored": ttl}, labels=ON_HOLD)
    bench = Bench(intake, spawn, body)
    await bench.announce(body)
    assert [call[0] for call in bench.cluster.calls] == ["patch_status"]
    assert bench.status(body)["phase"] == "Stored"
    assert bench.scheduled == []


async def test_a_trace_that_goes_on_is_recording_and_not_scheduled(intake: Intake, spawn: Spawn) -> None:
    body = action_trace()
    bench = Bench(intake, spawn, body)
    await bench.announce(body)
    assert bench.status(body)["phase"] == "Recording"
    assert bench.scheduled == []


async def test_a_rejection_says_why(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    await bench.announce(body, Rejection("the year is out of range"))
    assert bench.status(body)["phase"] == "Rejected"
    assert bench.status(body)["message"] == "the year is out of range"
    assert bench.scheduled == []


async def test_what_was_deleted_needs_no_status(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    await bench.announce(body, deleted=True)
    assert bench.cluster.calls == []
    assert bench.again(body) is Verdict.DUPLICATE


@pytest.mark.parametrize("spec", [TRACE_SPEC, FINAL_TRACE])
async def test_a_generation_that_arrived_meanwhile_is_not_hidden(
    intake: Intake, spawn: Spawn, spec: dict[str, Any]
) -> None:
    body = action_trace(spec)
    later = {**body, "metadata": {**body["metadata"], "generation": 2, "resourceVersion": "101"}}
    bench = Bench(intake, spawn, later)
    await bench.announce(body)
    # The status of the first generation was refused, and the second was looked up and taken in.
    assert bench.status(later) == {}
    assert [call[0] for call in bench.cluster.calls] == ["patch_status", "get"]
    assert [item.record.key for item in intake._queue] == [key_of_body(later)]
    assert bench.scheduled == []


async def test_another_object_of_the_same_name_is_left_alone(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    successor = audit_record(name=body["metadata"]["name"], resourceVersion="205")
    bench = Bench(intake, spawn, successor)
    await bench.announce(body)
    assert bench.status(successor) == {}
    assert [item.ref.uid for item in intake._queue] == [successor["metadata"]["uid"]]


async def test_a_label_set_meanwhile_only_costs_another_round(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    labelled = {**body, "metadata": {**body["metadata"], "labels": {"x": "y"}, "resourceVersion": "101"}}
    bench = Bench(intake, spawn, labelled)
    await bench.announce(body)
    (item,) = intake._queue
    assert item.resource_version == "101"


async def test_a_conflict_with_our_own_earlier_status_ends_there(intake: Intake, spawn: Spawn) -> None:
    """The answer to a patch was lost, the patch was not: the repeat meets its own work."""
    body = audit_record()
    done = with_status({**body, "metadata": {**body["metadata"], "resourceVersion": "101"}}, phase="Stored")
    bench = Bench(intake, spawn, done)
    await bench.announce(body)
    assert intake.depth == 0


@pytest.mark.parametrize("spec", [AUDIT_SPEC, {**AUDIT_SPEC, "ttlSecondsAfterStored": 0}])
async def test_what_is_gone_is_settled(intake: Intake, spawn: Spawn, spec: dict[str, Any]) -> None:
    body = audit_record(spec)
    bench = Bench(intake, spawn)
    await bench.announce(body)
    assert bench.again(body) is Verdict.DUPLICATE
    assert bench.scheduled == []


async def test_what_is_not_served_may_come_back_and_is_not_settled(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [NotServedError("404 page not found")]
    await bench.announce(body)
    assert bench.cluster.named("patch_status") == [body["metadata"]["name"]], "no repeats: others wait behind"
    assert bench.again(body) is Verdict.ACCEPTED


@pytest.mark.usefixtures("no_delays")
async def test_what_is_refused_is_released_for_a_later_sweep(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [RequestRefusedError("forbidden")] * statuswriter_module._MAX_REFUSALS
    await bench.announce(body)
    assert bench.status(body) == {}
    assert bench.cluster.failures == []
    assert bench.again(body) is Verdict.ACCEPTED


@pytest.mark.usefixtures("no_delays")
async def test_an_api_server_that_refuses_while_it_starts_is_waited_for(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [RequestRefusedError("rules are not loaded yet")] * 3
    await bench.announce(body)
    assert bench.status(body)["phase"] == "Stored"
    assert bench.again(body) is Verdict.DUPLICATE


async def test_a_write_whose_answer_was_lost_is_not_forgotten(intake: Intake, spawn: Spawn) -> None:
    """The patch went through; its repeat conflicts. The object must still be cleared in its time."""
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [ObjectChangedError("changed")]
    key = ("auditrecords", body["metadata"]["namespace"], body["metadata"]["name"])
    bench.cluster.objects[key] = with_status(body, phase="Stored", expiresAt="2026-03-05T11:20:31.000Z")
    await bench.announce(body)
    assert [expiry.ref.uid for expiry in bench.scheduled] == [body["metadata"]["uid"]]


@pytest.mark.usefixtures("no_delays")
async def test_a_write_is_repeated_while_the_api_server_is_away(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [ClusterUnavailableError("away")] * 2
    await bench.announce(body)
    assert len(bench.cluster.named("patch_status")) == 3
    assert bench.status(body)["phase"] == "Stored"
    assert bench.abandoned == 0


@pytest.mark.usefixtures("no_delays")
async def test_a_write_that_never_gets_through_is_left_to_the_sweep(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [ClusterUnavailableError("away")] * 1000
    await bench.announce(body)
    assert len(bench.cluster.named("patch_status")) == statuswriter_module._MAX_ATTEMPTS
    assert bench.abandoned == 1
    assert bench.again(body) is Verdict.ACCEPTED


async def test_an_object_without_room_for_a_status_is_cleared_in_its_time(
    intake: Intake, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [ObjectTooLargeError("too large")]
    await bench.announce(body)
    (expiry,) = bench.scheduled
    assert expiry.resource_version == body["metadata"]["resourceVersion"]
    assert bench.again(body) is Verdict.DUPLICATE


async def test_a_rejected_object_without_room_for_a_status_is_not_deleted(
    intake: Intake, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    bench.cluster.failures = [ObjectTooLargeError("too large")]
    await bench.announce(body, Rejection("reason"))
    assert bench.scheduled == []


async def test_ttl_0_with_a_finalizer_is_called_stored_first(intake: Intake, spawn: Spawn) -> None:
    """Its deletion would leave it open to a change that no one stores; Stored closes it."""
    body = action_trace({**FINAL_TRACE, "ttlSecondsAfterStored": 0}, finalizers=["example.org/keep"])
    bench = Bench(intake, spawn, body)
    await bench.announce(body)
    assert [call[0] for call in bench.cluster.calls] == ["patch_status"]
    assert bench.status(body)["phase"] == "Stored"
    assert len(bench.scheduled) == 1


OWED = StoredRecord(
    b"\x01" * 32, STORED_AT, VectorWrite(WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, "away", "fake/tiny")
)


async def test_an_owed_vector_makes_it_degraded_and_it_leaves_at_its_time_all_the_same(
    intake: Intake, spawn: Spawn
) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    await bench.announce(body, OWED)
    status = bench.status(body)
    assert (status["phase"], status["writes"]["vector"]["state"]) == ("Degraded", "Pending")
    assert status["expiresAt"] == "2026-03-05T11:20:31.000Z"
    assert len(bench.scheduled) == 1
    # It may have been paid while the status waited.
    assert bench.owing == 1


async def test_an_owed_vector_does_not_keep_an_object_with_ttl_0(intake: Intake, spawn: Spawn) -> None:
    body = audit_record({**AUDIT_SPEC, "ttlSecondsAfterStored": 0})
    bench = Bench(intake, spawn, body)
    await bench.announce(body, OWED)
    assert bench.cluster.objects == {}


async def test_a_lifted_object_says_when_its_vector_came(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn, body)
    later = STORED_AT + timedelta(seconds=40)
    written = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="fake/tiny", at=later)
    await bench.announce(body, replace(OWED, vector=written))
    status = bench.status(body)
    assert (status["phase"], status["storedAt"]) == ("Stored", "2026-03-05T10:20:31.000Z")
    assert status["writes"]["vector"] == {
        "state": "Written", "at": "2026-03-05T10:21:11.000Z", "model": "fake/tiny",
    }  # fmt: skip
    # The expiry still counts from the row.
    assert status["expiresAt"] == "2026-03-05T11:20:31.000Z"


async def test_an_own_degraded_write_whose_answer_was_lost_is_scheduled(intake: Intake, spawn: Spawn) -> None:
    body = audit_record()
    bench = Bench(intake, spawn)
    seen = with_status(body, phase="Degraded", expiresAt="2026-03-05T11:00:00Z")
    seen["metadata"] = {**body["metadata"], "resourceVersion": "101"}
    bench.cluster.add(seen)
    await bench.announce(body, OWED)
    [expiry] = bench.scheduled
    assert expiry.resource_version == "101"
    assert bench.owing == 1
