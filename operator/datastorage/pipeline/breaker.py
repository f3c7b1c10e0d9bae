"""One shared view on whether PostgreSQL serves: everyone waits, one probes, all go on together."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from datastorage import metrics
from datastorage.errors import TransientError

T = TypeVar("T")
_log = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS: Final = 0.1
# Short enough that a backlog is caught up within seconds of the recovery, long enough not to be a load.
_MAX_DELAY_SECONDS: Final = 2.0
_REMIND_SECONDS: Final = 30.0


class Breaker:
    """Runs operations until they succeed, holding all of them back while the dependency is away."""

    def __init__(self, probe: Callable[[], Awaitable[None]], *, on_recovery: Callable[[], None]) -> None:
        """``probe`` raises TransientError while PostgreSQL is away; ``on_recovery`` is told of its return."""
        self._probe = probe
        self._on_recovery = on_recovery
        self._closed = asyncio.Event()
        self._closed.set()
        # Grows with every failure and falls back on success only: a probe that succeeds while the
        # operation still fails (a read-only server, a full disk) must not turn into a hot loop.
        self._delay = _FIRST_DELAY_SECONDS
        self._since: float | None = None
        self._reason = ""
        metrics.POSTGRES_UP.set(1)

    @property
    def reason(self) -> str | None:
        """Why operations are held back, or None while they are not."""
        return self._reason if self._since is not None else None

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, repeating it for as long as it raises TransientError."""
        while True:
            await self._closed.wait()
            try:
                result = await operation()
            except TransientError as error:
                metrics.POSTGRES_ERRORS.inc()
                await self._failed(error)
            else:
                self._succeeded()
                return result

    async def _failed(self, error: TransientError) -> None:
        if not self._closed.is_set():
            return None  # another caller is probing already
        self._closed.clear()
        self._reason = str(error)
        if self._since is None:
            self._since = time.monotonic()
            metrics.POSTGRES_UP.set(0)
            _log.warning(
                "PostgreSQL does not serve; records wait in the cluster", extra={"error": self._reason}
            )
        reminded = time.monotonic()
        try:
            while True:
                await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret
                self._delay = min(self._delay * 2, _MAX_DELAY_SECONDS)
                try:
                    return await self._probe()
                except TransientError as still:
                    self._reason = str(still)
                if time.monotonic() - reminded > _REMIND_SECONDS:
                    reminded = time.monotonic()
                    _log.warning("PostgreSQL still does not serve", extra={"error": self._reason})
        finally:
            # Also when this caller is cancelled: the others must not wait for it for ever.
            self._closed.set()

    def _succeeded(self) -> None:
        self._delay = _FIRST_DELAY_SECONDS
        if self._since is not None:
            seconds = time.monotonic() - self._since
            self._since = None
            metrics.POSTGRES_UP.set(1)
            _log.warning("PostgreSQL serves again", extra={"away_seconds": round(seconds, 1)})
            self._on_recovery()
