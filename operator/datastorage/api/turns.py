"""Bounds the work of one sort that is done at a time, and what one identity has of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from datastorage import metrics
from datastorage.errors import OverloadedError
from datastorage.metrics import Limit


class Turns:
    """The turns for one sort of work. One identity has at most one less than there are."""

    def __init__(self, at_once: int, *, patience_seconds: float, limit: Limit, refusal: str) -> None:
        """A request waits ``patience_seconds`` for its turn. ``limit`` is the label of the metric, and
        ``refusal`` says what there is too much of.
        """
        self._patience_seconds = patience_seconds
        self._refusal = refusal
        self._hit = metrics.LIMITS_HIT.labels(limit)
        self._turns = asyncio.Semaphore(at_once)
        self._most_of_one = max(1, at_once - 1)
        # An entry lives as long as a request of its identity.
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, identity: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the end of the block. Raises OverloadedError."""
        own = self._of.get(identity)
        if own is None:
            own = self._of[identity] = asyncio.Semaphore(self._most_of_one)
        async with AsyncExitStack() as turns:
            try:
                async with asyncio.timeout(self._patience_seconds):
                    # The order counts: a request that waits for its own identity must not hold a turn.
                    await turns.enter_async_context(own)
                    await turns.enter_async_context(self._turns)
            except TimeoutError:
                self._hit.inc()
                raise OverloadedError(f"{self._refusal}: ask again later") from None
            yield
