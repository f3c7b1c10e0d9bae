"""What is put aside is bounded, and gives way to what has yet to be tried; last copies are kept."""

from collections.abc import Sequence
from typing import Any

import pytest

from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline import aside as aside_module
from datastorage.pipeline.intake import Intake, Verdict
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import AUDIT_RECORD
from harness.objects import AUDIT_SPEC, audit_record
from harness.polling import eventually
from tests.support.fakes import FakeArchive
from tests.support.storing import running, storing


class Refusing(FakeArchive):
    """Refuses what is named so while it stores others."""

    def __init__(self, *slow: str) -> None:
        super().__init__()
        self.slow = set(slow)
        self.tried: list[str] = []

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        self.tried += [record.name for record in records if len(records) == 1]
        if any(record.name in self.slow for record in records):
            raise WorkRefusedError("too slow")
        return await super().store(records)

    store_bare = store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside_module, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(aside_module, "_MAX_PAUSE_SECONDS", 0.01)


def big(name: str, **metadata: Any) -> dict[str, Any]:
    return audit_record({**AUDIT_SPEC, "details": "x" * 100_000}, name=name, **metadata)


async def test_what_waits_gives_way_and_is_taken_in_again_in_its_time(
    intake: Intake, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside_module, "_MAX_BYTES", 450_000)
    monkeypatch.setattr(aside_module, "_MAX_PAUSE_SECONDS", 300.0)
    archive = Refusing(*(f"slow-{n}" for n in range(20)))
    parts = storing(intake, archive, archive, breaker)
    bodies = [big(f"slow-{n}") for n in range(20)]
    async with running(parts):
        for n, body in enumerate(bodies):
            parts.offer(body, audit_record(name=f"good-{n}"))
            await eventually(lambda n=n: f"good-{n}" in parts.announced.outcomes)
        await eventually(lambda: intake.postponed >= 15)
        assert parts.announced.outcomes.keys() == {f"good-{n}" for n in range(20)}
        # They stay in the cluster. A sweep does not bring them back at once, and their deletion does.
        assert intake.offer(AUDIT_RECORD, bodies[0]) in {Verdict.WAITING, Verdict.DUPLICATE}
        verdicts = [intake.offer(AUDIT_RECORD, body) for body in bodies]
        assert verdicts.count(Verdict.WAITING) >= 15
        gone = bodies[verdicts.index(Verdict.WAITING)]
        assert intake.offer_last_copy(AUDIT_RECORD, gone) is Verdict.ACCEPTED
        archive.slow.clear()
        intake._postponed.update(dict.fromkeys(intake._postponed, 0.0))  # their time has come
        verdicts = [intake.offer(AUDIT_RECORD, body) for body in bodies]
        assert Verdict.WAITING not in verdicts


async def test_a_last_copy_never_gives_way_and_a_stop_waits_for_it(
    intake: Intake, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside_module, "_MAX_BYTES", 250_000)
    archive = Refusing("last", *(f"slow-{n}" for n in range(9)))
    parts = storing(intake, archive, archive, breaker)
    async with running(parts):
        intake.offer_last_copy(AUDIT_RECORD, big("last"))
        await eventually(lambda: archive.tried.count("last") > 1)
        parts.offer(*(big(f"slow-{n}") for n in range(9)))
        await eventually(lambda: intake.postponed >= 7)
        assert not parts.coordinator.idle
        assert [ref.name for ref in intake.last_copies] == ["last"]
        archive.slow.discard("last")
        await eventually(lambda: "last" in parts.announced.outcomes)
        await eventually(lambda: parts.coordinator.idle)


async def test_what_can_t_be_kept_for_now_waits_as_well(intake: Intake, breaker: Breaker) -> None:
    class FullOfLetters(FakeArchive):
        closed = True

        async def reject(self, record: Record, reason: str) -> None:
            if self.closed:
                raise WorkRefusedError("permission denied for table rejected_objects")
            await super().reject(record, reason)

    archive = FullOfLetters(bad=frozenset({"bad"}))
    parts = storing(intake, archive, archive, breaker)
    async with running(parts):
        parts.offer(audit_record(name="bad"), audit_record(name="good"))
        await eventually(lambda: "good" in parts.announced.outcomes)

        async def told() -> bool:
            return "rejected_objects" in (await parts.aside.problem() or "")

        await eventually(told)
        archive.closed = False
        await eventually(lambda: parts.phases().get("bad") == "Rejection")


async def test_a_refusal_may_turn_into_another(intake: Intake, breaker: Breaker) -> None:
    """Too slow at first, and once there is time enough the value is refused."""
    archive = Refusing("bad")
    parts = storing(intake, archive, archive, breaker)
    async with running(parts):
        parts.offer(audit_record(name="bad"))
        await eventually(lambda: archive.tried.count("bad") > 3)

        async def refuse(records: Sequence[Record]) -> list[StoredRecord]:
            raise RecordRefusedError(f"{records[0].name} has too many words")

        archive.store_bare = refuse  # type: ignore[method-assign]
        await eventually(lambda: parts.phases().get("bad") == "Rejection")
