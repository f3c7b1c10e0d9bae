"""Waits until a condition holds: ``eventually`` within this process, ``until`` for servers and processes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

# The deadline is generous, because other work may leave a test little of the machine; a passing test never
# reaches it.
DEADLINE_SECONDS: Final = 60.0
# Within this process: a look costs nothing.
_INTERVAL_SECONDS: Final = 0.005
# For servers and other processes, which frequent polling would slow down.
_SLOW_INTERVAL_SECONDS: Final = 0.05


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = DEADLINE_SECONDS
) -> None:
    """Wait until a condition of this process holds. Raises AssertionError after ``seconds``."""

    async def holds() -> bool:
        result = condition()
        return result if isinstance(result, bool) else await result

    await _poll(holds, seconds=seconds, what="the condition holds", interval_seconds=_INTERVAL_SECONDS)


async def until(
    condition: Callable[[], Awaitable[T | None]], *, seconds: float = DEADLINE_SECONDS, what: str
) -> T:
    """Poll a server or another process until the condition is true, and return what it returned.

    Raises AssertionError with ``what`` and the last value after ``seconds``.
    """
    return await _poll(condition, seconds=seconds, what=what, interval_seconds=_SLOW_INTERVAL_SECONDS)


def until_blocking(condition: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS, what: str) -> None:
    """Poll as ``until`` does, for callers without an event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(_SLOW_INTERVAL_SECONDS)


async def settle() -> None:
    """Let every task that can run now reach its next wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def _poll(
    condition: Callable[[], Awaitable[T | None]], *, seconds: float, what: str, interval_seconds: float
) -> T:
    deadline = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s (last: {value!r})"
        await asyncio.sleep(interval_seconds)
