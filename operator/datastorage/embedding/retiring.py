"""Closes clients that were replaced by new ones."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class RetiredClients:
    """Closes each retired client after the uses that began with it have ended."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = asyncio.Event()

    def add(self, close: Callable[[], Awaitable[None]], *, after_seconds: float) -> None:
        """Call ``close`` after the longest time that a use of the client may take."""
        task = asyncio.create_task(self._close_later(close, after_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close all retired clients now."""
        self._is_closing.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_later(self, close: Callable[[], Awaitable[None]], seconds: float) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_closing.wait()
        finally:
            await close()
