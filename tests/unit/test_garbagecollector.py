"""The garbage collector deletes in order, and only the objects whose rows the archive confirms."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from datastorage import metrics
from datastorage.errors import ClusterUnavailableError, NotServedError, RequestRefusedError, TransientError
from datastorage.pipeline import garbagecollector
from datastorage.pipeline.clusterobject import Expiry, expiry_of
from datastorage.pipeline.garbagecollector import GarbageCollector, Pace, Plan
from datastorage.pipeline.rowconfirmation import Confirmation
from datastorage.pipeline.schedule import Limits, Schedule
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, KINDS, ResourceKind
from harness.objects import TRACE_SPEC, action_trace, audit_record, kind_of, record_of, utc, with_status
from harness.polling import eventually, settle
from tests.support.fakes import FakeArchive, FakeCluster, FakeRejected
from tests.support.tasks import Spawn

NOON = utc("2026-03-05T12:00:00Z").timestamp()
ON_HOLD = {"datastorage.kubernaut.io/legal-hold": "true"}


@dataclass
class Clock:
    """The collector's clocks, which the test moves."""

    wall: float = NOON
    ticks: float = 0.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks


@dataclass
class Bench:
    """A garbage collector with fakes around it."""

    breaker: Breaker
    clock: Clock = field(default_factory=Clock)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    archive: FakeArchive = field(default_factory=FakeArchive)
    restored: list[str] = field(default_factory=list)
    database_ahead: float = 0.0
    """Seconds by which PostgreSQL's clock is ahead of the collector's."""
    limits: Limits = field(default_factory=Limits)
    pace: Pace = field(default_factory=partial(Pace, concurrency=1, resync_seconds=600))

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.limits)
        self.collector = GarbageCollector(
            cluster=self.cluster, confirmation=Confirmation(self.archive, self.breaker, FakeRejected()),
            schedule=self.schedule, database_time=self._database_time, restore=self._restore, pace=self.pace,
            clock=garbagecollector.Clock(wall=self.clock.time, monotonic=self.clock.monotonic),
        )  # fmt: skip

    async def _database_time(self) -> float:
        return self.clock.wall + self.database_ahead

    async def _restore(self, kind: ResourceKind, body: Mapping[str, Any]) -> None:
        assert kind is kind_of(body)
        self.restored.append(body["metadata"]["name"])

    async def stored(
        self, name: str, expires_at: str, *, make: Any = audit_record, archived: bool = True, **metadata: Any
    ) -> dict[str, Any]:
        """Put a stored object into the cluster, and its row into the archive."""
        body = with_status(make(name=name, **metadata), phase="Stored", expiresAt=expires_at)
        self.cluster.add(body)
        if archived:
            await self.archive.store([record_of(body)])
        return body

    def note(self, body: Mapping[str, Any]) -> Expiry:
        """Put an object into the schedule."""
        expiry = expiry_of(kind_of(body), body)
        assert expiry is not None
        self.schedule.add(expiry)
        return expiry

    def pop_due(self) -> list[Expiry]:
        """Take out what is due, as the collector does."""
        return self.schedule.pop_due(self.clock.wall)

    def left(self) -> set[str]:
        return {name for _, _, name in self.cluster.objects}


@pytest.fixture
def clock() -> Clock:
    """A clock that shows noon."""
    return Clock()


@pytest.fixture
def bench(breaker: Breaker, clock: Clock) -> Bench:
    return Bench(breaker, clock)


async def test_due_objects_are_deleted_in_order_and_the_rest_stays(bench: Bench, spawn: Spawn) -> None:
    for name, expires_at in [
        ("third", "2026-03-05T11:59:59Z"), ("first", "2026-03-05T09:00:00Z"),
        ("later", "2026-03-05T12:00:01Z"), ("second", "2026-03-05T11:00:00.5Z"),
    ]:  # fmt: skip
        await bench.stored(name, expires_at)
    spawn(bench.collector.run())
    await eventually(lambda: len(bench.cluster.named("delete")) == 3)
    await settle()
    assert bench.cluster.named("delete") == ["first", "second", "third"]
    assert bench.left() == {"later"}


async def test_an_object_scheduled_while_it_sleeps_is_deleted_on_time(
    bench: Bench, clock: Clock, spawn: Spawn
) -> None:
    spawn(bench.collector.run())
    await eventually(lambda: bench.cluster.calls[-1:] != [] and bench.cluster.calls[-1][1] == "actiontraces")
    await settle()
    bench.note(await bench.stored("soon", "2026-03-05T12:00:30Z"))
    await settle()
    assert bench.left() == {"soon"}
    clock.wall += 31
    bench.note(await bench.stored("now", "2026-03-05T12:00:00Z"))
    await eventually(lambda: bench.left() == set())


async def test_both_kinds_are_confirmed_in_their_own_table(bench: Bench) -> None:
    bodies = [await bench.stored("a", "2026-03-05T11:00:00Z")]
    bodies.append(await bench.stored("b", "2026-03-05T11:00:00Z", make=action_trace))
    await bench.collector.collect([bench.note(body) for body in bodies])
    assert bench.left() == set()


def missing_rows() -> float:
    labels = {"phase": "Stored"}
    return metrics.REGISTRY.get_sample_value("datastorage_rows_missing_total", labels) or 0.0


async def test_nothing_is_deleted_that_the_archive_does_not_confirm(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    before = missing_rows()
    lost = await bench.stored("lost", "2026-03-05T11:00:00Z", archived=False)
    kept = await bench.stored("kept", "2026-03-05T11:00:00Z")
    await bench.collector.collect([bench.note(body) for body in (lost, kept)])
    assert bench.left() == {"lost"}
    assert bench.cluster.named("delete") == ["kept"]
    assert bench.restored == ["lost"]
    assert missing_rows() == before + 1
    [line] = [entry for entry in caplog.records if "does not have the row" in entry.getMessage()]
    assert (vars(line)["object_name"], vars(line)["phase"]) == ("lost", "Stored")


async def test_another_generation_confirms_nothing(bench: Bench) -> None:
    body = await bench.stored(
        "trace", "2026-03-05T11:00:00Z", make=action_trace, archived=False, generation=2
    )
    first = {**body, "metadata": {**body["metadata"], "generation": 1}}
    await bench.archive.store([record_of(first)])
    await bench.collector.collect([bench.note(body)])
    assert bench.left() == {"trace"}
    assert bench.restored == ["trace"]


async def test_another_content_of_the_same_generation_confirms_nothing(bench: Bench) -> None:
    """The cluster was restored from a backup: its second history has its own second generation."""
    spec = {**TRACE_SPEC, "parameters": {"history": "second"}}
    body = await bench.stored(
        "trace", "2026-03-05T11:00:00Z", make=partial(action_trace, spec), archived=False, generation=2
    )
    await bench.archive.store([record_of({**body, "spec": TRACE_SPEC})])
    await bench.collector.collect([bench.note(body)])
    assert bench.left() == {"trace"}
    assert bench.restored == ["trace"]


@pytest.mark.parametrize("name", ["due", "held"])
async def test_a_listed_object_without_its_row_is_stored_again(bench: Bench, spawn: Spawn, name: str) -> None:
    """It is stored long before it is due, and also if a legal hold keeps it from ever being due."""
    before, labels = missing_rows(), ON_HOLD if name == "held" else {}
    await bench.stored(name, "2026-03-05T18:00:00Z", archived=False, labels=labels)
    spawn(bench.collector.run())
    await eventually(lambda: bench.restored == [name])
    assert missing_rows() == before + 1


async def test_a_clock_that_is_ahead_of_the_database_deletes_nothing_early(
    bench: Bench, clock: Clock, spawn: Spawn
) -> None:
    bench.database_ahead = -7200.0
    await bench.stored("stays", "2026-03-05T11:59:00Z")
    await bench.stored("goes", "2026-03-05T09:59:00Z")
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == {"stays"})
    # The clock is set while it runs: what falls due by it is not due by the database's.
    clock.wall += 3 * 3600
    bench.database_ahead -= 3 * 3600
    bench.schedule.wake.set()
    await settle()
    assert bench.left() == {"stays"}


async def test_only_the_object_itself_is_restored(bench: Bench) -> None:
    lost = await bench.stored("name", "2026-03-05T11:00:00Z", archived=False)
    bench.cluster.add(audit_record(name="name"))
    await bench.collector.collect([bench.note(lost)])
    assert bench.restored == []


async def test_an_absent_archive_is_waited_for_and_nothing_is_deleted_meanwhile(bench: Bench) -> None:
    body = await bench.stored("a", "2026-03-05T11:00:00Z")
    bench.archive.failures = [TransientError("away")] * 3
    await bench.collector.collect([bench.note(body)])
    assert bench.cluster.named("delete") == ["a"]
    assert bench.restored == []


async def test_a_new_object_of_the_same_name_stays(bench: Bench) -> None:
    old = await bench.stored("name", "2026-03-05T11:00:00Z")
    expiry = bench.note(old)
    bench.cluster.add(audit_record(name="name", resourceVersion=old["metadata"]["resourceVersion"]))
    await bench.collector.collect([expiry])
    assert bench.left() == {"name"}


async def test_a_hold_set_since_it_was_scheduled_is_respected(bench: Bench, clock: Clock) -> None:
    body = await bench.stored("name", "2026-03-05T11:00:00Z")
    expiry = bench.note(body)
    held = {**body, "metadata": {**body["metadata"], "labels": ON_HOLD, "resourceVersion": "101"}}
    bench.cluster.add(held)
    bench.pop_due()
    await bench.collector.collect([expiry])
    assert bench.left() == {"name"}
    clock.wall += 10_000
    assert bench.pop_due() == []


async def test_a_changed_object_is_scheduled_again_at_its_version(bench: Bench) -> None:
    body = await bench.stored("name", "2026-03-05T11:00:00Z")
    bench.note(body)
    due = bench.pop_due()
    bench.cluster.add({**body, "metadata": {**body["metadata"], "resourceVersion": "101"}})
    await bench.collector.collect(due)
    (again,) = bench.pop_due()
    assert again.resource_version == "101"
    await bench.collector.collect([again])
    assert bench.left() == set()


async def test_a_held_object_is_never_scheduled(bench: Bench, spawn: Spawn) -> None:
    await bench.stored("held", "2026-03-05T11:00:00Z", labels=ON_HOLD)
    await bench.stored("free", "2026-03-05T11:00:00Z", labels={next(iter(ON_HOLD)): "false"})
    spawn(bench.collector.run())
    await eventually(lambda: bench.cluster.named("delete") == ["free"])
    assert bench.left() == {"held"}


async def test_an_object_that_waits_for_a_finalizer_is_not_counted_as_held(
    bench: Bench, spawn: Spawn
) -> None:
    """Its deletion has begun: the hold keeps nothing."""

    def held() -> float:
        labels = {"outcome": "held"}
        return metrics.REGISTRY.get_sample_value("datastorage_gc_total", labels) or 0.0

    before, due = held(), "2026-03-05T11:00:00Z"
    await bench.stored("goes", due, labels=ON_HOLD, deletionTimestamp=due)
    await bench.stored("held", due, labels=ON_HOLD)
    spawn(bench.collector.run())
    await eventually(lambda: ("list", "actiontraces", "status.phase=Degraded") in bench.cluster.calls)
    await settle()
    assert held() == before + 1


async def test_without_a_promised_time_an_object_stays(bench: Bench, spawn: Spawn) -> None:
    bench.cluster.add(with_status(audit_record(name="kept"), phase="Stored"))
    await bench.stored("goes", "2026-03-05T11:00:00Z")
    spawn(bench.collector.run())
    await eventually(lambda: bench.cluster.named("delete") == ["goes"])
    assert bench.left() == {"kept"}


@pytest.mark.parametrize(
    ("failure", "scheduled"),
    [(ClusterUnavailableError("away"), True), (RequestRefusedError("forbidden"), False)],
)
async def test_a_deletion_that_fails_is_not_forgotten(
    bench: Bench,
    clock: Clock,
    failure: Exception,
    scheduled: bool,  # noqa: FBT001
) -> None:
    body = await bench.stored("a", "2026-03-05T11:00:00Z")
    bench.note(body)
    due = bench.pop_due()
    bench.cluster.failures = [failure]
    await bench.collector.collect(due)
    assert bench.left() == {"a"}
    clock.wall += Pace().retry_seconds
    # The refused one comes back with a later listing, not before.
    assert bool(bench.pop_due()) is scheduled


async def test_a_schedule_that_overflowed_is_listed_again(
    breaker: Breaker, clock: Clock, spawn: Spawn
) -> None:
    pace = Pace(concurrency=1, resync_seconds=600, retry_seconds=0.0)
    bench = Bench(breaker, clock, limits=Limits(most=2, kept=1), pace=pace)
    for number in range(7):
        await bench.stored(f"object-{number}", "2026-03-05T11:00:00Z")
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == set())
    assert len([call for call in bench.cluster.calls if call[:2] == ("list", "auditrecords")]) >= 4


async def test_an_earlier_deletion_is_never_crowded_out_by_later_ones(breaker: Breaker, clock: Clock) -> None:
    bench = Bench(breaker, clock, limits=Limits(most=10, kept=9))
    for number in range(30):
        bench.note(await bench.stored(f"later-{number}", f"2026-03-05T13:00:{number:02}Z"))
    bench.note(await bench.stored("due", "2026-03-05T11:00:00Z"))
    assert [expiry.ref.name for expiry in bench.pop_due()] == ["due"]
    clock.wall += 2 * 3600
    kept = [expiry.ref.name for expiry in bench.pop_due()]
    assert len(kept) <= 10
    assert "later-0" in kept, "the latest go, not the earliest"


async def test_dropped_entries_are_listed_when_they_fall_due(
    breaker: Breaker, clock: Clock, spawn: Spawn
) -> None:
    """It is found long before the next regular listing, also while the schedule stays full of others."""
    bench = Bench(breaker, clock, limits=Limits(most=2, kept=1))
    for minute in (1, 2, 3):
        await bench.stored(f"minute-{minute}", f"2026-03-05T12:0{minute}:00Z")
    spawn(bench.collector.run())
    for minute in (1, 2, 3):
        clock.wall += 60
        clock.ticks += 60
        bench.schedule.wake.set()
        await eventually(lambda: len(bench.left()) == 3 - minute)  # noqa: B023  # awaited in the same turn


@pytest.mark.parametrize("expires_at", ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "never"])
async def test_a_malformed_time_keeps_the_object(bench: Bench, expires_at: str) -> None:
    body = await bench.stored("odd", expires_at)
    assert expiry_of(kind_of(body), body) is None


async def test_a_failed_listing_is_repeated(bench: Bench, clock: Clock, spawn: Spawn) -> None:
    await bench.stored("a", "2026-03-05T11:00:00Z")
    bench.cluster.failures = [ClusterUnavailableError("away")]
    task = spawn(bench.collector.run())
    await eventually(lambda: len(bench.cluster.calls) == 3)
    await settle()
    clock.ticks += Pace().retry_seconds * 1.2
    bench.schedule.wake.set()
    await eventually(lambda: bench.left() == set())
    assert not task.done()


async def test_trouble_with_one_kind_does_not_keep_the_other_from_being_deleted(
    bench: Bench, clock: Clock, spawn: Spawn
) -> None:
    await bench.stored("record", "2026-03-05T11:00:00Z")
    await bench.stored("trace", "2026-03-05T11:00:00Z", make=action_trace)
    bench.cluster.kind_failures = {AUDIT_RECORD: RequestRefusedError("forbidden")}
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == {"record"})
    lists = [call for call in bench.cluster.calls if call[0] == "list"]
    bench.cluster.kind_failures.clear()
    clock.ticks += Pace().retry_seconds * 1.2
    bench.schedule.wake.set()
    await eventually(lambda: bench.left() == set())
    again = [call[1] for call in bench.cluster.calls if call[0] == "list"][len(lists) :]
    assert set(again) == {"auditrecords"}, "only what failed is listed again"


async def test_a_kind_that_is_served_again_is_listed_at_once(bench: Bench, spawn: Spawn) -> None:
    await bench.stored("record", "2026-03-05T11:00:00Z")
    bench.cluster.kind_failures = {AUDIT_RECORD: NotServedError("404 page not found")}
    spawn(bench.collector.run())
    await eventually(lambda: ("list", "actiontraces", "status.phase=Degraded") in bench.cluster.calls)
    await settle()
    bench.cluster.kind_failures.clear()
    bench.collector.list_soon(AUDIT_RECORD)
    await eventually(lambda: bench.left() == set())


async def test_a_listing_requested_during_a_listing_follows_at_once(bench: Bench, spawn: Spawn) -> None:
    """The kind may have come back after its pages were read."""
    await bench.stored("record", "2026-03-05T18:00:00Z")
    bench.cluster.page_gate = gate = asyncio.Semaphore(0)
    listing = ("list", "auditrecords", "status.phase=Stored")
    spawn(bench.collector.run())
    await eventually(lambda: listing in bench.cluster.calls)
    bench.collector.list_soon(AUDIT_RECORD)
    gate.release()
    await eventually(lambda: bench.cluster.calls.count(listing) == 2)


async def planned(bench: Bench) -> dict[str, Plan]:
    return {plan.expiry.ref.name: plan for kind in KINDS async for plan in bench.collector.plan(kind)}


async def test_a_dry_run_raises_for_a_kind_that_is_not_served(bench: Bench) -> None:
    await bench.stored("trace", "2026-03-05T11:00:00Z", make=action_trace)
    bench.cluster.kind_failures = {AUDIT_RECORD: NotServedError("404 page not found")}
    assert [plan.expiry.ref.name async for plan in bench.collector.plan(ACTION_TRACE)] == ["trace"]
    with pytest.raises(NotServedError):
        await anext(bench.collector.plan(AUDIT_RECORD))


async def test_scheduling_twice_changes_nothing(bench: Bench) -> None:
    body = await bench.stored("a", "2026-03-05T11:00:00Z")
    bench.note(body)
    bench.note(body)
    assert len(bench.pop_due()) == 1


async def test_no_more_deletions_run_at_once_than_allowed(breaker: Breaker, clock: Clock) -> None:
    bench = Bench(breaker, clock, pace=Pace(concurrency=3))
    running, most = 0, 0

    async def delete(*_: Any, **__: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await settle()
        running -= 1

    bench.cluster.delete = delete  # type: ignore[method-assign]
    bodies = [await bench.stored(f"object-{n}", "2026-03-05T11:00:00Z") for n in range(10)]
    await bench.collector.collect([bench.note(body) for body in bodies])
    assert most == 3


async def test_a_dry_run_plans_and_deletes_nothing(bench: Bench) -> None:
    await bench.stored("goes", "2026-03-05T11:00:00Z")
    await bench.stored("held", "2026-03-05T13:00:00Z", labels=ON_HOLD)
    await bench.stored("lost", "2026-03-05T11:00:00Z", make=action_trace, archived=False)
    bench.cluster.add(audit_record(name="unstored"))
    plans = await planned(bench)
    decided = {name: (plan.held, plan.confirmed) for name, plan in plans.items()}
    assert decided == {"goes": (False, True), "held": (True, True), "lost": (False, False)}
    assert plans["held"].expiry.due == utc("2026-03-05T13:00:00Z").timestamp()
    assert {call[0] for call in bench.cluster.calls} == {"list"}
    assert bench.restored == []


async def test_a_new_label_does_not_keep_an_object_without_room_for_a_status(bench: Bench) -> None:
    body = audit_record(name="huge")
    await bench.archive.store([record_of(body)])
    promised = with_status(body, expiresAt="2026-03-05T11:00:00Z", phase="Stored")
    expiry = expiry_of(kind_of(body), promised)
    assert expiry is not None
    bench.cluster.add({**body, "metadata": {**body["metadata"], "resourceVersion": "101"}})
    bench.schedule.add(expiry)
    await bench.collector.collect(bench.pop_due())
    assert bench.left() == {"huge"}
    await bench.collector.collect(bench.pop_due())
    assert bench.left() == set()


async def test_a_hold_keeps_what_has_no_room_for_a_status(bench: Bench) -> None:
    body = audit_record(name="huge")
    await bench.archive.store([record_of(body)])
    promised = with_status(body, expiresAt="2026-03-05T11:00:00Z", phase="Stored")
    bench.cluster.add({**body, "metadata": {**body["metadata"], "labels": ON_HOLD, "resourceVersion": "101"}})
    bench.note(promised)
    await bench.collector.collect(bench.pop_due())
    assert bench.pop_due() == []
    assert bench.left() == {"huge"}


async def test_what_is_due_by_our_clock_alone_stays_in_the_schedule(bench: Bench) -> None:
    expiry = bench.note(await bench.stored("early", "2026-03-05T11:30:00Z"))
    bench.database_ahead = -3600.0
    await bench.collector.collect(bench.pop_due())
    assert bench.left() == {"early"}
    assert bench.schedule.next_due() == expiry.due


async def test_a_deletion_that_waits_for_a_finalizer_is_no_missing_row(bench: Bench, spawn: Spawn) -> None:
    """The deletion counts as a further generation, which needs neither a row nor another deletion."""
    body = await bench.stored("waiting", "2026-03-05T11:00:00Z")
    metadata = {**body["metadata"], "generation": 2, "deletionTimestamp": "2026-03-05T11:30:00Z"}
    bench.cluster.add({**body, "metadata": metadata})
    spawn(bench.collector.run())
    await eventually(lambda: bench.cluster.calls[-1:] != [] and bench.cluster.calls[-1][1] == "actiontraces")
    await settle()
    assert bench.restored == []
    assert bench.cluster.named("delete") == []


async def test_a_degraded_object_is_deleted_on_time(bench: Bench, spawn: Spawn) -> None:
    """Its row and its entry in the outbox are in the archive: neither needs the object."""
    body = await bench.stored("degraded", "2026-03-05T11:59:00Z")
    body["status"]["phase"] = "Degraded"
    bench.cluster.add(body)
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == set())


async def test_a_degraded_object_that_has_changed_since_is_not_touched(bench: Bench, spawn: Spawn) -> None:
    """Its status and its row are of generation 1, and nobody has stored generation 2 yet."""
    body = await bench.stored("changed", "2026-03-05T11:59:00Z", make=action_trace)
    body["status"]["phase"] = "Degraded"
    changed = {**body, "metadata": {**body["metadata"], "generation": 2, "resourceVersion": "101"}}
    bench.cluster.add(changed)
    due = await bench.stored("due", "2026-03-05T11:59:00Z")
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == {"changed"})
    # Nor when it was noted before it changed.
    bench.note({**body, "metadata": {**body["metadata"], "resourceVersion": "100"}})
    await settle()
    assert bench.left() == {"changed"}
    assert due["metadata"]["name"] not in bench.left()


async def test_a_status_that_was_written_meanwhile_costs_no_second_look(
    bench: Bench, clock: Clock, spawn: Spawn
) -> None:
    """The status went from Degraded to Stored: the deletion names the version after the last write."""
    body = await bench.stored("promoted", "2026-03-05T12:01:00Z")
    bench.note(body)
    promoted = {**body, "metadata": {**body["metadata"], "resourceVersion": "101"}}
    bench.cluster.add(promoted)
    bench.note(promoted)
    clock.wall += 120
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == set())
    assert bench.cluster.named("get") == []
    assert bench.cluster.named("delete") == ["promoted"]


@pytest.mark.parametrize("lost", ["uid", "generation", "creationTimestamp", "resourceVersion"])
async def test_an_object_that_cannot_be_read_keeps_no_other_from_being_deleted(
    bench: Bench, spawn: Spawn, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    bad = await bench.stored("bad", "2026-03-05T11:00:00Z", make=action_trace)
    bad["status"]["phase"] = "Degraded"
    await bench.stored("good", "2026-03-05T11:00:00Z", make=action_trace)
    del bad["metadata"][lost]
    spawn(bench.collector.run())
    await eventually(lambda: bench.left() == {"bad"})
    assert "can't be read" in caplog.text
    assert await planned(bench) == {}


async def test_a_uid_that_is_no_text_keeps_no_other_from_being_deleted(
    bench: Bench, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await bench.stored("bad", "2026-03-05T11:00:00Z")
    await bench.stored("good", "2026-03-05T11:00:00Z")
    bad["metadata"]["uid"] = []
    collecting = spawn(bench.collector.run())
    await eventually(lambda: bench.left() == {"bad"} or collecting.done())
    assert not collecting.done()
    assert "can't be read" in caplog.text


async def test_a_deletion_is_not_followed_by_an_object_that_cannot_be_read(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The object has changed since it was scheduled, and a proxy answers in place of the API server."""
    expiry = bench.note(await bench.stored("odd", "2026-03-05T11:00:00Z"))
    bench.pop_due()
    key = ("auditrecords", expiry.ref.namespace, "odd")
    bench.cluster.objects[key] = {"metadata": {"uid": expiry.ref.uid, "resourceVersion": "101"}}
    await bench.collector.collect([expiry])
    assert bench.left() == {"odd"}
    assert "can't be read" in caplog.text
    assert bench.schedule.pop_due(float("inf")) == []
