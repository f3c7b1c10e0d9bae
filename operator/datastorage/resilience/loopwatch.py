"""Measures for how long the event loop is held: meanwhile nothing else runs, and every answer waits."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the loop is asked for a sign of life."""

    beat_seconds: float = 0.025
    """Half of the 50 ms for which nothing may hold the loop. A beat costs some microseconds."""


class LoopWatch:
    """Asks the loop to call it at fixed times, and reports each delay."""

    def __init__(
        self,
        report: Callable[[float], None],
        *,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``report`` gets each delay in seconds, ``clock`` is in seconds.

        With a pace of 0 the loop calls in each of its turns. If the clock is that of the thread's CPU time, a
        delay is then the work of one turn, however busy the machine is.
        """
        self._report = report
        self._pace = pace
        self._clock = clock
        self._due = 0.0
        self._next: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        loop, seconds = asyncio.get_running_loop(), self._pace.beat_seconds
        self._due = self._clock() + seconds
        self._next = loop.call_later(seconds, self._beat) if seconds else loop.call_soon(self._beat)

    def stop(self) -> None:
        """End."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _beat(self) -> None:
        self._report(max(0.0, self._clock() - self._due))
        self.start()
