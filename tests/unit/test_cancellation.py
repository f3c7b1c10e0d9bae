"""A cancelled task ends as cancelled, whatever the libraries make of it."""

import asyncio
import contextlib

import pytest

from datastorage.cancellation import cancellation_kept


async def _swallows() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def _fails() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise OSError("the server is silent")


@pytest.mark.parametrize("work", [_swallows, _fails, asyncio.Event().wait])
async def test_who_is_cancelled_ends_as_cancelled(work: object) -> None:
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


async def test_a_cancellation_of_before_is_no_reason() -> None:
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
