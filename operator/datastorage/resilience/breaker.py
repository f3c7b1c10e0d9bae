"""A shared view of whether a dependency serves: a single probe finds out, and all callers continue together.

``run`` and ``judge`` wait until the dependency serves; ``attempt`` fails at once while it does not.

When a piece of work is refused, either the work is too large or the dependency serves no work at all. A
harmless piece of work, the trial, shows which.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from datastorage import metrics
from datastorage.errors import ConfigurationError, RecordRefusedError, TransientError, WorkRefusedError
from datastorage.metrics import Dependency
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.cancellation import end_tasks

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Pauses in seconds."""

    first: float = 0.1
    """Before the first probe, and before the first repetition of refused work."""
    max: float = 2.0
    """Between two probes: short enough that a backlog is processed within seconds of the recovery, long
    enough not to be a load."""
    max_refused: float = 60.0
    """Between two attempts at work that is refused while other work is served, and that can't be made
    smaller."""
    max_confirm: float = 60.0
    """Before the trial that confirms the end of an outage. The pauses grow while operations fail although the
    probe succeeds: where they are rare, no trial may end the outage between two of them."""
    remind: float = 30.0
    """Between two log lines about one outage, or about one piece of refused work."""
    quiet: float = 0.0
    """From the end of an outage to the first log line about the next one, for a dependency that may be away
    often and briefly."""


def _nothing() -> None:
    """Do nothing on a recovery."""


class Breaker:
    """Holds back or refuses operations while the dependency is away."""

    def __init__(
        self,
        dependency: Dependency | Sequence[Dependency],
        probe: Callable[[], Awaitable[None]],
        *,
        trial: Callable[[], Awaitable[None]] | None = None,
        within: "Breaker | None" = None,
        on_recovery: Callable[[], None] = _nothing,
        pace: Pace = Pace(),
    ) -> None:
        """``dependency`` is its name in logs and metrics; several names stand for things that serve as one.
        ``probe`` raises TransientError while it is away.

        ``trial`` raises TransientError or RecordRefusedError while not even harmless work of the usual kind
        would succeed; without a trial, the probe takes its place. After an outage, the trial is also made if
        no operation shows that the dependency serves again; without a trial, only an operation shows that.
        ``on_recovery`` is called when it does.

        ``within`` is the breaker of the server that the dependency belongs to: every operation also waits
        there, so that this breaker is open only while the server serves others.
        """
        dependencies = [dependency] if isinstance(dependency, Dependency) else dependency
        self.dependency = ", ".join(dependencies)
        self._probe = probe
        self._trial = trial or probe
        # A probe proves too little to end an outage by itself: operations may fail all the same.
        self._confirms = trial is not None
        self._under_way = 0
        self._within = within
        # The check that has failed must succeed before work continues. After a failed trial, the probe alone
        # would prove too little: all callers would try again and fail again.
        self._recovery_check = probe
        self._on_recovery = on_recovery
        self._pace = pace
        self._closed = asyncio.Event()
        self._closed.set()
        # The pauses grow with every failure and are reset only when an operation succeeds: a probe that
        # succeeds while the operation still fails (a read-only server, a full disk) must not cause a hot
        # loop.
        self._backoff = Backoff(pace.first, pace.max)
        self._confirm_backoff = Backoff(pace.max, pace.max_confirm)
        self._reason: str | None = None
        self._serving_since = -math.inf
        # The latest refusal of each call of ``run`` that repeats refused work.
        self._refusals: dict[object, str] = {}
        self._probing: asyncio.Task[None] | None = None
        self._outages = _OutageLog(dependencies, pace)
        self._errors = [metrics.DEPENDENCY_ERRORS.labels(each) for each in dependencies]

    @property
    def reason(self) -> str | None:
        """Why operations are held back, or None while they are not."""
        return self._reason

    @property
    def refused(self) -> str | None:
        """Why work waits in ``run`` while other work is served, or None; of several, that waiting longest."""
        return next(iter(self._refusals.values()), None)

    @property
    def why_waiting(self) -> str | None:
        """Why work in ``run`` waits, or None if none does: all is held back, or this work is refused."""
        return self.reason or self.refused

    @property
    def serving(self) -> bool:
        """Whether an operation would be tried now."""
        return self._closed.is_set()

    @property
    def serving_since(self) -> float:
        """The end of the latest outage of it or its server, in monotonic seconds; infinite during one."""
        own = self._serving_since if self._reason is None else math.inf
        return own if self._within is None else max(own, self._within.serving_since)

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, repeating it for as long as it raises TransientError.

        Work that is refused while other work is served is repeated at growing pauses, and delays no other
        work.
        """
        call, backoff = object(), Backoff(self._pace.first, self._pace.max_refused)
        remind_at = time.monotonic() + self._pace.max
        try:
            while True:
                try:
                    return await self.judge(operation)
                except WorkRefusedError as error:
                    self._refusals[call] = str(error)
                    if time.monotonic() >= remind_at:
                        remind_at = time.monotonic() + self._pace.remind
                        _log.warning(
                            "%s serves, and refuses a piece of work; it is repeated", self.dependency,
                            extra={"error": str(error)},
                        )  # fmt: skip
                await asyncio.sleep(backoff.next())
        finally:
            self._refusals.pop(call, None)

    async def judge(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result, repeating it while the dependency serves no work at all.

        Raises the operation's RecordRefusedError or WorkRefusedError only if harmless work succeeds. Then
        this piece of work is at fault, and repeating it unchanged would not help.
        """
        while True:
            await self.until_serving()
            try:
                return await self._try(operation)
            except WorkRefusedError:
                raise
            except TransientError:
                continue

    async def attempt(self, operation: Callable[[], Awaitable[T]], *, is_proof: bool = True) -> T:
        """Try the operation once and return its result; don't try it while the dependency is away.

        Without ``is_proof``, its success does not end an outage: a server that can't write may be read.

        Raises TransientError with the reason; its subclass WorkRefusedError as ``judge`` does.
        """
        try:
            return await self._try_if_serving(operation, is_proof=is_proof)
        except WorkRefusedError:
            raise
        except TransientError:
            self._outages.skipped += 1
            raise

    async def until_serving(self) -> None:
        """Wait until an operation would be tried."""
        await self._closed.wait()

    async def close(self) -> None:
        """Stop probing. No call of ``run`` or ``judge`` may still be waiting."""
        if self._probing is not None:
            await end_tasks([self._probing])

    async def _try_if_serving(self, operation: Callable[[], Awaitable[T]], *, is_proof: bool) -> T:
        if not self._closed.is_set():
            raise TransientError(self._reason)
        return await self._try(operation, is_proof=is_proof)

    async def _try(self, operation: Callable[[], Awaitable[T]], *, is_proof: bool = True) -> T:
        self._under_way += 1
        try:
            return await self._tried(operation, is_proof=is_proof)
        finally:
            self._under_way -= 1

    async def _tried(self, operation: Callable[[], Awaitable[T]], *, is_proof: bool) -> T:
        try:
            result = await (operation() if self._within is None else self._within.judge(operation))
        except (RecordRefusedError, WorkRefusedError) as error:
            await self._try_harmless_work(error)
            raise
        except TransientError as error:
            self._count_error()
            self._failed(error, self._probe)
            raise
        if is_proof:
            if operation is not self._trial:
                self._confirm_backoff.reset()
            self._succeeded()
        return result

    async def _try_harmless_work(self, refusal: Exception) -> None:
        """Return if the refused work itself is at fault; raise TransientError if the dependency is."""
        try:
            await self._trial()
        except (TransientError, RecordRefusedError) as state:
            self._count_error()
            away = TransientError(str(state))
            self._failed(away, self._trial)
            raise away from refusal
        self._succeeded()

    def _count_error(self) -> None:
        for errors in self._errors:
            errors.inc()

    def _failed(self, error: TransientError, check: Callable[[], Awaitable[None]]) -> None:
        if check is self._trial:
            self._recovery_check = check
        if not self._closed.is_set():
            return  # another caller has already noticed
        self._closed.clear()
        self._recovery_check = check
        if self._reason is None:
            self._outages.begin()
        self._reason = str(error)
        self._outages.remind(self._reason)
        if self._probing is not None:
            self._probing.cancel()  # it had ended, or waited for an operation to show what this one has shown
        # The probe is a task of its own: if a caller is cancelled, the others must not wait for ever.
        self._probing = asyncio.create_task(self._recover(), name=f"probe-{self.dependency}")

    async def _recover(self) -> None:
        await self._probe_until_it_serves()
        if not self._confirms:
            return
        # Every caller may have been cancelled, and no other may come: whoever looks at ``reason`` would hold
        # the dependency to be away for ever.
        while True:
            await asyncio.sleep(self._confirm_backoff.next())
            if self._reason is None or (not self._under_way and await self._confirm()):
                return

    async def _confirm(self) -> bool:
        """Make the trial; return whether that has ended the outage."""
        try:
            await self._try(self._trial)
        except (TransientError, RecordRefusedError):
            pass  # another task probes now
        except Exception as error:  # noqa: BLE001  # whatever it is, callers are not to be kept from trying
            self._reason = f"{type(error).__name__}: {error}"
            self._outages.remind(self._reason)
        else:
            return True
        return False

    async def _probe_until_it_serves(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                await self._recovery_check()
            except (TransientError, RecordRefusedError) as still:
                self._reason = str(still)
            except ConfigurationError:
                # Waiting does not help. Each waiting caller tries again, gets this error, and decides what to
                # do.
                self._closed.set()
                return
            except Exception as error:  # noqa: BLE001  # whatever it is, callers must not wait for ever
                self._reason = f"{type(error).__name__}: {error}"
                _log.exception("The probe of %s failed unexpectedly", self.dependency)
            else:
                self._closed.set()
                return
            self._outages.remind(self._reason)

    def _succeeded(self) -> None:
        self._backoff.reset()
        if self._reason is not None and self._closed.is_set():
            self._reason = None
            self._serving_since = time.monotonic()
            self._outages.end()
            self._on_recovery()


class _OutageLog:
    """Logs the beginning and the end of each outage, and reminders while it lasts."""

    def __init__(self, dependencies: Sequence[Dependency], pace: Pace) -> None:
        self.skipped = 0
        """The number of attempts that have failed or were skipped since the last logged end of an outage."""
        self._dependency = ", ".join(dependencies)
        self._pace = pace
        self._began_at = 0.0
        self._is_logged = False
        # No log line about an outage is written before this time.
        self._quiet_until = 0.0
        self._up = [metrics.DEPENDENCY_UP.declare(each) for each in dependencies]
        self._show(up=True)

    def begin(self) -> None:
        self._began_at = time.monotonic()
        self._show(up=False)

    def _show(self, *, up: bool) -> None:
        for gauge in self._up:
            gauge.set(up)

    def remind(self, reason: str) -> None:
        """Log that the dependency is away, unless that was logged not long ago."""
        now = time.monotonic()
        if now < self._quiet_until:
            return
        does_not_serve = "still does not serve" if self._is_logged else "does not serve"
        _log.warning("%s %s", self._dependency, does_not_serve, extra={"error": reason})
        self._is_logged = True
        self._quiet_until = now + self._pace.remind

    def end(self) -> None:
        self._show(up=True)
        if not self._is_logged:
            return
        seconds = round(time.monotonic() - self._began_at, 1)
        skipped = {"skipped_uses": self.skipped} if self.skipped else {}
        _log.warning("%s serves again", self._dependency, extra={"away_seconds": seconds, **skipped})
        self._is_logged, self.skipped = False, 0
        self._quiet_until = time.monotonic() + self._pace.quiet
