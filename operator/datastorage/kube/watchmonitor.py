"""Knows whether the watches are open, and which tasks keep them.

A watch that falls silent needs no clock here: Kopf ends it after its inactivity time-out and asks again,
and an attempt that fails is told to this monitor.
"""

import asyncio


class WatchMonitor:
    """Told by the session of each watch request and its answer; asked by the health checks."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._failed: set[str] = set()
        # A handful: Kopf has one task for each watch and a few that look around.
        self._tasks: set[asyncio.Task[object]] = set()

    def asked(self) -> None:
        """Note that the current task makes a request for Kopf."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)

    def take_tasks(self) -> set[asyncio.Task[object]]:
        """Return the tasks that have made requests since the last call, whether they still run or not."""
        tasks, self._tasks = self._tasks, set()
        return tasks

    def opened(self, path: str) -> None:
        """Note that the API server has accepted a watch request."""
        self._open.add(path)
        self._failed.discard(path)

    def closed(self, path: str) -> None:
        """Note that a watch request was refused or did not get through."""
        self._open.discard(path)
        self._failed.add(path)

    def stopped(self) -> None:
        """Note that no watch is running at all."""
        self._open.clear()
        self._failed.clear()

    def problem(self, expected: int) -> str | None:
        """Say what is wrong with the watches, of which there should be ``expected``; None when nothing is."""
        if self._failed:
            return f"watch of {', '.join(sorted(self._failed))} does not get through"
        if len(self._open) < expected:
            return f"{len(self._open)} of {expected} watches are open"
        return None
