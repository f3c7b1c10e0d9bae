"""Answers about callers are remembered for a short time, asked for once, and safe from a flood."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from datastorage import metrics
from datastorage.api.reviewcache import Limits, ReviewCache
from datastorage.errors import ClusterUnavailableError
from datastorage.metrics import Review
from harness.polling import settle
from tests.support.tasks import Spawn

SECONDS = Limits().seconds


@dataclass
class Reviews:
    """Answers each key with its answer, or not before ``gate`` is set."""

    answers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None
    gate: asyncio.Event | None = None
    now: float = 1000.0

    def of(self, key: str) -> Callable[[], Awaitable[str | None]]:
        async def ask() -> str | None:
            self.asked.append(key)
            error, answer = self.error, self.answers.get(key)
            if self.gate is not None:
                await self.gate.wait()
            if error is not None:
                raise error
            return answer

        return ask

    def cache(self, limits: Limits = Limits()) -> ReviewCache[str, str]:
        return ReviewCache(Review.TOKEN, limits=limits, clock=lambda: self.now)


@pytest.fixture
def reviews() -> Reviews:
    return Reviews({"good": "ann"})


def counted(outcome: str) -> float:
    name = "datastorage_caller_reviews_total"
    return metrics.REGISTRY.get_sample_value(name, {"review": "token", "outcome": outcome}) or 0.0


@pytest.mark.parametrize(("key", "answer"), [("good", "ann"), ("bad", None)])
async def test_an_answer_is_remembered_for_its_time(reviews: Reviews, key: str, answer: str | None) -> None:
    cache = reviews.cache()
    before = {outcome: counted(outcome) for outcome in ("hit", "miss")}
    for _ in range(3):
        assert await cache.get(key, reviews.of(key)) == answer
    reviews.now += SECONDS - 0.001
    assert await cache.get(key, reviews.of(key)) == answer
    assert reviews.asked == [key]
    reviews.now += 0.001
    assert await cache.get(key, reviews.of(key)) == answer
    assert reviews.asked == [key, key]
    assert {outcome: counted(outcome) - before[outcome] for outcome in before} == {"hit": 3, "miss": 2}


async def test_the_time_of_an_answer_begins_with_its_question(reviews: Reviews, spawn: Spawn) -> None:
    """A right may be taken away while its review is under way."""
    cache = reviews.cache()
    reviews.gate = asyncio.Event()
    waiting = spawn(cache.get("good", reviews.of("good")))
    await settle()
    reviews.now += SECONDS
    reviews.gate.set()
    assert await waiting == "ann"
    await cache.get("good", reviews.of("good"))
    assert len(reviews.asked) == 2


async def test_a_changed_answer_replaces_the_old_one(reviews: Reviews) -> None:
    cache = reviews.cache()
    for answer in ("ann", None, "ann"):
        reviews.answers = {"good": answer} if answer else {}
        reviews.now += SECONDS
        for _ in range(2):
            assert await cache.get("good", reviews.of("good")) == answer
    assert len(reviews.asked) == 3


async def test_many_requests_at_once_send_one_review(reviews: Reviews, spawn: Spawn) -> None:
    cache = reviews.cache()
    reviews.gate = asyncio.Event()
    waiting = [spawn(cache.get("good", reviews.of("good"))) for _ in range(50)]
    await settle()
    reviews.gate.set()
    assert await asyncio.gather(*waiting) == ["ann"] * 50
    assert reviews.asked == ["good"]


@pytest.mark.parametrize("cancelled", [[0], [1, 2], [0, 1, 2]])
async def test_a_cancelled_request_does_not_cancel_the_review(
    reviews: Reviews, spawn: Spawn, cancelled: list[int]
) -> None:
    cache = reviews.cache()
    reviews.gate = asyncio.Event()
    waiting = [spawn(cache.get("good", reviews.of("good"))) for _ in range(3)]
    await settle()
    for index in cancelled:
        waiting[index].cancel()
    await settle()
    reviews.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    for index, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) if index in cancelled else result == "ann"
    await settle()
    assert await cache.get("good", reviews.of("good")) == "ann"
    assert reviews.asked == ["good"]


async def test_an_error_reaches_all_who_wait_and_is_forgotten(reviews: Reviews) -> None:
    cache = reviews.cache()
    before = counted("error")
    reviews.gate, reviews.error = asyncio.Event(), ClusterUnavailableError("away")
    waiting = [asyncio.create_task(cache.get("good", reviews.of("good"))) for _ in range(3)]
    await settle()
    reviews.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(result) for result in results] == ["away"] * 3
    assert counted("error") == before + 1
    reviews.error = None
    assert await cache.get("good", reviews.of("good")) == "ann"


async def test_an_error_that_nobody_waits_for_is_not_logged_as_lost(
    reviews: Reviews, caplog: pytest.LogCaptureFixture
) -> None:
    cache = reviews.cache()
    reviews.gate, reviews.error = asyncio.Event(), ClusterUnavailableError("away")
    waiting = asyncio.create_task(cache.get("good", reviews.of("good")))
    await settle()
    waiting.cancel()
    await settle()
    reviews.gate.set()
    await settle()
    del waiting  # asyncio logs a lost error when nothing refers to its task any more
    gc.collect()
    assert caplog.text == ""


async def test_an_error_does_not_extend_an_old_answer(reviews: Reviews) -> None:
    cache = reviews.cache()
    assert await cache.get("good", reviews.of("good")) == "ann"
    reviews.now += SECONDS
    reviews.error = ClusterUnavailableError("away")
    for _ in range(2):
        with pytest.raises(ClusterUnavailableError):
            await cache.get("good", reviews.of("good"))
    assert len(reviews.asked) == 3


async def test_a_flood_of_bad_tokens_costs_no_good_one_its_answer(reviews: Reviews) -> None:
    limits = Limits(granted=3, refused=10)
    cache = reviews.cache(limits)
    good = ["a", "b", "c"]
    reviews.answers = {key: key for key in good}
    for key in good:
        await cache.get(key, reviews.of(key))
    for number in range(1000):
        assert await cache.get(f"flood-{number}", reviews.of("flood")) is None
    reviews.asked.clear()
    assert [await cache.get(key, reviews.of(key)) for key in good] == good
    assert reviews.asked == []


async def test_refused_answers_are_bounded(reviews: Reviews) -> None:
    cache = reviews.cache(Limits(refused=10))
    for number in range(11):
        await cache.get(f"bad-{number}", reviews.of("bad"))
    await cache.get("bad-10", reviews.of("last"))
    await cache.get("bad-0", reviews.of("first"))
    assert reviews.asked[11:] == ["first"]


async def test_granted_answers_are_bounded_and_the_used_ones_stay(reviews: Reviews) -> None:
    cache = reviews.cache(Limits(granted=2))
    reviews.answers = {key: key for key in "abc"}
    for key in "abac":
        await cache.get(key, reviews.of(key))
    reviews.asked.clear()
    for key in "acb":
        await cache.get(key, reviews.of(key))
    assert reviews.asked == ["b"]


async def test_reviews_under_way_are_bounded(reviews: Reviews, spawn: Spawn) -> None:
    limits = Limits(under_way=3, reserved=1)
    cache = reviews.cache(limits)
    before = counted("busy")
    assert await cache.get("good", reviews.of("good")) == "ann"
    reviews.now += SECONDS
    reviews.gate = asyncio.Event()
    flood = [asyncio.create_task(cache.get(f"flood-{number}", reviews.of("flood"))) for number in range(20)]
    await settle()
    assert reviews.asked == ["good", "flood", "flood"]
    results = await asyncio.gather(*flood[2:], return_exceptions=True)
    assert all(isinstance(result, ClusterUnavailableError) for result in results)
    assert counted("busy") == before + 18
    # The reserved place is for those who were good before.
    known = spawn(cache.get("good", reviews.of("good")))
    joined = spawn(cache.get("flood-0", reviews.of("flood")))
    await settle()
    assert reviews.asked == ["good", "flood", "flood", "good"]
    reviews.gate.set()
    assert (await known, await joined) == ("ann", None)
    assert await cache.get("flood-19", reviews.of("flood")) is None, "there is room again"


async def test_a_refused_caller_has_no_reserved_place(reviews: Reviews, spawn: Spawn) -> None:
    cache = reviews.cache(Limits(under_way=2, reserved=1))
    for answers in ({"good": "ann"}, {}):
        reviews.answers = answers
        await cache.get("good", reviews.of("good"))
        reviews.now += SECONDS
    reviews.gate = asyncio.Event()
    spawn(cache.get("other", reviews.of("other")))
    await settle()
    with pytest.raises(ClusterUnavailableError, match="too many"):
        await cache.get("good", reviews.of("good"))
    reviews.gate.set()


async def test_one_identity_with_many_rights_leaves_places_to_others(reviews: Reviews, spawn: Spawn) -> None:
    cache = reviews.cache()
    reviews.gate = asyncio.Event()
    flood = [
        spawn(cache.get(f"right-{n}", reviews.of(f"right-{n}"), identity="flood"))
        for n in range(3 * Limits().under_way)
    ]
    await settle()
    assert len(reviews.asked) == Limits().of_one
    ann = spawn(cache.get("good", reviews.of("good"), identity="ann"))
    await settle()
    assert reviews.asked[-1] == "good"
    reviews.gate.set()
    assert await ann == "ann"
    # The flood waits for itself alone, and none of its own requests fails.
    assert await asyncio.gather(*flood) == [None] * len(flood)


async def test_an_identity_does_not_wait_long_for_its_own_reviews(reviews: Reviews, spawn: Spawn) -> None:
    cache = reviews.cache(Limits(of_one=1, turn_seconds=0.01))
    reviews.gate = asyncio.Event()
    first = spawn(cache.get("a", reviews.of("a"), identity="ann"))
    await settle()
    with pytest.raises(ClusterUnavailableError, match="rights of ann"):
        await cache.get("b", reviews.of("b"), identity="ann")
    # Whoever asks for the same has no review of its own.
    same = spawn(cache.get("a", reviews.of("a"), identity="ann"))
    await settle()
    reviews.gate.set()
    assert (await first, await same, reviews.asked) == (None, None, ["a"])


async def test_a_slow_review_costs_a_request_limited_time(reviews: Reviews) -> None:
    cache = reviews.cache(Limits(patience_seconds=0.01))
    reviews.gate = asyncio.Event()
    with pytest.raises(ClusterUnavailableError, match="in time"):
        await cache.get("good", reviews.of("good"))
    reviews.gate.set()
    await settle()
    assert await cache.get("good", reviews.of("good")) == "ann", "the review went on"
    assert reviews.asked == ["good"]


async def test_the_end_ends_the_reviews_and_no_other_task(reviews: Reviews) -> None:
    cache = reviews.cache()
    reviews.gate = asyncio.Event()
    waiting = asyncio.create_task(cache.get("good", reviews.of("good")))
    await settle()
    await cache.close()
    with pytest.raises(ClusterUnavailableError):
        await waiting
