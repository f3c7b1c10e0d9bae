"""Refused batches are bounded; single records give way to undivided batches, and last copies are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.metrics import Verdict
from datastorage.pipeline.item import WorkItem
from datastorage.pipeline.register import Register
from datastorage.pipeline.setaside import Pace
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from harness.objects import AUDIT_SPEC, audit_record, record_of
from harness.polling import eventually
from tests.support.fakes import Answer, FakeArchive
from tests.support.storing import QUICK, Storing


@dataclass
class Clock:
    """A clock that the test moves; in seconds."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Refusing(FakeArchive):
    """Refuses the records with certain names, and stores others."""

    def __init__(self, *slow: str) -> None:
        super().__init__()
        self.slow = set(slow)
        self.seen: list[set[str]] = []
        """The names in each batch that came."""
        self.tried: list[str] = []
        self.stored: set[str] = set()

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        self.seen.append({record.name for record in records})
        self.tried += [record.name for record in records if len(records) == 1]
        if any(record.name in self.slow for record in records):
            raise WorkRefusedError("too slow")
        rows = await super().store(records)
        self.stored.update(record.name for record in records)
        return rows

    store_bare = store


def big(name: str, **metadata: Any) -> dict[str, Any]:
    return audit_record({**AUDIT_SPEC, "details": "x" * 100_000}, name=name, **metadata)


async def test_waiting_records_give_way_and_are_taken_in_again_later(breaker: Breaker) -> None:
    archive, clock = Refusing(*(f"slow-{n}" for n in range(20))), Clock()
    pace = Pace(max_bytes=450_000, first_pause_seconds=0.001, max_pause_seconds=300.0)
    storing = Storing(archive, breaker, pace=pace, register=Register(clock=clock))
    bodies = [big(f"slow-{n}") for n in range(20)]
    async with storing.running():
        for n, body in enumerate(bodies):
            storing.offer(body, audit_record(name=f"good-{n}"))
            await eventually(lambda n=n: f"good-{n}" in storing.outcomes)
        await eventually(lambda: storing.register.postponed >= 15)
        assert storing.outcomes.keys() == {f"good-{n}" for n in range(20)}
        # They stay in the cluster. A sweep does not bring them back at once, and their deletion does.
        assert storing.entrance.offer(bodies[0]) in {Verdict.WAITING, Verdict.DUPLICATE}
        verdicts = [storing.entrance.offer(body) for body in bodies]
        assert verdicts.count(Verdict.WAITING) >= 15
        gone = bodies[verdicts.index(Verdict.WAITING)]
        assert storing.entrance.offer_last_copy(gone) is Verdict.ACCEPTED
        archive.slow.clear()
        clock.seconds += 300.0
        verdicts = [storing.entrance.offer(body) for body in bodies]
        assert Verdict.WAITING not in verdicts


async def test_small_records_are_stored_before_the_large_ones_are_tried(breaker: Breaker) -> None:
    """Slow records are usually large, and each attempt at one lasts until the server's time-out."""
    small, large = {f"small-{n}" for n in range(4)}, {f"large-{n}" for n in range(4)}
    archive = Refusing(*large)
    storing = Storing(archive, breaker)
    for n in range(4):
        storing.offer(big(f"large-{n}"), audit_record(name=f"small-{n}"))
    async with storing.running():
        await eventually(lambda: archive.stored == small)
    assert archive.seen[:2] == [small | large, small]


async def test_a_last_copy_never_gives_way_and_a_stop_waits_for_it(breaker: Breaker) -> None:
    archive = Refusing("last", *(f"slow-{n}" for n in range(9)))
    storing = Storing(archive, breaker, pace=replace(QUICK, max_bytes=250_000))
    async with storing.running():
        storing.entrance.offer_last_copy(big("last"))
        await eventually(lambda: archive.tried.count("last") > 1)
        storing.offer(*(big(f"slow-{n}") for n in range(9)))
        await eventually(lambda: storing.register.postponed >= 7)
        assert not storing.idle
        assert [ref.name for ref in storing.register.last_copies] == ["last"]
        archive.slow.discard("last")
        await eventually(lambda: storing.register.last_copies == [])
        assert "last" in archive.stored
        await eventually(lambda: storing.idle)


async def test_a_record_that_can_t_be_kept_for_now_waits_too(breaker: Breaker) -> None:
    class FullOfLetters(FakeArchive):
        closed = True

        async def reject(self, record: Record, reason: str) -> None:
            if self.closed:
                raise WorkRefusedError("permission denied for table rejected_objects")
            await super().reject(record, reason)

    archive = FullOfLetters(bad=frozenset({"bad"}))
    storing = Storing(archive, breaker)
    async with storing.running():
        storing.offer(audit_record(name="bad"), audit_record(name="good"))
        await eventually(lambda: "good" in storing.outcomes)

        async def reported() -> bool:
            return "rejected_objects" in (await storing.aside.problem() or "")

        await eventually(reported)
        archive.closed = False
        await eventually(lambda: storing.phases().get("bad") == "Rejection")


async def test_a_refusal_may_turn_into_another(breaker: Breaker) -> None:
    """The record is too slow at first; with enough time its value is refused."""
    archive = Refusing("bad")
    storing = Storing(archive, breaker)
    async with storing.running():
        storing.offer(audit_record(name="bad"))
        await eventually(lambda: archive.tried.count("bad") > 3)

        async def refuse(records: Sequence[Record]) -> list[StoredRecord]:
            raise RecordRefusedError(f"{records[0].name} has too many words")

        archive.store_bare = refuse  # type: ignore[method-assign]
        await eventually(lambda: storing.phases().get("bad") == "Rejection")


async def test_a_record_without_an_object_is_informed_that_it_gave_way(breaker: Breaker) -> None:
    """Its sender has it, and can send it again."""
    archive = Refusing("sent", *(f"slow-{n}" for n in range(9)))
    storing = Storing(archive, breaker, pace=replace(QUICK, max_bytes=250_000, max_pause_seconds=300.0))
    answer = Answer()
    async with storing.running():
        storing.entrance.intake.add(WorkItem(record_of(big("sent")), answer))
        storing.offer(*(big(f"slow-{n}") for n in range(9)))
        with pytest.raises(WorkRefusedError, match="too slow"):
            await answer


async def test_the_problem_that_everybody_sees_names_no_record(breaker: Breaker) -> None:
    storing = Storing(Refusing("secret-name"), breaker)
    async with storing.running():
        storing.offer(big("secret-name", namespace="secret-namespace"))

        async def is_reported() -> bool:
            return await storing.aside.problem() is not None

        await eventually(is_reported)
        problem = await storing.aside.problem() or ""
        assert "too slow" in problem
        assert "secret" not in problem
