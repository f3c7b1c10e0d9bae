"""Knows whether the watches are open.

A watch that falls silent needs no clock here: Kopf ends it after its inactivity time-out and asks again,
and an attempt that fails is told to this monitor.
"""


class WatchMonitor:
    """Told by the session of each watch request and its answer; asked by the health checks."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._failed: set[str] = set()

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
