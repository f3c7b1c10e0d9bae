"""Waiting without fixed sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

# Reached by no test that passes: generous, because other work may leave a test little of the machine.
DEADLINE_SECONDS: Final = 60.0
_INTERVAL_SECONDS: Final = 0.005  # for what is in this process
_SLOW_INTERVAL_SECONDS: Final = 0.05  # for servers and other processes, which the questions would slow


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = DEADLINE_SECONDS
) -> None:
    """Return as soon as the condition holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        await asyncio.sleep(_INTERVAL_SECONDS)


async def until(condition: Callable[[], Awaitable[T | None]], *, seconds: float, what: str) -> T:
    """Poll an async condition until it is true, and return what it returned.

    Raises AssertionError with ``what`` and the last value after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s (last: {value!r})")
        await asyncio.sleep(_SLOW_INTERVAL_SECONDS)


async def settle() -> None:
    """Let every task that can run now come to its next wait."""
    for _ in range(20):
        await asyncio.sleep(0)
