"""Watches a standby: whether it serves, and by how much it lags behind its primary."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from datastorage import metrics
from datastorage.errors import ConfigurationError, DataStorageError, TransientError
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.signal import Signal
from datastorage.resilience.worker import repeat
from datastorage.storage.replication import ServerState


@dataclass(frozen=True, slots=True)
class Pace:
    """How often both servers are asked, and how much is remembered."""

    seconds: float = 1.0
    """Between two looks. The lag that is reported has about this precision."""
    pause_seconds: float = 0.1
    """Between two looks when questions that fail ask for one."""
    answer_seconds: float = 2.0
    """For the answer of each server: the standby counts as away after this time."""
    positions: int = 1_000
    """Positions of the primary that the standby has not reached yet. When there are more, every second one is
    dropped, and a lag of many minutes is reported a little too long."""
    late_seconds: float = 60.0
    """A standby that lags by more is named by /ready."""


@dataclass(frozen=True, slots=True)
class _Mark:
    position: int
    at: float
    """Every commit that was acknowledged before this time is before the position."""


class Standby:
    """The state of a standby, from a look at both servers each second."""

    def __init__(
        self,
        primary: Callable[[], Awaitable[ServerState]],
        standby: Callable[[], Awaitable[ServerState]],
        *,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Both functions return the state of a server (storage/replication.py). ``clock`` is in seconds."""
        self._ask_primary = primary
        self._ask_standby = standby
        self._pace = pace
        self._clock = clock
        self._wake = Signal()
        self._limits: set[asyncio.Timeout] = set()
        self._breaker = Breaker(metrics.Dependency.STANDBY, self._look_at_standby)
        self._is_known = False
        self._primary: ServerState | None = None
        # Positions of the primary that the standby has not reached, the earliest first.
        self._ahead: deque[_Mark] = deque()
        self._reached_at: float | None = None

    @property
    def problem(self) -> str | None:
        """Why the standby can't be asked now, or None."""
        if self._breaker.reason is not None:
            return self._breaker.reason
        return None if self._is_known else "the standby of PostgreSQL has not answered yet"

    @property
    def lateness(self) -> str | None:
        """A sentence about a standby that lags far behind, or None."""
        lag = self.lag_since(self.reached_at)
        if lag is None or lag <= self._pace.late_seconds:
            return None
        return f"the standby of PostgreSQL lags {lag:.0f} s behind the primary"

    @property
    def reached_at(self) -> float | None:
        """A time by the clock: the standby has everything that was committed before. None if not known."""
        return self._reached_at

    def lag_since(self, reached_at: float | None) -> float | None:
        """Return by how many seconds, at most, an answer is behind that was begun at a value of
        ``reached_at``; None if that is not known.
        """
        return None if reached_at is None else max(0.0, self._clock() - reached_at)

    async def run(self) -> None:
        """Look at both servers until cancelled."""
        await repeat(
            self.look,
            interval_seconds=self._pace.seconds,
            wake=self._wake,
            pause_seconds=self._pace.pause_seconds,
        )

    def doubt(self) -> None:
        """Ask for a look at once, because a question has failed."""
        self._wake.set()

    async def look(self) -> None:
        """Ask both servers once."""
        # Others report a primary that is away; without a new position the lag grows.
        with suppress(DataStorageError, TimeoutError):
            await self._look_at_primary()
        try:
            await self._breaker.attempt(self._look_at_standby)
        except TransientError:
            # Each is ended once: a second time would be an error while its question still ends.
            limits, self._limits = self._limits, set()
            for limit in limits:
                limit.reschedule(asyncio.get_running_loop().time())
        lag = self.lag_since(self._reached_at)
        if lag is not None:
            metrics.REPLICA_LAG.set(lag)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """End the block with TransientError as soon as the standby is found to be away."""
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            raise TransientError(self.problem or "the standby of PostgreSQL does not answer") from None

    async def close(self) -> None:
        """End the probe of a standby that is away."""
        await self._breaker.close()

    async def _look_at_primary(self) -> None:
        # The time is taken first: what was committed before is then before the position.
        at = self._clock()
        async with asyncio.timeout(self._pace.answer_seconds):
            state = await self._ask_primary()
        if state.is_standby:
            return  # a failover is under way
        self._primary = state
        # After a failover, the log of the new primary may end earlier than that of the old one.
        while self._ahead and self._ahead[-1].position > state.position:
            self._ahead.pop()
        self._ahead.append(_Mark(state.position, at))
        if len(self._ahead) > self._pace.positions:
            self._ahead = deque(list(self._ahead)[::2])

    async def _look_at_standby(self) -> None:
        try:
            async with asyncio.timeout(self._pace.answer_seconds):
                state = await self._ask_standby()
        except ConfigurationError as error:  # perhaps a certificate is being replaced; the primary answers
            raise TransientError(str(error)) from error
        except TimeoutError:
            raise TransientError(
                f"the standby of PostgreSQL: no answer in {self._pace.answer_seconds:g} s"
            ) from None
        self._check(state)
        while self._ahead and self._ahead[0].position <= state.position:
            self._reached_at = self._ahead.popleft().at
        self._is_known = True

    def _check(self, state: ServerState) -> None:
        """Raise TransientError for a server that is no copy of the primary."""
        primary = self._primary
        if primary is None:
            return
        if (state.cluster, state.database) != (primary.cluster, primary.database):
            raise TransientError(
                "DATASTORAGE_READ_DATABASE_URL names another database than a standby of the one in "
                "DATASTORAGE_DATABASE_URL"
            )
        if not state.is_standby and state.started_at != primary.started_at:
            raise TransientError(
                "DATASTORAGE_READ_DATABASE_URL names a server that is no standby any more: it accepts "
                "writes, and is not the server of DATASTORAGE_DATABASE_URL"
            )
