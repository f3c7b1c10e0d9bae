"""Waiting without fixed sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

# The deadline is generous, because other work may leave a test little of the machine; a passing test never
# reaches it.
DEADLINE_SECONDS: Final = 60.0
_INTERVAL_SECONDS: Final = 0.005  # for conditions within this process
_SLOW_INTERVAL_SECONDS: Final = (
    0.05  # for servers and other processes, which frequent polling would slow down
)


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = DEADLINE_SECONDS
) -> None:
    """Return as soon as the condition holds; fail if it does not hold within the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, f"the condition still does not hold after {seconds} s"
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
    """Let every task that can run now reach its next wait."""
    for _ in range(20):
        await asyncio.sleep(0)
