"""Each identity has its own tokens, which come back with time; no identity takes those of another."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from datastorage.api.allowances import ENDINGS, AllowanceLimits, Allowances
from datastorage.errors import TooManyRequestsError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(clock: Clock, **limits: float) -> Allowances:
    chosen = {"tokens_per_second": 2.0, "burst": 4.0, **limits}
    return Allowances(AllowanceLimits(**chosen), clock)  # type: ignore[arg-type]


def admitted(allowances: Allowances, identity: str = "a", times: int = 100) -> int:
    count = 0
    with suppress(TooManyRequestsError):
        for _ in range(times):
            allowances.admit(identity)
            count += 1
    return count


def test_a_burst_is_served_and_then_the_rate(clock: Clock) -> None:
    allowances = made(clock)
    assert admitted(allowances) == 4
    clock.now += 1
    assert admitted(allowances) == 2
    clock.now += 1000
    assert admitted(allowances) == 4


def test_the_refusal_says_when_to_come_back(clock: Clock) -> None:
    allowances = made(clock, tokens_per_second=0.1, burst=1)
    admitted(allowances)
    with pytest.raises(TooManyRequestsError, match="DATASTORAGE_API_REQUESTS_PER_SECOND") as caught:
        allowances.admit("a")
    assert caught.value.retry_after_seconds == 10
    clock.now += 10
    assert admitted(allowances) == 1


def test_a_batch_costs_more_and_is_not_refused_itself(clock: Clock) -> None:
    allowances = made(clock, records_per_token=5)
    allowances.admit("a")
    allowances.charge("a", 40)  # 8 tokens, of which one was taken: 4 tokens less than none
    with pytest.raises(TooManyRequestsError) as caught:
        allowances.admit("a")
    assert caught.value.retry_after_seconds == 3
    clock.now += 3
    assert admitted(allowances) == 2
    for records in (0, 1, 5):
        clock.now += 1000
        allowances.admit("a")
        allowances.charge("a", records)
        assert admitted(allowances) == 3


def test_a_flood_of_one_identity_takes_nothing_from_another(clock: Clock) -> None:
    allowances = made(clock)
    assert admitted(allowances, "flood", 1000) == 4
    assert admitted(allowances, "quiet") == 4


def test_the_memory_for_identities_is_bounded_and_the_busy_ones_stay(clock: Clock) -> None:
    allowances = made(clock, identities=3)
    admitted(allowances, "busy")
    for number in range(100):
        allowances.admit(f"passer-by {number}")
        assert admitted(allowances, "busy") == 0
    assert admitted(allowances, "passer-by 99") == 3
    assert admitted(allowances, "passer-by 0") == 4


def test_requests_under_way_are_bounded_until_they_end(clock: Clock) -> None:
    allowances = made(clock, burst=100, at_once=2)
    endings: list[Callable[[], None]] = []
    token = ENDINGS.set(endings)
    try:
        assert admitted(allowances) == 2
        with pytest.raises(TooManyRequestsError, match="under way"):
            allowances.admit("a")
        assert admitted(allowances, "b") == 2
        endings.pop(0)()
        assert admitted(allowances) == 1
        for end in endings:
            end()
        assert admitted(allowances) == 2
    finally:
        ENDINGS.reset(token)
