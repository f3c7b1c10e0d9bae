"""The longest run of work in the event loop, in CPU time and as a multiple of a yardstick.

CPU time leaves out what others do meanwhile, and the multiple leaves out how fast the machine is. What the
machine adds now and then, because others have emptied its caches, is in one of several watchings. Work that
is too long is in all of them.
"""

import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from datastorage.resilience.loopwatch import LoopWatch, Pace

T = TypeVar("T")

MOST_YARDS: Final = 30.0
"""Nothing may hold the loop for longer: 30 ms where a yard takes one."""
WATCHINGS: Final = 4
"""How often work is watched that seems to hold the loop for longer."""
# Encoding and decoding this takes about a millisecond of CPU.
_YARDSTICK: Final = [{"name": f"record-{n}", "stored": True, "seconds": n / 4} for n in range(900)]


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
    # Looking for garbage takes the longer the more the tests before have left.
    gc.collect()
    gc.disable()
    watch.start()
    try:
        yield held
    finally:
        watch.stop()
        gc.enable()


async def longest_hold(work: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """Do the work until it holds the loop for less than MOST_YARDS, at most WATCHINGS times.

    Returns its last result, and the longest hold of that time in yards.
    """
    for _ in range(WATCHINGS):
        with loop_held() as held:
            result = await work()
        yards = held.longest / _seconds_of_a_yard()
        if yards < MOST_YARDS:
            break
    return result, yards


def _seconds_of_a_yard() -> float:
    found = []
    for _ in range(9):
        started = time.thread_time()
        json.loads(json.dumps(_YARDSTICK))
        found.append(time.thread_time() - started)
    return statistics.median(found)
