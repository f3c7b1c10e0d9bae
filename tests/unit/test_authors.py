"""A name counts only if the policy was in force before the object was created and after it was read."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from datastorage.errors import ClusterUnavailableError
from datastorage.kube.recordedbypolicy import InForce
from datastorage.pipeline.authors import Authors, Pace
from datastorage.pipeline.batchcommit import BatchCommit
from datastorage.pipeline.item import Outcome, Stamp, WorkItem
from datastorage.pipeline.register import Register
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from harness.objects import audit_record, record_of
from harness.polling import eventually
from tests.support.fakes import STORED_AT

QUICK = Pace(patience_seconds=0.01, retry_seconds=0.001)
RECORD = record_of(audit_record())
LONG_BEFORE = RECORD.key.created_at - timedelta(days=1)
IN_FORCE = InForce(LONG_BEFORE)
REMOVED = InForce(None, "there is no policy")


class Nowhere:
    """The origin of items of which no outcome matters."""

    async def committed(self, outcome: Outcome) -> None: ...
    def given_up(self, reason: str) -> None: ...


@dataclass
class Kept:
    """An archive that notes the authors of what it is given."""

    authors: list[str | None] = field(default_factory=list)

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        self.authors += [record.recorded_by for record in records]
        return [StoredRecord(record.content_hash, STORED_AT, is_new=True) for record in records]

    store_bare = store

    async def reject(self, record: Record, reason: str) -> None:
        del reason
        self.authors.append(record.recorded_by)


@dataclass
class Bench:
    """Authors, the policy, and a clock that a test moves."""

    answer: InForce | Exception = IN_FORCE
    pace: Pace = QUICK
    now: float = 100.0
    looks: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.authors = Authors(self.look, pace=self.pace, clock=lambda: self.now)

    async def look(self) -> InForce:
        self.looks += 1
        answer = self.answer
        await self.gate.wait()
        if isinstance(answer, Exception):
            self.now += 0.006
            raise answer
        return answer

    def item(self, author: str | None = "robot", record: Record = RECORD, *, age: float = 1.0) -> WorkItem:
        """Return an object that was read ``age`` seconds ago."""
        return WorkItem(record, Nowhere(), Stamp(author, self.now - age))

    async def author(self, **arguments: Any) -> str | None:
        [named] = await self.authors.named([self.item(**arguments)])
        return named.record.recorded_by


async def test_a_name_that_the_policy_has_written_counts() -> None:
    bench = Bench()
    assert await bench.author() == "robot"
    assert await bench.authors.problem() is None


@pytest.mark.parametrize(("seconds", "author"), [(9, None), (10, None), (11, "robot")])
async def test_an_object_must_be_younger_than_the_policy_by_a_margin(
    seconds: int, author: str | None
) -> None:
    bench = Bench(InForce(RECORD.key.created_at - timedelta(seconds=seconds)), Pace())
    assert await bench.author() == author


async def test_without_the_policy_the_author_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(REMOVED)
    with caplog.at_level(logging.WARNING):
        assert await bench.author() is None
        bench.now += 5
        assert await bench.author() is None
    assert await bench.authors.problem() == "there is no policy"
    assert len(caplog.records) == 1, "a problem that lasts is logged once"


async def test_a_look_from_before_the_object_was_read_says_nothing() -> None:
    bench = Bench()
    await bench.author()
    bench.answer, bench.now = REMOVED, bench.now + 5
    assert await bench.author(age=1.0) is None
    assert bench.looks == 2
    assert await bench.author(age=4.0) is None, "the last look is the best that is known"


async def test_objects_that_were_read_before_share_a_look() -> None:
    bench = Bench()
    for age in (1.0, 2.0, 3.0):
        assert await bench.author(age=age) == "robot"
    assert bench.looks == 1


async def test_a_batch_needs_a_look_that_is_later_than_its_last_object() -> None:
    bench = Bench()
    await bench.author()
    bench.answer, bench.now = REMOVED, bench.now + 5
    named = await bench.authors.named([bench.item(age=7.0), bench.item(age=1.0)])
    assert [item.record.recorded_by for item in named] == [None, None]


async def test_rows_and_rejected_records_get_their_authors(breaker: Breaker) -> None:
    bench, archive = Bench(), Kept()
    commit = BatchCommit(
        register=Register(), writer=archive, rejected=archive, breaker=breaker, authors=bench.authors
    )
    await commit.commit([bench.item("first")])
    await commit.commit([bench.item("second")], bare=True)
    await commit.reject(bench.item("third"), "no row can hold it")
    assert archive.authors == ["first", "second", "third"]


async def test_without_a_policy_no_name_is_believed(breaker: Breaker) -> None:
    archive, item = Kept(), Bench().item("forged")
    commit = BatchCommit(register=Register(), writer=archive, rejected=archive, breaker=breaker)
    await commit.commit([item])
    await commit.reject(item, "no row can hold it")
    assert archive.authors == [None, None]


async def test_batches_at_the_same_time_share_a_look() -> None:
    bench = Bench()
    bench.gate.clear()
    both = asyncio.gather(bench.author(), bench.author())
    await asyncio.sleep(0)
    bench.gate.set()
    assert list(await both) == ["robot", "robot"]
    assert bench.looks == 1


async def test_a_look_that_began_before_an_object_was_read_is_not_shared() -> None:
    bench = Bench()
    bench.gate.clear()
    first = asyncio.create_task(bench.author())
    await asyncio.sleep(0)
    bench.now, bench.answer = bench.now + 5, REMOVED
    second = asyncio.create_task(bench.author())
    await asyncio.sleep(0)
    bench.gate.set()
    assert (await first, await second) == ("robot", None)


async def test_an_item_of_a_request_keeps_its_sender() -> None:
    bench = Bench()
    sent = WorkItem(replace(RECORD, recorded_by="sender"), Nowhere())
    named = await bench.authors.named([sent, bench.item()])
    assert [item.record.recorded_by for item in named] == ["sender", "robot"]
    assert named[0] is sent
    await bench.authors.named([sent])
    assert bench.looks == 1, "requests need no look"


async def test_an_object_without_a_name_shows_that_the_policy_is_not_applied() -> None:
    bench = Bench()
    batch = [bench.item(), bench.item(None)]
    assert {item.record.recorded_by for item in await bench.authors.named(batch)} == {None}
    bench.now += 5
    assert await bench.author() is None
    assert "does not apply it" in (await bench.authors.problem() or "")
    # It was mended, and the policy created again.
    bench.answer, bench.now = InForce(LONG_BEFORE + timedelta(hours=1)), bench.now + 5
    assert await bench.author() == "robot"
    assert await bench.authors.problem() is None


async def test_an_object_from_before_may_have_no_name() -> None:
    bench = Bench(InForce(RECORD.key.created_at))
    assert await bench.author(author=None) is None
    assert await bench.authors.problem() is None


async def test_a_short_outage_costs_no_name() -> None:
    bench = Bench(ClusterUnavailableError("away"), Pace(patience_seconds=60.0, retry_seconds=0.001))
    waiting = asyncio.create_task(bench.author())
    await eventually(lambda: bench.looks >= 3)
    bench.answer = IN_FORCE
    assert await waiting == "robot"


async def test_a_long_outage_does_not_hold_up_the_records() -> None:
    bench = Bench(ClusterUnavailableError("away"))
    assert await bench.author() is None
    looks = bench.looks
    assert looks == 2
    bench.now += 5
    assert await bench.author() is None
    assert bench.looks == looks + 1, "the patience is for the whole outage"
    assert await bench.authors.problem() == "away"
