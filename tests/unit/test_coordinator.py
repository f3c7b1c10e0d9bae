"""The coordinator: nothing leaves it uncommitted, and one bad record costs the others nothing."""

import asyncio
from typing import Any, cast

import pytest

from datastorage.errors import RecordRefusedError, TransientError
from datastorage.pipeline.aside import Aside
from datastorage.pipeline.committer import Committer, Rejected, Writer
from datastorage.pipeline.coordinator import Coordinator
from datastorage.pipeline.intake import Intake, Verdict
from datastorage.pipeline.item import Rejection
from datastorage.pipeline.writer import RowWriter
from datastorage.records.record import StoredRecord
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.storage.database import Database
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, key_of_body, kind_of
from harness.polling import eventually
from tests.support.fakes import Announced, FakeArchive, Probe
from tests.unit.conftest import Spawn

BATCH = 500


def offer(intake: Intake, *bodies: dict[str, Any]) -> None:
    for body in bodies:
        intake.offer(kind_of(body), body)


def a_batch_with_one_bad(position: int) -> list[dict[str, Any]]:
    bodies = [audit_record(name=f"good-{n}") for n in range(BATCH)]
    bodies[position]["metadata"]["name"] = "bad"
    return bodies


class Worker:
    """A coordinator, and what it puts aside."""

    def __init__(
        self,
        intake: Intake,
        writer: Writer,
        breaker: Breaker,
        announced: Announced,
        rejected: Rejected | None = None,
    ) -> None:
        """``writer`` may be what keeps the rejected too."""
        committer = Committer(
            intake=intake,
            writer=writer,
            rejected=rejected or cast("Rejected", writer),
            breaker=breaker,
            announcer=announced,
        )
        self.aside = Aside(committer=committer, intake=intake)
        self.coordinator = Coordinator(intake=intake, committer=committer, aside=self.aside)

    @property
    def idle(self) -> bool:
        return self.coordinator.idle

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.coordinator.run())
            group.create_task(self.aside.run())


def assert_only_the_bad_one_was_rejected(announced: Announced) -> None:
    rejected = {name for name, outcome in announced.outcomes.items() if isinstance(outcome, Rejection)}
    stored = {name for name, outcome in announced.outcomes.items() if isinstance(outcome, StoredRecord)}
    assert rejected == {"bad"}
    assert len(stored) == BATCH - 1


async def test_what_is_stored_is_announced_with_what_the_archive_holds(
    intake: Intake, breaker: Breaker, spawn: Spawn
) -> None:
    archive, announced, body = FakeArchive(), Announced(), audit_record()
    worker = Worker(intake, archive, breaker, announced)
    assert worker.idle
    offer(intake, body)
    assert not worker.idle
    spawn(worker.run())
    await eventually(lambda: bool(announced.outcomes))
    await eventually(lambda: worker.idle)
    assert announced.outcomes == {body["metadata"]["name"]: next(iter(archive.rows.values()))}


@pytest.mark.parametrize("position", [0, 123, BATCH - 1])
async def test_one_bad_record_is_isolated(
    intake: Intake, breaker: Breaker, spawn: Spawn, position: int
) -> None:
    archive, announced = FakeArchive(bad=frozenset({"bad"})), Announced()
    bodies = a_batch_with_one_bad(position)
    offer(intake, *bodies)
    spawn(Worker(intake, archive, breaker, announced).run())
    await eventually(lambda: len(announced.outcomes) == BATCH)
    assert_only_the_bad_one_was_rejected(announced)
    # Halving, not one by one.
    assert archive.batches[0] == BATCH
    assert len(archive.batches) <= 20
    assert list(archive.rejected) == [key_of_body(bodies[position])]


async def test_one_bad_record_is_isolated_on_a_real_database(
    intake: Intake, breaker: Breaker, spawn: Spawn, archive: Archive, database: Database, owner: Any
) -> None:
    """No partition covers its year: that is the record's own fault, and it is rejected with the reason."""
    announced, bodies = Announced(), a_batch_with_one_bad(321)
    bodies[321]["metadata"]["creationTimestamp"] = "2250-01-01T00:00:00Z"
    offer(intake, *bodies)
    rejected = RejectedRecords(database)
    spawn(Worker(intake, RowWriter(archive), breaker, announced, rejected).run())
    await eventually(lambda: len(announced.outcomes) == BATCH, seconds=30)
    assert_only_the_bad_one_was_rejected(announced)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == BATCH - 1
    row = await owner.fetchrow("SELECT * FROM datastorage.rejected_objects")
    assert str(row["uid"]) == bodies[321]["metadata"]["uid"]
    outcome = announced.outcomes["bad"]
    assert isinstance(outcome, Rejection)
    assert "outside 2014 to 2099" in row["reason"]
    assert row["reason"] == outcome.reason


async def test_an_absent_database_rejects_nothing(
    intake: Intake, breaker: Breaker, probe: Probe, recoveries: list[None], spawn: Spawn
) -> None:
    archive, announced = FakeArchive(), Announced()
    archive.failures = [TransientError("away") for _ in range(5)]
    probe.errors = [TransientError("still away") for _ in range(5)]
    offer(intake, *(audit_record() for _ in range(20)))
    spawn(Worker(intake, archive, breaker, announced).run())
    await eventually(lambda: len(announced.outcomes) == 20)
    assert all(isinstance(outcome, StoredRecord) for outcome in announced.outcomes.values())
    assert archive.rejected == {}
    # The batch was repeated whole: there was nothing to look for in it.
    assert archive.batches == [20] * 6
    assert len(recoveries) == 1


async def test_a_database_that_goes_away_during_a_rejection_is_waited_for(
    intake: Intake, breaker: Breaker, spawn: Spawn
) -> None:
    archive, announced = FakeArchive(bad=frozenset({"bad"})), Announced()
    reject = archive.reject

    async def fail_once(record: Any, reason: str) -> None:  # noqa: ARG001  # called by name
        archive.reject = reject  # type: ignore[method-assign]
        raise TransientError("away")

    archive.reject = fail_once  # type: ignore[method-assign]
    offer(intake, audit_record(name="bad"))
    spawn(Worker(intake, archive, breaker, announced).run())
    await eventually(lambda: bool(announced.outcomes))
    assert isinstance(announced.outcomes["bad"], Rejection)
    assert len(archive.rejected) == 1


async def test_a_batch_is_bounded(intake: Intake, breaker: Breaker, spawn: Spawn) -> None:
    archive, announced = FakeArchive(), Announced()
    offer(intake, *(audit_record() for _ in range(BATCH + 100)))
    spawn(Worker(intake, archive, breaker, announced).run())
    await eventually(lambda: len(announced.outcomes) == BATCH + 100)
    assert archive.batches == [BATCH, 100]


async def test_big_records_make_small_batches(breaker: Breaker, spawn: Spawn) -> None:
    intake = Intake(max_items=100, max_bytes=2**27, default_ttl_seconds=0, on_overflow=lambda: None)
    for _ in range(9):
        intake.offer(AUDIT_RECORD, audit_record({**AUDIT_SPEC, "details": "x" * 1_400_000}))
    archive, announced = FakeArchive(), Announced()
    spawn(Worker(intake, archive, breaker, announced).run())
    await eventually(lambda: len(announced.outcomes) == 9)
    assert archive.batches == [5, 4]


class KeepsNothing(FakeArchive):
    """Refuses each record, and its bytes too."""

    async def store(self, records: Any) -> Any:
        raise RecordRefusedError(f"{len(records)} refused")

    async def reject(self, record: Any, reason: str) -> None:
        raise RecordRefusedError(f"{record.name}: {reason}")


async def test_what_cannot_even_be_kept_stays_in_the_cluster(
    intake: Intake, breaker: Breaker, spawn: Spawn
) -> None:
    """No status says Rejected, since the promise behind it, the kept bytes, would be false."""
    announced, body = Announced(), audit_record()
    worker = Worker(intake, KeepsNothing(), breaker, announced)
    offer(intake, body)
    task = spawn(worker.run())
    await eventually(lambda: worker.idle)
    assert announced.outcomes == {}
    assert not task.done()
    assert intake.offer(AUDIT_RECORD, body) is Verdict.ACCEPTED


@pytest.mark.parametrize("taken_in_before", [False, True])
async def test_what_cannot_be_kept_and_is_in_no_cluster_is_called_lost(
    intake: Intake, breaker: Breaker, spawn: Spawn, caplog: pytest.LogCaptureFixture, *, taken_in_before: bool
) -> None:
    body = audit_record()
    worker = Worker(intake, KeepsNothing(), breaker, Announced())
    if taken_in_before:
        offer(intake, body)
    intake.offer_last_copy(AUDIT_RECORD, body)
    spawn(worker.run())
    await eventually(lambda: worker.idle)
    [line] = [entry for entry in caplog.records if "can't be kept" in entry.getMessage()]
    assert line.getMessage() == "Lost: deleted in the cluster, and it can't be kept at all"
    assert vars(line)["object_uid"] == body["metadata"]["uid"]
    assert intake.last_copies == []
