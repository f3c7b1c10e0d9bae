"""The sweep: every unstored object comes to the intake, at the intake's own pace."""

import asyncio

import pytest

from datastorage.breaker import Breaker
from datastorage.errors import ObjectGoneError, RequestRefusedError, TransientError
from datastorage.pipeline import sweep as sweep_module
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.sweep import Sweep
from tests.support.fakes import FakeArchive, FakeCluster
from tests.support.objects import (
    TTL_SECONDS,
    action_trace,
    audit_record,
    key_of_body,
    record_of,
    with_status,
)
from tests.support.polling import eventually, settle
from tests.unit.conftest import Spawn

pytestmark = pytest.mark.usefixtures("no_delays")


def sweep_of(
    cluster: FakeCluster, intake: Intake, breaker: Breaker, archive: FakeArchive | None = None,
    *, interval: float = 3600.0,
) -> Sweep:  # fmt: skip
    confirmation = Confirmation(archive or FakeArchive(), breaker)
    return Sweep(cluster=cluster, intake=intake, confirmation=confirmation, interval_seconds=interval)


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
    sweep = sweep_of(cluster, intake, breaker)
    spawn(sweep.run())
    await eventually(lambda: lists(cluster) == 1)
    sweep.request()
    sweep.request()
    cluster.page_gate.release()
    await eventually(lambda: lists(cluster) == 2)
    cluster.page_gate.release()
    await settle()
    # Two requests, one more sweep.
    assert lists(cluster) == 2
    sweep.request()
    await eventually(lambda: lists(cluster) == 3)


@pytest.mark.parametrize(
    "error", [TransientError("away"), RequestRefusedError("no"), ObjectGoneError("no CRD")]
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
