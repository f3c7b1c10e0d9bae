"""One shared view on whether a dependency serves: one probe asks, and all go on together.

Who can't do without the dependency waits (``run``, ``judge``); who can is told at once (``attempt``).

A piece of work that the dependency refuses says little by itself: the work may be too much, or the dependency
serves nobody. A harmless piece of work, the trial, tells the one from the other.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from datastorage import metrics
from datastorage.errors import ConfigurationError, RecordRefusedError, TransientError, WorkRefusedError
from datastorage.resilience.cancellation import end_tasks

T = TypeVar("T")
_log = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS: Final = 0.1
# Short enough that a backlog is caught up within seconds of the recovery, long enough not to be a load.
_MAX_DELAY_SECONDS: Final = 2.0
_REMIND_SECONDS: Final = 30.0
# A piece of work that is refused while others are served, and can't be made smaller, waits up to this long.
_MAX_REFUSED_DELAY_SECONDS: Final = 60.0


class Breaker:
    """Holds back or refuses operations while the dependency is away."""

    def __init__(
        self,
        dependency: str,
        probe: Callable[[], Awaitable[None]],
        *,
        on_recovery: Callable[[], None] | None = None,
        trial: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``dependency`` is its name in logs and metrics. ``probe`` raises TransientError while it is away.

        ``on_recovery`` is called when it serves again. ``trial`` raises TransientError or RecordRefusedError
        while not even harmless work of the usual kind would succeed; without one the probe stands for it.
        """
        self._dependency = dependency
        self._probe = probe
        self._trial = trial or probe
        # What has failed has to succeed: where a trial found the dependency away, a probe that asks for less
        # would let everybody try again, in vain, and again.
        self._asked = probe
        self._on_recovery = on_recovery
        self._closed = asyncio.Event()
        self._closed.set()
        # Grows with every failure and falls back on success only: a probe that succeeds while the
        # operation still fails (a read-only server, a full disk) must not turn into a hot loop.
        self._delay = _FIRST_DELAY_SECONDS
        self._since: float | None = None
        self._reason = ""
        self._probing: asyncio.Task[None] | None = None
        self._refused: str | None = None
        self._up = metrics.DEPENDENCY_UP.labels(dependency)
        self._errors = metrics.DEPENDENCY_ERRORS.labels(dependency)
        self._up.set(1)

    @property
    def reason(self) -> str | None:
        """Why operations are held back, or None while they are not."""
        return self._reason if self._since is not None else None

    @property
    def refused(self) -> str | None:
        """Why a piece of work waits in ``run`` while others are served, or None."""
        return self._refused

    @property
    def serving(self) -> bool:
        """Whether an operation would be tried now."""
        return self._closed.is_set()

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, repeating it for as long as it raises TransientError.

        What is refused while others are served waits by itself, at growing pauses, and holds nobody up.
        """
        delay = _FIRST_DELAY_SECONDS
        reminded = 0.0
        while True:
            try:
                result = await self.judge(operation)
            except WorkRefusedError as error:
                self._refused = str(error)
                if delay >= _MAX_DELAY_SECONDS and time.monotonic() - reminded > _REMIND_SECONDS:
                    reminded = time.monotonic()
                    _log.warning(
                        "%s serves, and refuses a piece of work; it is repeated", self._dependency,
                        extra={"error": str(error)},
                    )  # fmt: skip
            else:
                self._refused = None
                return result
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret
            delay = min(delay * 2, _MAX_REFUSED_DELAY_SECONDS)

    async def judge(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, repeating it while the dependency serves nobody.

        Raises RecordRefusedError and WorkRefusedError as the operation does, and only where harmless work
        succeeds: it is this piece of work then, and repeating it as it is would change nothing.
        """
        while True:
            await self._closed.wait()
            try:
                return await self._try(operation)
            except WorkRefusedError:
                raise
            except TransientError:
                continue

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, tried once, and not at all while the dependency is away.

        Raises TransientError with the reason, of which WorkRefusedError as ``judge`` does.
        """
        if not self._closed.is_set():
            raise TransientError(self._reason)
        return await self._try(operation)

    async def close(self) -> None:
        """Stop probing. Nothing may be waiting in ``run`` any more."""
        if self._probing is not None:
            await end_tasks([self._probing])

    async def _try(self, operation: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await operation()
        except (RecordRefusedError, WorkRefusedError) as error:
            await self._try_harmless_work(error)
            raise
        except TransientError as error:
            self._errors.inc()
            self._failed(error, self._probe)
            raise
        self._succeeded()
        return result

    async def _try_harmless_work(self, refusal: Exception) -> None:
        """Return where the refused work itself is to blame; else raise TransientError with the state."""
        try:
            await self._trial()
        except (TransientError, RecordRefusedError) as state:
            self._errors.inc()
            away = TransientError(str(state))
            self._failed(away, self._trial)
            raise away from refusal
        self._succeeded()

    def _failed(self, error: TransientError, ask: Callable[[], Awaitable[None]]) -> None:
        if ask is self._trial:
            self._asked = ask
        if not self._closed.is_set():
            return  # another caller has noticed already
        self._closed.clear()
        self._asked = ask
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
                await self._asked()
            except (TransientError, RecordRefusedError) as still:
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
            if self._on_recovery is not None:
                self._on_recovery()
