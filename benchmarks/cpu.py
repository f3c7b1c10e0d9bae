"""CPU time of processes with their children, read from outside."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import psutil

_IDLE: Final = ("idle", "iowait")
_COUNTED_TWICE: Final = ("guest", "guest_nice")  # user and nice include them


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that the processes and all their children, living or ended, have used so far."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        total += sum(process.cpu_times()[:4])  # own user and system time, and that of ended children
        for child in process.children():
            with suppress(psutil.NoSuchProcess):  # it has just ended: its parent has its time
                total += sum(child.cpu_times()[:2])
    return total


class Disturbance:
    """How much of the machine others have used since this was made: their work slows ours."""

    def __init__(self, own_pids: Iterable[int]) -> None:
        self._own_pids = (os.getpid(), *own_pids)
        self._started = time.monotonic()
        self._busy = _busy_seconds()
        self._own = cpu_seconds(self._own_pids)

    def share(self) -> float:
        """Return the share of all CPU time that went to others, the host included, from 0 to 1."""
        capacity = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (cpu_seconds(self._own_pids) - self._own)
        return round(max(0.0, others / capacity), 2)


def _busy_seconds() -> float:
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in _IDLE + _COUNTED_TWICE))
