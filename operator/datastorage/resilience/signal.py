"""A signal with which one component wakes another."""

import asyncio


class Signal:
    """Wakes the waiting component. Setting it several times before it is seen is like setting it once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiting component, now or when it next begins to wait."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until the signal is set, ``seconds`` at most, and clear it. Return whether it was set."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        # The signal is cleared before the work begins, so that a request made meanwhile leads to another run.
        self._event.clear()
        return True
