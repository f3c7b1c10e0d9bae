"""The sweep: every unstored object comes to the intake, at the intake's own pace."""

import asyncio

import pytest

from datastorage.errors import ClusterUnavailableError, NotServedError, ObjectGoneError, RequestRefusedError
from datastorage.pipeline import sweep as sweep_module
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.sweep import Sweep, SweepRequests
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from harness.objects import (
    TTL_SECONDS,
    action_trace,
    audit_record,
    key_of_body,
    record_of,
    with_status,
)
from harness.polling import eventually, settle
from tests.support.fakes import FakeArchive, FakeCluster, FakeRejected
from tests.unit.conftest import Spawn

pytestmark = pytest.mark.usefixtures("no_delays")


def sweep_of(
    cluster: FakeCluster, intake: Intake, breaker: Breaker, archive: FakeArchive | None = None,
    *, rejected: FakeRejected | None = None, requests: SweepRequests | None = None, interval: float = 3600.0,
) -> Sweep:  # fmt: skip
    confirmation = Confirmation(archive or FakeArchive(), breaker, rejected or FakeRejected())
    return Sweep(
        cluster=cluster,
        intake=intake,
        confirmation=confirmation,
        requests=requests or SweepRequests(),
        interval_seconds=interval,
    )


def lists(cluster: FakeCluster) -> int:
    return len([call for call in cluster.calls if call[:2] == ("list", "auditrecords")])


async def test_the_first_sweep_takes_in_what_is_unstored(
    breaker: Breaker, intake: Intake, spawn: Spawn
) -> None:
    unstored = [audit_record(), action_trace(), with_status(audit_record(), phase="Pending")]
    cluster = FakeCluster(*unstored, with_status(audit_record(), phase="Stored"))
    sweep = sweep_of(cluster, intake, breaker)
    assert sweep.last_success is None
    spawn(sweep.run())
    await eventually(lambda: sweep.last_success is not None)
    assert {item.ref.name for item in intake._queue} == {body["metadata"]["name"] for body in unstored}
    assert {call[2] for call in cluster.calls} == {"status.phase!=Stored"}


async def test_what_lacks_its_metadata_is_no_end_of_a_confirmation(breaker: Breaker) -> None:
    confirmation = Confirmation(FakeArchive(), breaker, FakeRejected())
    confirmed = await confirmation.of_objects(AUDIT_RECORD, [{"status": {"phase": "Stored"}}])
    assert (list(confirmed.stored), list(confirmed.missing)) == ([], [])


async def test_the_sweep_goes_at_the_pace_of_the_intake(
    breaker: Breaker, spawn: Spawn, monkeypatch: pytest.MonkeyPatch, overflows: list[None]
) -> None:
    monkeypatch.setattr(sweep_module, "_PAGE_SIZE", 10)
    intake = Intake(
        max_items=5, max_bytes=2**24, default_ttl_seconds=TTL_SECONDS,
        on_overflow=lambda: overflows.append(None),
    )  # fmt: skip
    cluster = FakeCluster(*(audit_record() for _ in range(40)))
    cluster.page_gate = asyncio.Semaphore(1000)
    sweep = sweep_of(cluster, intake, breaker)
    spawn(sweep.run())
    await settle()
    assert intake.depth == 5
    # One page was asked for, and no more until it has found room.
    assert cluster.page_gate._value == 999
    taken = 0
    while taken < 40:
        taken += len(await intake.take(max_items=5, max_bytes=2**30, linger_seconds=0))
        await settle()
        assert intake.depth <= 5
    await eventually(lambda: sweep.last_success is not None)
    # It waited instead of dropping.
    assert overflows == []


async def test_a_request_during_a_sweep_brings_another_one(
    breaker: Breaker, intake: Intake, spawn: Spawn
) -> None:
    cluster = FakeCluster(audit_record())
    cluster.page_gate = asyncio.Semaphore(0)
    requests = SweepRequests()
    spawn(sweep_of(cluster, intake, breaker, requests=requests).run())
    await eventually(lambda: lists(cluster) == 1)
    requests.add()
    requests.add()
    cluster.page_gate.release()
    await eventually(lambda: lists(cluster) == 2)
    cluster.page_gate.release()
    await settle()
    # Two requests, one more sweep.
    assert lists(cluster) == 2
    requests.add()
    await eventually(lambda: lists(cluster) == 3)


@pytest.mark.parametrize(
    "error", [ClusterUnavailableError("away"), RequestRefusedError("no"), ObjectGoneError("no CRD")]
)
async def test_a_failed_sweep_is_repeated_from_the_start(
    breaker: Breaker, intake: Intake, spawn: Spawn, error: Exception
) -> None:
    cluster = FakeCluster(audit_record())
    cluster.failures = [error]
    sweep = sweep_of(cluster, intake, breaker)
    spawn(sweep.run())
    await eventually(lambda: sweep.last_success is not None)
    assert lists(cluster) == 2
    assert intake.depth == 1


async def test_without_a_request_it_sweeps_at_intervals(
    breaker: Breaker, intake: Intake, spawn: Spawn
) -> None:
    cluster = FakeCluster()
    spawn(sweep_of(cluster, intake, breaker, interval=0.001).run())
    await eventually(lambda: lists(cluster) >= 3)


@pytest.mark.parametrize(
    "error", [ClusterUnavailableError("starting"), RequestRefusedError("no"), ObjectGoneError("?")]
)
async def test_trouble_with_one_kind_does_not_keep_the_other_from_being_swept(
    breaker: Breaker, intake: Intake, spawn: Spawn, error: Exception
) -> None:
    cluster = FakeCluster(audit_record(), action_trace())
    cluster.kind_failures = {AUDIT_RECORD: error}
    sweep = sweep_of(cluster, intake, breaker)
    spawn(sweep.run())
    await eventually(lambda: lists(cluster) >= 3)
    assert [item.ref.kind for item in intake._queue] == [ACTION_TRACE]
    traces = [call for call in cluster.calls if call[:2] == ("list", "actiontraces")]
    assert len(traces) == 1, "what has succeeded is not listed again for the other's sake"
    assert sweep.last_success is None
    cluster.kind_failures.clear()
    await eventually(lambda: intake.depth == 2)


async def test_a_kind_that_is_not_served_has_nothing_to_sweep(
    breaker: Breaker, intake: Intake, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = FakeCluster(audit_record(), action_trace())
    cluster.kind_failures = {AUDIT_RECORD: NotServedError("404 page not found")}
    requests = SweepRequests()
    sweep = sweep_of(cluster, intake, breaker, requests=requests)
    spawn(sweep.run())
    await eventually(lambda: sweep.last_success is not None)
    await settle()
    assert lists(cluster) == 1, "nothing is repeated until the watch finds the definition"
    assert caplog.records == []
    cluster.kind_failures.clear()
    requests.add(AUDIT_RECORD)
    await eventually(lambda: intake.depth == 2)
    assert [call[1] for call in cluster.calls] == ["auditrecords", "actiontraces", "auditrecords"]


@pytest.mark.parametrize("phase", ["Recording", "Degraded"])
async def test_what_says_stored_and_has_no_row_is_stored_again(
    breaker: Breaker, intake: Intake, spawn: Spawn, phase: str
) -> None:
    lost, kept = (with_status(action_trace(name=name), phase=phase) for name in ("lost", "kept"))
    archive = FakeArchive()
    await archive.store([record_of(kept)])
    sweep = sweep_of(FakeCluster(lost, kept), intake, breaker, archive)
    spawn(sweep.run())
    await eventually(lambda: sweep.last_success is not None)
    assert [item.ref.name for item in intake._queue] == ["lost"]


async def test_what_was_settled_before_the_sweep_asked_is_taken_in_again(
    breaker: Breaker, intake: Intake, spawn: Spawn
) -> None:
    """A restored cluster has it again without a status: memory is no proof against what is seen."""
    body = audit_record()
    intake.settle(key_of_body(body), 1)
    sweep = sweep_of(FakeCluster(body), intake, breaker)
    spawn(sweep.run())
    await eventually(lambda: sweep.last_success is not None)
    assert intake.depth == 1


async def test_what_is_rejected_no_more_is_taken_in_again(
    breaker: Breaker, intake: Intake, spawn: Spawn
) -> None:
    """Somebody had it stored from the kept bytes, or those are gone: either way it is tried again."""
    still, again = (with_status(audit_record(), phase="Rejected") for _ in range(2))
    rejected = FakeRejected(key_of_body(still))
    sweep = sweep_of(FakeCluster(still, again), intake, breaker, rejected=rejected)
    spawn(sweep.run())
    await eventually(lambda: sweep.last_success is not None)
    assert intake.depth == 1
    [taken] = await intake.take(max_items=10, max_bytes=2**20, linger_seconds=0)
    assert taken.ref.uid == again["metadata"]["uid"]
