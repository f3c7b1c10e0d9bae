"""The loop of all work that is repeated at intervals, or sooner on request."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from datastorage.resilience.signal import Signal

MIN_JITTER: Final = 0.8
"""The shortest interval with jitter, as a factor of the interval without."""


def jittered(seconds: float) -> float:
    """Return an interval that differs by up to a fifth, so that replicas do not work in step."""
    return seconds * random.uniform(MIN_JITTER, 2 - MIN_JITTER)  # noqa: S311  # jitter is no secret


async def repeat(
    work: Callable[[], Awaitable[float | None]],
    *,
    interval_seconds: float,
    wake: Signal | None = None,
    pause_seconds: float = 0.0,
) -> NoReturn:
    """Do the work until cancelled: immediately, then at intervals with jitter, and whenever ``wake`` is set.

    If the work returns a number, the next run begins after that many seconds, without jitter, instead of the
    interval. At least ``pause_seconds`` lie between two runs, however often ``wake`` is set. An error in the
    work ends the loop.
    """
    wake = wake if wake is not None else Signal()
    while True:
        seconds = await work()
        await asyncio.sleep(pause_seconds)
        if seconds is None:
            seconds = jittered(interval_seconds)
        await wake.wait(max(seconds - pause_seconds, 0.0))
