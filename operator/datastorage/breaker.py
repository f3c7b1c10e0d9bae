"""One shared view on whether a dependency serves: one probe asks, and all go on together.

Who can't do without the dependency waits (``run``); who can is told at once (``attempt``).
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from datastorage import metrics
from datastorage.errors import ConfigurationError, TransientError

T = TypeVar("T")
_log = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS: Final = 0.1
# Short enough that a backlog is caught up within seconds of the recovery, long enough not to be a load.
_MAX_DELAY_SECONDS: Final = 2.0
_REMIND_SECONDS: Final = 30.0


class Breaker:
    """Holds back or refuses operations while the dependency is away."""

    def __init__(
        self, dependency: str, probe: Callable[[], Awaitable[None]], *, on_recovery: Callable[[], None]
    ) -> None:
        """``dependency`` is its name in logs and metrics. ``probe`` raises TransientError while it is away.

        ``on_recovery`` is told of its return.
        """
        self._dependency = dependency
        self._probe = probe
        self._on_recovery = on_recovery
        self._closed = asyncio.Event()
        self._closed.set()
        # Grows with every failure and falls back on success only: a probe that succeeds while the
        # operation still fails (a read-only server, a full disk) must not turn into a hot loop.
        self._delay = _FIRST_DELAY_SECONDS
        self._since: float | None = None
        self._reason = ""
        self._probing: asyncio.Task[None] | None = None
        self._up = metrics.DEPENDENCY_UP.labels(dependency)
        self._errors = metrics.DEPENDENCY_ERRORS.labels(dependency)
        self._up.set(1)

    @property
    def reason(self) -> str | None:
        """Why operations are held back, or None while they are not."""
        return self._reason if self._since is not None else None

    @property
    def serving(self) -> bool:
        """Whether an operation would be tried now."""
        return self._closed.is_set()

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, repeating it for as long as it raises TransientError."""
        while True:
            await self._closed.wait()
            try:
                return await self._try(operation)
            except TransientError:
                continue

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, tried once, and not at all while the dependency is away.

        Raises TransientError with the reason.
        """
        if not self._closed.is_set():
            raise TransientError(self._reason)
        return await self._try(operation)

    async def close(self) -> None:
        """Stop probing. Nothing may be waiting in ``run`` any more."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _try(self, operation: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await operation()
        except TransientError as error:
            self._errors.inc()
            self._failed(error)
            raise
        self._succeeded()
        return result

    def _failed(self, error: TransientError) -> None:
        if not self._closed.is_set():
            return  # another caller has noticed already
        self._closed.clear()
        self._reason = str(error)
        if self._since is None:
            self._since = time.monotonic()
            self._up.set(0)
            _log.warning("%s does not serve", self._dependency, extra={"error": self._reason})
        # A task of its own: a caller that is cancelled must not leave the others waiting for ever.
        self._probing = asyncio.create_task(self._probe_until_it_serves(), name=f"probe-{self._dependency}")

    async def _probe_until_it_serves(self) -> None:
        reminded = time.monotonic()
        while True:
            await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret
            self._delay = min(self._delay * 2, _MAX_DELAY_SECONDS)
            try:
                await self._probe()
            except TransientError as still:
                self._reason = str(still)
            except ConfigurationError:
                # Waiting does not cure it. Those who wait find it out by themselves, and each decides.
                self._closed.set()
                return
            except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must not wait for ever
                self._reason = f"{type(error).__name__}: {error}"
                _log.exception("The probe of %s failed in an unforeseen way", self._dependency)
            else:
                self._closed.set()
                return
            if time.monotonic() - reminded > _REMIND_SECONDS:
                reminded = time.monotonic()
                _log.warning("%s still does not serve", self._dependency, extra={"error": self._reason})

    def _succeeded(self) -> None:
        self._delay = _FIRST_DELAY_SECONDS
        if self._since is not None and self._closed.is_set():
            seconds = time.monotonic() - self._since
            self._since = None
            self._up.set(1)
            _log.warning("%s serves again", self._dependency, extra={"away_seconds": round(seconds, 1)})
            self._on_recovery()
