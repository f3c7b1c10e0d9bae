"""Remembers the API server's answers about callers for a short time, and sends each review only once.

A flood of bad requests must not cost good callers their answers. So answers of yes and of no are remembered
apart: however many tokens somebody invents, each costs only the place of another refused one. And some of
the places for reviews under way are reserved for callers to whom the answer was yes the last time. One
identity that asks about many rights leaves some of the other places to others.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from cachetools import LRUCache

from datastorage import metrics
from datastorage.errors import ClusterUnavailableError
from datastorage.metrics import Review, ReviewOutcome
from datastorage.resilience.singleflight import NoResultError, SingleFlight

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on remembering answers, and on asking for them."""

    seconds: float = 10.0
    """An answer counts from the moment at which its review was sent. A right that was taken away, or a token
    that has become void, is therefore accepted for no longer than this."""
    granted: int = 5_000
    """Remembered answers of yes. One takes about 2 KB, most of it for the names of groups."""
    refused: int = 5_000
    """Remembered answers of no, at about 300 bytes."""
    under_way: int = 32
    """Reviews at a time. One takes some milliseconds, so this allows for thousands each second. More would
    only wait in the API server, and the operator's own requests with them."""
    reserved: int = 16
    """The number of those that only callers with an earlier answer of yes may use."""
    of_one: int = 8
    """Reviews of one identity at a time: half of those that are left for new callers. An identity may ask
    about any number of namespaces."""
    turn_seconds: float = 2.0
    """A request waits no longer for the other reviews of its identity. Two hundred take half a second."""
    patience_seconds: float = 8.0
    """A request waits no longer for its review, which goes on: its answer serves the next request. This is
    more than one review takes, except where a plugin first has to bring the operator's own credentials."""


@dataclass(frozen=True, slots=True)
class _Answer(Generic[V]):
    value: V
    asked_at: float


class ReviewCache(Generic[K, V]):
    """The answers to reviews of one kind by their keys. An answer is a value, or None for no."""

    def __init__(
        self, review: Review, *, limits: Limits = Limits(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``review`` is the label of the metric. ``clock`` is in seconds."""
        self._limits = limits
        self._clock = clock
        # Old answers stay until they are replaced. They are never used; they mark callers that were good.
        self._granted: LRUCache[K, _Answer[V]] = LRUCache(limits.granted)
        self._refused: LRUCache[K, _Answer[None]] = LRUCache(limits.refused)
        self._under_way: SingleFlight[K, V | None] = SingleFlight("caller-review")
        # An entry lives as long as a request of its identity.
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._seconds = metrics.CALLER_REVIEW_DURATION.labels(review)
        self._hit = metrics.CALLER_REVIEWS.labels(review, ReviewOutcome.HIT)
        self._miss = metrics.CALLER_REVIEWS.labels(review, ReviewOutcome.MISS)
        self._error = metrics.CALLER_REVIEWS.labels(review, ReviewOutcome.ERROR)
        self._busy = metrics.CALLER_REVIEWS.labels(review, ReviewOutcome.BUSY)

    async def get(
        self, key: K, ask: Callable[[], Awaitable[V | None]], *, identity: str | None = None
    ) -> V | None:
        """Return the remembered answer, or that of the review under way, or send a review with ``ask``.

        ``identity`` is the name of the caller where it is known: it has few reviews under way at a time.

        If the caller is cancelled, the review goes on, because others may wait for it. Raises
        ClusterUnavailableError if the API server does not answer, or if too many reviews are under way.
        """
        if identity is None or self._remembered(key) is not None or key in self._under_way:
            return await self._found(key, ask)
        async with self._turn(identity):
            return await self._found(key, ask)

    @asynccontextmanager
    async def _turn(self, identity: str) -> AsyncIterator[None]:
        turns = self._turns.get(identity)
        if turns is None:
            turns = self._turns[identity] = asyncio.Semaphore(self._limits.of_one)
        try:
            async with asyncio.timeout(self._limits.turn_seconds):
                await turns.acquire()
        except TimeoutError:
            self._busy.inc()
            raise ClusterUnavailableError(
                f"too many rights of {identity} are being reviewed by the API server; try again"
            ) from None
        try:
            yield
        finally:
            turns.release()

    async def _found(self, key: K, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        answer = self._remembered(key)
        if answer is not None:
            self._hit.inc()
            return answer.value
        if key in self._under_way:
            self._hit.inc()
        else:
            self._check_room(key)
        try:
            return await self._under_way.do(
                key, partial(self._review, key, ask), seconds=self._limits.patience_seconds
            )
        except NoResultError:
            raise ClusterUnavailableError(
                "the API server does not say in time who the caller is; try again"
            ) from None

    async def close(self) -> None:
        """End the reviews under way."""
        await self._under_way.close()

    def _remembered(self, key: K) -> _Answer[V] | _Answer[None] | None:
        answer = self._granted.get(key) or self._refused.get(key)
        is_valid = answer is not None and self._clock() - answer.asked_at < self._limits.seconds
        return answer if is_valid else None

    def _check_room(self, key: K) -> None:
        """Raise ClusterUnavailableError if no further review may be sent now."""
        reserved = 0 if key in self._granted else self._limits.reserved
        if len(self._under_way) >= self._limits.under_way - reserved:
            self._busy.inc()
            raise ClusterUnavailableError("too many callers are being reviewed by the API server; try again")
        self._miss.inc()

    async def _review(self, key: K, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        asked_at = self._clock()
        try:
            with self._seconds.time():
                value = await ask()
        except Exception:
            self._error.inc()
            raise
        if value is None:
            self._granted.pop(key, None)
            self._refused[key] = _Answer(None, asked_at)
        else:
            self._granted[key] = _Answer(value, asked_at)
        return value
