"""Knows whether the watches make progress: open, and heard from lately."""

import time
from types import SimpleNamespace
from typing import Final

import aiohttp

# The API server sends a bookmark about every minute on a silent watch.
_SILENCE_SECONDS: Final = 100.0


class WatchMonitor:
    """Told by the session of each watch that opens, fails or speaks; asked by the readiness check."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self._failed: set[str] = set()

    def opened(self, path: str) -> None:
        """Note that the API server has accepted a watch request."""
        self._heard[path] = time.monotonic()
        self._failed.discard(path)

    def closed(self, path: str) -> None:
        """Note that a watch request was refused or did not get through."""
        self._failed.add(path)

    def stopped(self) -> None:
        """Note that no watch is running at all."""
        self._heard.clear()
        self._failed.clear()

    async def on_chunk(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        params: aiohttp.TraceResponseChunkReceivedParams,
    ) -> None:
        """Note a sign of life (called by aiohttp for each piece of a response)."""
        if params.url.path in self._heard:
            self._heard[params.url.path] = time.monotonic()

    def problem(self, expected: int) -> str | None:
        """Say what is wrong with the watches, of which there should be ``expected``; None when nothing is."""
        if self._failed:
            return f"watch of {', '.join(sorted(self._failed))} does not get through"
        if len(self._heard) < expected:
            return f"{len(self._heard)} of {expected} watches are open"
        silent = [path for path, heard in self._heard.items() if time.monotonic() - heard > _SILENCE_SECONDS]
        if silent:
            return f"watch of {', '.join(sorted(silent))} has been silent for over {_SILENCE_SECONDS:.0f} s"
        return None
