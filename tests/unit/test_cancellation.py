"""A cancelled task ends as cancelled, whatever libraries do in it."""

import asyncio
import contextlib

import pytest

from datastorage.resilience.cancellation import cancellation_kept, end_tasks
from harness.polling import DEADLINE_SECONDS


async def _swallows() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def _fails() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise OSError("the server is silent")


@pytest.mark.parametrize("work", [_swallows, _fails, asyncio.Event().wait])
async def test_a_cancelled_task_ends_as_cancelled(work: object) -> None:
    after: list[str] = []

    async def run() -> None:
        with cancellation_kept():
            await work()  # type: ignore[operator]
        after.append("went on")

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert after == []


async def test_a_time_out_within_is_a_time_out() -> None:
    with pytest.raises(TimeoutError), cancellation_kept():
        async with asyncio.timeout(0):
            await _fails_when_cancelled()


async def _fails_when_cancelled() -> None:
    with cancellation_kept():
        await _fails()


async def test_without_a_cancellation_errors_are_themselves() -> None:
    with pytest.raises(KeyError), cancellation_kept():
        raise KeyError


async def test_an_earlier_cancellation_has_no_effect() -> None:
    async def run() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with cancellation_kept():
            await asyncio.sleep(0)
        return "cleaned up"

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned up"


async def test_a_task_that_has_swallowed_its_cancellation_is_cancelled_again() -> None:
    async def hard_of_hearing() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(hard_of_hearing()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await end_tasks(tasks, seconds_a_try=0.5)
    assert all(task.done() for task in tasks)


async def test_a_task_that_never_ends_is_left_and_named(caplog: pytest.LogCaptureFixture) -> None:
    over = asyncio.Event()

    async def deaf() -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    task = asyncio.create_task(deaf(), name="deaf")
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await end_tasks([task], seconds_a_try=0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "The task deaf does not end and is left running"
    ]
    over.set()
    await task
