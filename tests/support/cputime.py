"""Measures the CPU time of work, for tests of how it grows with the size of the input."""

import time
from collections.abc import Callable


def best_cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of the process for the work, in seconds: the least of three attempts."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best
