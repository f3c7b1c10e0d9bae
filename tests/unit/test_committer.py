"""The committer: nothing leaves it uncommitted, and one bad record costs the others nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from datastorage import metrics
from datastorage.errors import RecordRefusedError, TransientError, WorkRefusedError
from datastorage.metrics import Verdict
from datastorage.pipeline.batchwriter import RowWriter
from datastorage.pipeline.committer import Pace
from datastorage.pipeline.item import Outcome, Rejection, WorkItem
from datastorage.records.record import StoredRecord
from datastorage.resilience.breaker import Breaker
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, key_of_body, record_of
from harness.polling import eventually
from tests.support.fakes import Answer, FakeArchive, Probe
from tests.support.storing import Storing
from tests.support.tasks import Spawn

BATCH = 500


def a_batch_with_one_bad(position: int) -> list[dict[str, Any]]:
    bodies = [audit_record(name=f"good-{n}") for n in range(BATCH)]
    bodies[position]["metadata"]["name"] = "bad"
    return bodies


def _diverged() -> float:
    labels = {"table": "audit_records"}
    return metrics.REGISTRY.get_sample_value("datastorage_diverged_records_total", labels) or 0.0


def assert_only_the_bad_one_was_rejected(outcomes: Mapping[str, Outcome]) -> None:
    rejected = {name for name, outcome in outcomes.items() if isinstance(outcome, Rejection)}
    stored = {name for name, outcome in outcomes.items() if isinstance(outcome, StoredRecord)}
    assert rejected == {"bad"}
    assert len(stored) == BATCH - 1


async def test_stored_records_are_handed_on_with_the_archives_values(breaker: Breaker, spawn: Spawn) -> None:
    archive, body = FakeArchive(), audit_record()
    storing = Storing(archive, breaker)
    assert storing.idle
    storing.offer(body)
    assert not storing.idle
    spawn(storing.run())
    await eventually(lambda: bool(storing.outcomes))
    await eventually(lambda: storing.idle)
    assert storing.outcomes == {body["metadata"]["name"]: next(iter(archive.rows.values()))}


@pytest.mark.parametrize("position", [0, 123, BATCH - 1])
async def test_one_bad_record_is_isolated(breaker: Breaker, spawn: Spawn, position: int) -> None:
    archive = FakeArchive(bad=frozenset({"bad"}))
    storing = Storing(archive, breaker)
    bodies = a_batch_with_one_bad(position)
    storing.offer(*bodies)
    spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == BATCH)
    assert_only_the_bad_one_was_rejected(storing.outcomes)
    # Halving, not one by one.
    assert archive.batches[0] == BATCH
    assert len(archive.batches) <= 20
    assert list(archive.rejected) == [key_of_body(bodies[position])]


async def test_one_bad_record_is_isolated_on_a_real_database(
    breaker: Breaker, spawn: Spawn, archive: Archive, database: Database, owner: Any
) -> None:
    """No partition covers its year: that is the record's own fault, and it is rejected with the reason."""
    bodies = a_batch_with_one_bad(321)
    bodies[321]["metadata"]["creationTimestamp"] = "2250-01-01T00:00:00Z"
    storing = Storing(RowWriter(archive), breaker, RejectedRecords(database))
    storing.offer(*bodies)
    spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == BATCH)
    assert_only_the_bad_one_was_rejected(storing.outcomes)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == BATCH - 1
    row = await owner.fetchrow("SELECT * FROM datastorage.rejected_objects")
    assert str(row["uid"]) == bodies[321]["metadata"]["uid"]
    outcome = storing.outcomes["bad"]
    assert isinstance(outcome, Rejection)
    assert "outside 2014 to 2099" in row["reason"]
    assert row["reason"] == outcome.reason


async def test_two_contents_of_a_generation_in_one_batch_are_counted_and_logged(
    breaker: Breaker, spawn: Spawn, archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    first = audit_record(name="first")
    second = {
        **first,
        "metadata": {**first["metadata"], "name": "second"},
        "spec": {**AUDIT_SPEC, "action": "another"},
    }
    before = _diverged()
    storing = Storing(RowWriter(archive), breaker)
    storing.offer(first, second)
    spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == 2)
    assert _diverged() == before + 1
    [line] = [entry for entry in caplog.records if "Another content" in entry.getMessage()]
    assert vars(line)["object_name"] == "second"


async def test_an_absent_database_rejects_nothing(
    breaker: Breaker, probe: Probe, recoveries: list[None], spawn: Spawn
) -> None:
    archive = FakeArchive()
    storing = Storing(archive, breaker)
    archive.failures = [TransientError("away") for _ in range(5)]
    probe.errors = [TransientError("still away") for _ in range(5)]
    storing.offer(*(audit_record() for _ in range(20)))
    spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == 20)
    assert all(isinstance(outcome, StoredRecord) for outcome in storing.outcomes.values())
    assert archive.rejected == {}
    # The batch was repeated whole: there was nothing to look for in it.
    assert archive.batches == [20] * 6
    assert len(recoveries) == 1


async def test_a_database_that_goes_away_during_a_rejection_is_waited_for(
    breaker: Breaker, spawn: Spawn
) -> None:
    archive = FakeArchive(bad=frozenset({"bad"}))
    storing = Storing(archive, breaker)
    reject = archive.reject

    async def fail_once(record: Any, reason: str) -> None:  # noqa: ARG001  # called by name
        archive.reject = reject  # type: ignore[method-assign]
        raise TransientError("away")

    archive.reject = fail_once  # type: ignore[method-assign]
    storing.offer(audit_record(name="bad"))
    spawn(storing.run())
    await eventually(lambda: bool(storing.outcomes))
    assert isinstance(storing.outcomes["bad"], Rejection)
    assert len(archive.rejected) == 1


async def test_a_batch_is_bounded(breaker: Breaker, spawn: Spawn) -> None:
    archive = FakeArchive()
    storing = Storing(archive, breaker)
    storing.offer(*(audit_record() for _ in range(BATCH + 100)))
    spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == BATCH + 100)
    assert archive.batches == [BATCH, 100]


async def test_big_records_make_small_batches(breaker: Breaker, spawn: Spawn) -> None:
    archive = FakeArchive()
    storing = Storing(archive, breaker)
    storing.offer(*(audit_record({**AUDIT_SPEC, "details": "x" * 1_400_000}) for _ in range(9)))
    spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == 9)
    assert archive.batches == [5, 4]


class KeepsNothing(FakeArchive):
    """Refuses each record, and its bytes too."""

    async def store(self, records: Any) -> Any:
        raise RecordRefusedError(f"{len(records)} refused")

    async def reject(self, record: Any, reason: str) -> None:
        raise RecordRefusedError(f"{record.name}: {reason}")


async def test_a_record_that_cannot_even_be_kept_stays_in_the_cluster(breaker: Breaker, spawn: Spawn) -> None:
    """No status says Rejected, since the promise behind it, the kept bytes, would be false."""
    body = audit_record()
    storing = Storing(KeepsNothing(), breaker)
    storing.offer(body)
    task = spawn(storing.run())
    await eventually(lambda: storing.idle)
    assert storing.outcomes == {}
    assert not task.done()
    assert storing.entrance.offer(body) is Verdict.ACCEPTED


@pytest.mark.parametrize("taken_in_before", [False, True])
async def test_a_record_that_cannot_be_kept_and_is_in_no_cluster_is_called_lost(
    breaker: Breaker, spawn: Spawn, caplog: pytest.LogCaptureFixture, *, taken_in_before: bool
) -> None:
    body = audit_record()
    storing = Storing(KeepsNothing(), breaker)
    if taken_in_before:
        storing.offer(body)
    storing.entrance.offer_last_copy(body)
    spawn(storing.run())
    await eventually(lambda: storing.idle)
    [line] = [entry for entry in caplog.records if "can't be kept" in entry.getMessage()]
    assert line.getMessage() == "Lost: deleted in the cluster, and it can't be kept at all"
    assert vars(line)["object_uid"] == body["metadata"]["uid"]
    assert storing.register.last_copies == []


async def test_a_record_without_an_object_learns_its_outcome(breaker: Breaker, spawn: Spawn) -> None:
    archive = FakeArchive(bad=frozenset({"bad"}))
    storing, records = Storing(archive, breaker), [record_of(audit_record(name=n)) for n in ("good", "bad")]
    stored, rejected = Answer(), Answer()
    for record, origin in zip(records, (stored, rejected), strict=True):
        storing.entrance.intake.add(WorkItem(record, origin))
    spawn(storing.run())
    assert await stored == archive.rows[records[0].key]
    assert await rejected == Rejection("the value is out of range")
    assert archive.rejected == {records[1].key: "the value is out of range"}
    await eventually(lambda: storing.idle)


async def test_a_record_without_an_object_that_cannot_be_kept_is_given_up(
    breaker: Breaker, spawn: Spawn
) -> None:
    storing, answer = Storing(KeepsNothing(), breaker), Answer()
    storing.entrance.intake.add(WorkItem(record_of(audit_record(name="bad")), answer))
    spawn(storing.run())
    with pytest.raises(WorkRefusedError, match="bad"):
        await answer


async def test_committed_records_are_not_called_lost_while_others_wait_for_their_status(
    breaker: Breaker, spawn: Spawn
) -> None:
    """A stop in this moment must name no record that PostgreSQL has."""
    storing, never = Storing(FakeArchive(), breaker), asyncio.Event()

    class Waiting(Answer):
        async def committed(self, outcome: Outcome) -> None:
            await never.wait()
            self.set_result(outcome)

    first, body = record_of(audit_record()), audit_record()
    storing.entrance.intake.add(WorkItem(first, Waiting()))
    storing.entrance.offer_last_copy(body)
    assert storing.register.is_last_copy(key_of_body(body))
    spawn(storing.run())
    await eventually(lambda: storing.register.last_copies == [])
    assert not storing.idle


class TooLargeError(WorkRefusedError):
    """The work exceeded a limit, as any work of its size would."""

    is_limit = True


# The aside takes the refused batches over and does not run in these tests, so that all batches are the
# committer's.
PACE = Pace(batch_items=100, growth=2.0, least_share=0.1)


async def test_batches_are_halved_while_a_limit_lasts_and_grow_again(breaker: Breaker, spawn: Spawn) -> None:
    archive = FakeArchive()
    archive.failures = [TooLargeError("too much work") for _ in range(6)]
    storing = Storing(archive, breaker, batching=PACE)
    storing.offer(*(audit_record() for _ in range(1000)))
    spawn(storing.committer.run())
    await eventually(lambda: len(archive.batches) >= 12)
    assert archive.batches[:12] == [100, 50, 25, 12, 10, 10, 10, 20, 40, 80, 100, 100]


async def test_a_limit_in_bytes_is_halved_too(breaker: Breaker, spawn: Spawn) -> None:
    archive = FakeArchive()
    archive.failures = [TooLargeError("too much work")]
    storing = Storing(archive, breaker, batching=replace(PACE, batch_bytes=400_000))
    storing.offer(*(audit_record({**AUDIT_SPEC, "details": "x" * 90_000}) for _ in range(12)))
    spawn(storing.committer.run())
    await eventually(lambda: sum(archive.batches) == 12)
    assert archive.batches == [4, 2, 4, 2]


@pytest.mark.parametrize("error", [WorkRefusedError("a rule"), RecordRefusedError("a bad value")])
async def test_batches_stay_large_where_single_records_are_at_fault(
    breaker: Breaker, spawn: Spawn, error: Exception
) -> None:
    """In smaller batches, each bad record would hold up those behind it."""
    archive = FakeArchive()
    archive.failures = [error] * 3
    storing = Storing(archive, breaker, batching=PACE)
    storing.offer(*(audit_record() for _ in range(500)))
    spawn(storing.committer.run())
    await eventually(lambda: sum(archive.batches) == 500)
    assert archive.batches == [100] * 5


async def test_a_single_record_that_is_too_large_makes_no_batch_smaller(
    breaker: Breaker, spawn: Spawn
) -> None:
    archive = FakeArchive()
    archive.failures = [TooLargeError("one record")]
    storing = Storing(archive, breaker, batching=PACE)
    storing.offer(audit_record())
    spawn(storing.committer.run())
    await eventually(lambda: archive.batches == [1])
    storing.offer(*(audit_record() for _ in range(200)))
    await eventually(lambda: sum(archive.batches) == 201)
    assert archive.batches == [1, 100, 100]
