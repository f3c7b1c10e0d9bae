"""Records of requests wait for their commit: nothing is acknowledged before it, and the wait is bounded."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from datastorage.errors import DataStorageError, OverloadedError, StorageAwayError, TransientError
from datastorage.metrics import Dependency
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Rejection, WorkItem
from datastorage.pipeline.submissions import Pace, Submissions
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from harness.objects import audit_record, record_of
from harness.polling import eventually
from tests.support.fakes import Probe, no_groups
from tests.support.pace import NEVER
from tests.support.tasks import Spawn

STORED_AT = datetime(2026, 3, 5, 10, 20, 31, tzinfo=UTC)


@dataclass
class Entrance:
    """The entrance of requests before an intake that the test empties as the committer does."""

    max_items: int = 10
    pace: Pace = field(default_factory=Pace)
    probe: Probe = field(default_factory=Probe)

    def __post_init__(self) -> None:
        self.intake = Intake(max_items=self.max_items, max_bytes=2**20)
        self.postgres = Breaker(Dependency.POSTGRES, self.probe, pace=NEVER)
        self.tables = Breaker(Dependency.AUDIT_RECORDS, self.probe, pace=NEVER)
        self.submissions = Submissions(
            intake=self.intake,
            groups=no_groups(self.tables),
            breakers=(self.postgres, self.tables),
            pace=self.pace,
        )

    async def take(self) -> list[WorkItem]:
        return await self.intake.take(max_items=100, max_bytes=2**30, linger_seconds=0)

    def close(self) -> None:
        self.intake.close()


@pytest.fixture
def entrance() -> Iterator[Entrance]:
    made = Entrance()
    made.submissions.open()
    yield made
    made.close()


def record(name: str = "a") -> Record:
    return record_of(audit_record(name=name))


def stored(item: WorkItem) -> StoredRecord:
    return StoredRecord(item.record.content_hash, STORED_AT, is_new=True)


async def go_away(breaker: Breaker) -> None:
    """Make a breaker hold all operations back."""

    async def operation() -> None:
        raise TransientError("no connection")

    with pytest.raises(TransientError):
        await breaker.attempt(operation)


async def refused(entrance: Entrance) -> DataStorageError:
    with pytest.raises(DataStorageError) as error:
        await entrance.submissions.store([record()])
    assert entrance.intake.depth == 0
    return error.value


async def test_records_are_answered_in_their_order_once_all_are_committed(
    entrance: Entrance, spawn: Spawn
) -> None:
    waiting = spawn(entrance.submissions.store([record("a"), record("b")]))
    first, second = await entrance.take()
    await second.origin.committed(stored(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    await first.origin.committed(stored(first))
    outcomes = await waiting
    assert outcomes == [stored(first), stored(second)]


async def test_a_record_that_postgresql_can_not_hold_is_a_rejection(entrance: Entrance, spawn: Spawn) -> None:
    waiting = spawn(entrance.submissions.store([record("a"), record("b")]))
    first, second = await entrance.take()
    await first.origin.committed(Rejection("a column is too small"))
    second.origin.given_up("the process stops")
    outcomes = await waiting
    assert outcomes[0] == Rejection("a column is too small")
    assert "the process stops" in str(outcomes[1])


async def test_nothing_is_taken_before_the_start_and_from_the_stop_on() -> None:
    entrance = Entrance()
    error = await refused(entrance)
    assert isinstance(error, TransientError)
    assert "starting" in str(error)
    entrance.submissions.open()
    entrance.submissions.close()
    assert "stopping" in str(await refused(entrance))
    entrance.close()


@pytest.mark.parametrize("which", ["postgres", "tables"])
async def test_nothing_is_taken_while_commits_are_held_back(entrance: Entrance, which: str) -> None:
    breaker: Breaker = getattr(entrance, which)
    await go_away(breaker)
    error = await refused(entrance)
    assert isinstance(error, StorageAwayError)
    assert "no connection" in str(error)
    await breaker.close()


async def test_nothing_is_taken_without_room(entrance: Entrance, spawn: Spawn) -> None:
    waiting = [spawn(entrance.submissions.store([record(str(n))])) for n in range(entrance.max_items)]
    await eventually(lambda: not entrance.intake.has_room)
    with pytest.raises(OverloadedError, match="too many records wait"):
        await entrance.submissions.store([record()])
    for item in await entrance.take():
        await item.origin.committed(stored(item))
    assert [len(await each) for each in waiting] == [1] * entrance.max_items


@pytest.mark.parametrize(
    ("is_away", "words"), [(False, "the commit takes too long"), (True, "no connection")]
)
async def test_a_commit_that_takes_too_long_is_not_acknowledged(*, is_away: bool, words: str) -> None:
    entrance = Entrance(pace=Pace(commit_seconds=1.0))  # PostgreSQL has to go away within it
    entrance.submissions.open()
    waiting = asyncio.create_task(entrance.submissions.store([record()]))
    [item] = await entrance.take()
    if is_away:
        await go_away(entrance.postgres)
    with pytest.raises(TransientError, match=words) as error:
        await waiting
    assert not isinstance(error.value, StorageAwayError)  # it may be stored
    assert "send the same request again" in str(error.value)
    # The commit comes after all, and must not fail for lack of a request to answer.
    await item.origin.committed(stored(item))
    item.origin.given_up("late")
    await entrance.postgres.close()
    entrance.close()
