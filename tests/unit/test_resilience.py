"""Signals, pauses and the loop of periodic work."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from datastorage.resilience.backoff import Backoff
from datastorage.resilience.signal import Signal
from datastorage.resilience.worker import jittered, repeat
from harness.polling import DEADLINE_SECONDS

LONG = 3600.0


async def test_a_signal_that_was_set_before_is_seen_once() -> None:
    signal = Signal()
    signal.set()
    signal.set()
    assert await signal.wait(LONG)
    assert not await signal.wait(0.0)


async def test_a_signal_wakes_the_one_who_waits() -> None:
    signal = Signal()
    waiting = asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    signal.set()
    assert await asyncio.wait_for(waiting, DEADLINE_SECONDS)


async def test_a_wait_without_a_signal_ends_in_time() -> None:
    assert not await Signal().wait(0.001)


@given(first=st.floats(0.001, 1.0), factor=st.floats(1.0, 100.0))
def test_pauses_double_up_to_the_limit(first: float, factor: float) -> None:
    most = first * factor
    backoff = Backoff(first, most)
    reached = first
    for _ in range(10):
        assert reached / 2 <= backoff.next() <= reached
        reached = min(reached * 2, most)
    backoff.reset()
    assert first / 2 <= backoff.next() <= first


@given(st.floats(0.0, 1e6))
def test_an_interval_differs_by_a_fifth_at_most(seconds: float) -> None:
    assert seconds * 0.8 <= jittered(seconds) <= seconds * 1.2


class Work:
    """Counts its runs, and lets a test wait for them."""

    def __init__(self, *answers: float | None) -> None:
        self.runs = 0
        self._answers = list(answers)
        self._ran = asyncio.Condition()

    async def __call__(self) -> float | None:
        async with self._ran:
            self.runs += 1
            self._ran.notify_all()
        return self._answers.pop(0) if self._answers else None

    async def wait_for(self, runs: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), self._ran:
            await self._ran.wait_for(lambda: self.runs >= runs)


async def running(loop: Awaitable[None], check: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(loop)
    try:
        await check()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_periodic_work_begins_at_once_and_again_when_it_is_woken() -> None:
    work, wake = Work(), Signal()

    async def check() -> None:
        await work.wait_for(1)
        wake.set()
        await work.wait_for(2)

    await running(repeat(work, interval_seconds=LONG, wake=wake), check)


async def test_a_request_during_the_work_is_not_lost() -> None:
    wake = Signal()
    work = Work()

    async def ask_once() -> float | None:
        if work.runs == 0:
            wake.set()
        return await work()

    await running(repeat(ask_once, interval_seconds=LONG, wake=wake), lambda: work.wait_for(2))


async def test_periodic_work_is_repeated_at_its_interval() -> None:
    work = Work()
    await running(repeat(work, interval_seconds=0.001), lambda: work.wait_for(3))


async def test_work_may_choose_when_it_is_repeated() -> None:
    work = Work(0.0, 0.001)
    await running(repeat(work, interval_seconds=LONG), lambda: work.wait_for(3))


async def test_an_error_in_the_work_ends_the_loop() -> None:
    async def work() -> None:
        raise ValueError("broken")

    with suppress(ValueError):
        await asyncio.wait_for(repeat(work, interval_seconds=LONG), DEADLINE_SECONDS)
        raise AssertionError("the loop went on")
