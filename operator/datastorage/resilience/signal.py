"""A wish that one component sets and another one waits for."""

import asyncio


class Signal:
    """Wakes the one who waits for it. To set it twice before it is seen is to set it once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the one who waits, now or when it next begins to wait."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until the signal is set, ``seconds`` at most, and clear it. Return whether it was set."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        # Cleared before the work begins: what is wanted while it runs is done afterwards.
        self._event.clear()
        return True
