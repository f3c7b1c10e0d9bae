"""The longest run of work in the event loop, in CPU time, so that a busy machine changes nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datastorage.resilience.loopwatch import LoopWatch, Pace


@dataclass
class LoopHeld:
    """What the watch of the operator has reported."""

    longest: float = 0.0
    """In seconds."""

    def report(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)


@contextmanager
def loop_held() -> Iterator[LoopHeld]:
    """Watch the running loop until the end of the block."""
    held = LoopHeld()
    watch = LoopWatch(held.report, pace=Pace(beat_seconds=0), clock=time.thread_time)
    watch.start()
    try:
        yield held
    finally:
        watch.stop()
