"""The register of generations: how far each one is, and how long it is remembered."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from datastorage.pipeline.clusterobject import ObjectRef
from datastorage.pipeline.register import Memory, Register
from datastorage.records.record import RecordKey
from datastorage.resources.kinds import AUDIT_RECORD

CREATED = datetime(2026, 3, 5, tzinfo=UTC)
KEY = RecordKey("uid", 1, CREATED, b"spec")
REF = ObjectRef(AUDIT_RECORD, "payments", "name", "uid")


@dataclass
class Clock:
    """A clock that the test moves; in seconds."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def register(clock: Clock) -> Register:
    return Register(Memory(generations=2, postponed_seconds=100.0), clock)


def keys(count: int) -> list[RecordKey]:
    return [RecordKey(f"uid-{n}", 1, CREATED, b"spec") for n in range(count)]


def test_a_generation_is_started_once(register: Register) -> None:
    assert register.start(KEY)
    assert not register.start(KEY)
    assert not register.start(KEY, committed=True)
    register.committed(KEY)
    assert register.is_under_way(KEY)
    register.forget(KEY)
    assert not register.is_under_way(KEY)
    assert register.start(KEY, committed=True)
    register.done(KEY, 1)
    assert not register.is_under_way(KEY)


def test_a_commit_of_a_generation_that_was_never_started_leaves_no_trace(register: Register) -> None:
    """A record of a request over HTTP is no generation of an object."""
    register.committed(KEY)
    assert not register.is_under_way(KEY)
    assert register.start(KEY)


def test_a_last_copy_is_one_until_it_is_committed(register: Register) -> None:
    register.last_copy(KEY, REF)
    assert register.last_copies == [], "it is not under way"
    register.start(KEY)
    register.last_copy(KEY, REF)
    assert (register.is_last_copy(KEY), register.last_copies) == (True, [REF])
    register.committed(KEY)
    assert (register.is_last_copy(KEY), register.last_copies) == (False, [])
    register.last_copy(KEY, REF)
    assert register.last_copies == []


def test_a_settled_generation_that_is_read_afterwards_is_new(register: Register, clock: Clock) -> None:
    clock.seconds = 10.0
    register.done(KEY, 2)
    assert register.is_settled(KEY, 2, read_at=9.0)
    assert not register.is_settled(KEY, 2, read_at=10.0)
    assert not register.is_settled(KEY, 3, read_at=9.0), "a deletion has raised its generation since"


def test_the_oldest_settled_generations_are_forgotten_first(register: Register, clock: Clock) -> None:
    clock.seconds = 10.0
    first, second, third = keys(3)
    for key in (first, second, first, third):
        register.done(key, 1)
    assert [register.is_settled(key, 1, read_at=0.0) for key in (first, second, third)] == [True, False, True]


def test_a_postponed_generation_waits_for_its_time(register: Register, clock: Clock) -> None:
    register.start(KEY)
    register.postpone(KEY, seconds=30.0)
    assert not register.is_under_way(KEY)
    clock.seconds = 29.0
    assert register.is_postponed(KEY)
    clock.seconds = 30.0
    assert not register.is_postponed(KEY)
    assert register.postponed == 1, "it waits in the cluster until it is taken in again"
    register.start(KEY)
    assert register.postponed == 0


def test_a_postponed_generation_that_never_comes_back_is_forgotten(register: Register, clock: Clock) -> None:
    register.postpone(KEY, seconds=30.0)
    clock.seconds = 100.0
    assert register.postponed == 0
    assert register.start(KEY)


def test_the_memory_of_postponed_generations_is_bounded(register: Register) -> None:
    for key in keys(5):
        register.postpone(key, seconds=30.0)
    assert register.postponed == 2


def _age(**since: float) -> datetime:
    return datetime.now(UTC) - timedelta(**since)


def test_the_oldest_unstored_generation_is_counted_from_the_creation_of_its_object(
    register: Register,
) -> None:
    assert (register.unstored(), register.oldest_unstored_seconds()) == (0, 0.0)
    old, older = (RecordKey("uid", 1, _age(hours=hours), b"") for hours in (1, 2))
    register.start(older)
    register.start(old)
    assert register.unstored() == 2
    assert 7200 <= register.oldest_unstored_seconds() < 7300
    register.committed(older)
    assert register.unstored() == 1
    assert 3600 <= register.oldest_unstored_seconds() < 3700
    register.forget(old)
    assert (register.unstored(), register.oldest_unstored_seconds()) == (0, 0.0)


def test_a_later_generation_waits_since_it_was_taken_in(register: Register) -> None:
    """Its object may be hours old, and nothing says when the generation was made."""
    register.start(RecordKey("uid", 2, _age(hours=5), b""))
    assert register.oldest_unstored_seconds() < 60


def test_a_postponed_generation_goes_on_waiting(register: Register) -> None:
    key = RecordKey("uid", 1, _age(hours=3), b"")
    register.start(key)
    register.postpone(key, seconds=30.0)
    assert register.unstored() == 1
    assert register.oldest_unstored_seconds() >= 10_800
    register.start(key)
    assert register.unstored() == 1
    assert register.oldest_unstored_seconds() >= 10_800


def test_what_is_stored_already_or_will_be_created_does_not_wait(register: Register) -> None:
    register.start(KEY, committed=True)
    assert (register.unstored(), register.oldest_unstored_seconds()) == (0, 0.0)
    register.start(RecordKey("future", 1, _age(hours=-1), b""))
    assert register.oldest_unstored_seconds() == 0.0
