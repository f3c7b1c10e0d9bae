"""CPU time of processes with their children, read from outside."""

from collections.abc import Iterable

import psutil


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that the processes and all their children, living or ended, have used so far."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        total += sum(process.cpu_times()[:4])  # own user and system time, and that of ended children
        for child in process.children():
            total += sum(child.cpu_times()[:2])
    return total
