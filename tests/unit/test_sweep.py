"""The sweep: every unstored object reaches the intake, at the intake's pace."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from datastorage.errors import ClusterUnavailableError, NotServedError, ObjectGoneError, RequestRefusedError
from datastorage.pipeline.listing import Page, Walk
from datastorage.pipeline.rowconfirmation import Confirmation
from datastorage.pipeline.sweep import Pace, Sweep, SweepRequests
from datastorage.records.record import Table
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import AUDIT_RECORD, ResourceKind
from harness.objects import (
    action_trace,
    audit_record,
    key_of_body,
    record_of,
    with_status,
)
from harness.polling import eventually, settle
from tests.support.entrance import Entrance
from tests.support.fakes import FakeArchive, FakeCluster, FakeRejected
from tests.support.referable import Referable, alive
from tests.support.tasks import Spawn


class Bench:
    """A sweep with fakes around it."""

    def __init__(
        self,
        breaker: Breaker,
        *bodies: Mapping[str, Any],
        archive: FakeArchive | None = None,
        rejected: FakeRejected | None = None,
        interval: float = 3600.0,
        room: int = 1000,
        page_size: int = 500,
    ) -> None:
        self.cluster = FakeCluster(*bodies)
        self.entrance = Entrance(max_items=room)
        self.requests = SweepRequests()
        self.sweep = Sweep(
            cluster=self.cluster, objects=self.entrance.objects, requests=self.requests,
            confirmation=Confirmation(archive or FakeArchive(), breaker, rejected or FakeRejected()),
            pace=Pace(interval_seconds=interval, pause_seconds=0.0, page_size=page_size),
        )  # fmt: skip

    @property
    def depth(self) -> int:
        return self.entrance.intake.depth

    async def swept(self) -> None:
        """Wait for the end of the first sweep that succeeds."""
        await eventually(lambda: self.sweep.last_success is not None)


def lists(cluster: FakeCluster) -> int:
    return len([call for call in cluster.calls if call[:2] == ("list", "auditrecords")])


async def test_the_first_sweep_takes_in_unstored_objects(breaker: Breaker, spawn: Spawn) -> None:
    unstored = [audit_record(), action_trace(), with_status(audit_record(), phase="Pending")]
    bench = Bench(breaker, *unstored, with_status(audit_record(), phase="Stored"))
    assert bench.sweep.last_success is None
    spawn(bench.sweep.run())
    await bench.swept()
    assert set(await bench.entrance.take_names()) == {body["metadata"]["name"] for body in unstored}
    assert {call[2] for call in bench.cluster.calls} == {"status.phase!=Stored"}


async def test_an_object_without_metadata_does_not_end_a_confirmation(breaker: Breaker) -> None:
    confirmation = Confirmation(FakeArchive(), breaker, FakeRejected())
    confirmed = await confirmation.of_objects(AUDIT_RECORD, [{"status": {"phase": "Stored"}}])
    assert (list(confirmed.stored), list(confirmed.missing)) == ([], [])
    nameless = with_status(audit_record(), phase="Stored")
    del nameless["metadata"]["name"]
    assert (await confirmation.of_objects(AUDIT_RECORD, [nameless])).missing == [nameless]


async def test_the_sweep_goes_at_the_pace_of_the_intake(breaker: Breaker, spawn: Spawn) -> None:
    bench = Bench(breaker, *(audit_record() for _ in range(40)), room=5, page_size=10)
    spawn(bench.sweep.run())
    await settle()
    assert bench.depth == 5
    # One page was asked for, and no more until it has found room.
    assert bench.cluster.pages_given == 1
    taken = 0
    while taken < 40:
        taken += len(await bench.entrance.take(5))
        await settle()
        assert bench.depth <= 5
    await bench.swept()
    # It waited instead of dropping.
    assert bench.entrance.overflows == 0


async def test_a_request_during_a_sweep_brings_another_one(breaker: Breaker, spawn: Spawn) -> None:
    bench = Bench(breaker, audit_record())
    bench.cluster.page_gate = asyncio.Semaphore(0)
    spawn(bench.sweep.run())
    await eventually(lambda: lists(bench.cluster) == 1)
    bench.requests.add()
    bench.requests.add()
    bench.cluster.page_gate.release()
    await eventually(lambda: lists(bench.cluster) == 2)
    bench.cluster.page_gate.release()
    await settle()
    # Two requests, one more sweep.
    assert lists(bench.cluster) == 2
    bench.requests.add()
    await eventually(lambda: lists(bench.cluster) == 3)


@pytest.mark.parametrize(
    "error", [ClusterUnavailableError("away"), RequestRefusedError("no"), ObjectGoneError("no CRD")]
)
async def test_a_failed_sweep_is_repeated_from_the_start(
    breaker: Breaker, spawn: Spawn, error: Exception
) -> None:
    bench = Bench(breaker, audit_record())
    bench.cluster.failures = [error]
    spawn(bench.sweep.run())
    await bench.swept()
    assert lists(bench.cluster) == 2
    assert bench.depth == 1


async def test_the_first_sweep_is_of_all_kinds_whatever_was_requested_before(
    breaker: Breaker, spawn: Spawn
) -> None:
    bench = Bench(breaker, audit_record(), action_trace())
    bench.requests.add(AUDIT_RECORD)
    spawn(bench.sweep.run())
    await eventually(lambda: len(bench.cluster.calls) >= 2)
    assert [call[1] for call in bench.cluster.calls[:2]] == ["auditrecords", "actiontraces"]


async def test_without_a_request_it_sweeps_at_intervals(breaker: Breaker, spawn: Spawn) -> None:
    bench = Bench(breaker, interval=0.001)
    spawn(bench.sweep.run())
    await eventually(lambda: lists(bench.cluster) >= 3)


@pytest.mark.parametrize(
    "error", [ClusterUnavailableError("starting"), RequestRefusedError("no"), ObjectGoneError("?")]
)
async def test_trouble_with_one_kind_does_not_keep_the_other_from_being_swept(
    breaker: Breaker, spawn: Spawn, error: Exception
) -> None:
    bench = Bench(breaker, audit_record(), action_trace())
    bench.cluster.kind_failures = {AUDIT_RECORD: error}
    spawn(bench.sweep.run())
    await eventually(lambda: lists(bench.cluster) >= 3)
    assert [item.record.table for item in await bench.entrance.take()] == [Table.ACTION_TRACES]
    traces = [call for call in bench.cluster.calls if call[:2] == ("list", "actiontraces")]
    assert len(traces) == 1, "what has succeeded is not listed again for the other's sake"
    assert bench.sweep.last_success is None
    bench.cluster.kind_failures.clear()
    await eventually(lambda: bench.depth == 1)


async def test_a_kind_that_is_not_served_has_nothing_to_sweep(
    breaker: Breaker, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(breaker, audit_record(), action_trace())
    bench.cluster.kind_failures = {AUDIT_RECORD: NotServedError("404 page not found")}
    spawn(bench.sweep.run())
    await bench.swept()
    await settle()
    assert lists(bench.cluster) == 1, "nothing is repeated until the watch finds the definition"
    assert caplog.records == []
    bench.cluster.kind_failures.clear()
    bench.requests.add(AUDIT_RECORD)
    await eventually(lambda: bench.depth == 2)
    assert [call[1] for call in bench.cluster.calls] == ["auditrecords", "actiontraces", "auditrecords"]


@pytest.mark.parametrize("phase", ["Recording", "Degraded"])
async def test_an_object_that_says_stored_and_has_no_row_is_stored_again(
    breaker: Breaker, spawn: Spawn, phase: str
) -> None:
    lost, kept = (with_status(action_trace(name=name), phase=phase) for name in ("lost", "kept"))
    archive = FakeArchive()
    await archive.store([record_of(kept)])
    bench = Bench(breaker, lost, kept, archive=archive)
    spawn(bench.sweep.run())
    await bench.swept()
    assert await bench.entrance.take_names() == ["lost"]


async def test_an_object_that_was_settled_before_the_sweep_asked_is_taken_in_again(
    breaker: Breaker, spawn: Spawn
) -> None:
    """A restored cluster has the object again without a status: the cluster counts, not the memory."""
    body = audit_record()
    bench = Bench(breaker, body)
    bench.entrance.register.done(key_of_body(body), 1)
    spawn(bench.sweep.run())
    await bench.swept()
    assert bench.depth == 1


async def test_an_object_that_is_no_longer_rejected_is_taken_in_again(breaker: Breaker, spawn: Spawn) -> None:
    """It was stored from the kept bytes, or those are gone: in both cases it is tried again."""
    still, again = (with_status(audit_record(), phase="Rejected") for _ in range(2))
    rejected = FakeRejected(key_of_body(still))
    bench = Bench(breaker, still, again, rejected=rejected)
    spawn(bench.sweep.run())
    await bench.swept()
    assert bench.depth == 1
    [taken] = await bench.entrance.take()
    assert taken.record.key.uid == again["metadata"]["uid"]


async def test_lasting_trouble_with_one_kind_leaves_the_other_its_interval(
    breaker: Breaker, spawn: Spawn
) -> None:
    bench = Bench(breaker, audit_record(), action_trace(), interval=0.01)
    bench.cluster.kind_failures = {AUDIT_RECORD: RequestRefusedError("no")}
    spawn(bench.sweep.run())
    await eventually(
        lambda: len([call for call in bench.cluster.calls if call[:2] == ("list", "actiontraces")]) >= 3
    )


async def test_a_page_is_let_go_before_the_next_one_is_asked_for() -> None:
    """A page of large objects takes some 50 MiB."""
    pages, left = [Referable() for _ in range(3)], []
    read: list[str] = []

    class Cluster:
        async def pages(self, kind: ResourceKind, **_: Any) -> AsyncIterator[list[dict[str, Any]]]:
            assert kind is AUDIT_RECORD
            for page in pages:
                left.append(alive(pages))
                yield page.made()

    async def work(page: Page) -> None:
        read.extend(body["metadata"]["name"] for body in page.bodies)

    assert not await Walk(Cluster(), name="A walk", selectors=["x=y"]).run([AUDIT_RECORD], work)
    assert len(read) == 3
    assert left == [0, 0, 0]
