"""One Lease: decides whether this process holds it.

The protocol is that of client-go's leader election. Whoever holds the Lease renews it; the others watch
whether it is still renewed, each by its own monotonic clock from the moment at which it saw the last renewal:
so neither clocks that differ nor clocks that jump count. The API server decides between two that write at the
same time, because every write names the version that it replaces.

No record depends on a Lease. A process that was paused for longer than the Lease lasts finds out only when it
goes on, and until then there are two holders: their writes are the same, and cost requests, not data.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from datastorage.errors import ObjectChangedError
from datastorage.kube.leases import LeaseState, now
from datastorage.resilience.worker import jittered

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """The times of a Lease, in seconds."""

    duration_seconds: int = 15
    """Others take the Lease when it was not renewed for this long."""
    deadline_seconds: float = 10.0
    """A holder that could not renew it for this long stops: a few seconds before others begin."""
    renew_seconds: float = 5.0
    """From one renewal to the next, however long the answer takes."""
    retry_seconds: float = 2.0
    """Between two looks at the Lease of another process, and after an attempt that failed."""
    attempt_seconds: float = 2.5
    """A request without an answer for this long has failed: there is time for another before the deadline."""
    max_attempt_seconds: float = 5.0
    """Later attempts wait longer, up to this. Otherwise nobody would hold a Lease of a slow API server."""
    unfit_seconds: float = 30.0
    """A holder that could not do its work for this long offers the Lease to processes that can."""
    longest_seconds: float = 60.0
    """However long a Lease says that it lasts: somebody may have written that by hand."""
    remind_seconds: float = 60.0
    """An attempt that fails for the same reason as the one before is not logged more often than this."""


class LeaseStore(Protocol):
    """Where Leases are kept (kube/leases.py)."""

    async def get(self, name: str, *, seconds: float) -> LeaseState | None: ...
    async def put(self, name: str, state: LeaseState, *, seconds: float) -> LeaseState: ...


def _always() -> bool:
    return True


class Lease:
    """One Lease as this process sees it."""

    def __init__(
        self,
        store: LeaseStore,
        name: str,
        identity: str,
        *,
        is_fit: Callable[[], bool] = _always,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity`` names this process, and no other one, nor an earlier one of the same pod.

        ``is_fit`` returns whether this process could do the work of a holder now. While it can't, it takes no
        Lease, and after a while it leaves its own to a process that can.
        """
        self._store = store
        self._name = name
        self._identity = identity
        self._is_fit = is_fit
        self._unfit_since = float("inf")
        self._pace = pace
        self._clock = clock
        self._held_until = float("-inf")
        self._mine: LeaseState | None = None
        """The Lease as this process wrote it last; None if it may have changed since."""
        self._seen: LeaseState | None = None
        self._seen_at = float("-inf")
        self._changed = asyncio.Event()
        self._attempting = asyncio.Lock()
        self._may_name_this = False
        """Whether the Lease may name this process, as holder or asking, also if no answer has said so."""
        self._retired = False
        self._released = False
        self._patience = pace.attempt_seconds
        """How long the next attempt waits for its answers."""
        self._failure = ""
        """Why the latest attempt has failed; empty if it has not."""
        self._logged_at = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this process may count on the Lease now. It ends by itself, even while the loop hangs."""
        return self._clock() < self._held_until

    @property
    def holder(self) -> str:
        """The process that holds the Lease, as far as this one knows; empty if it knows of none."""
        if self.is_held:
            return self._identity
        seen = self._seen
        return "" if seen is None or self._clock() >= self._seen_at + self._lasts(seen) else seen.holder

    async def problem(self) -> str | None:
        """Return why nobody may process the objects of the shard, or None if some process is known to."""
        # A holder that could not renew the Lease still reads its own name in it.
        if self.is_held or self.holder not in {"", self._identity}:
            return None
        known = f"no process is known to hold the Lease {self._name}, without which nobody processes objects"
        return f"{known}: {self._failure}" if self._failure else known

    async def run(self) -> NoReturn:
        """Try to get the Lease and to keep it, until cancelled."""
        while True:
            seconds = await self.attempt()
            await asyncio.sleep(seconds)

    async def until_held(self) -> None:
        """Wait until this process holds the Lease."""
        while not self.is_held:
            self._changed.clear()
            await self._changed.wait()

    async def until_lost(self) -> None:
        """Wait until this process holds the Lease no longer."""
        while (seconds := self._held_until - self._clock()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def ask(self) -> bool:
        """Ask the process that holds the Lease to hand it over to this one; return whether that was done.

        Nothing follows if the request fails, or if the Lease changes meanwhile.
        """
        seconds = self._pace.attempt_seconds
        try:
            # Not beside an attempt or a release, which has to know whether the Lease names this process.
            async with asyncio.timeout(seconds), self._attempting:
                if self._retired or not self._is_fit():
                    return False
                state = await self._store.get(self._name, seconds=seconds)
                if state is None or state.holder in {"", self._identity}:
                    return False
                await self._ask(state)
                return True
        except Exception as error:  # noqa: BLE001  # any error: a balance that ends would end the process
            _log.debug("A Lease could not be asked for", extra=self._trouble(error))
            return False

    def retire(self) -> None:
        """From now on only renew the Lease if it is held: neither take it, nor ask for it, nor hand it over.

        A process that stops still finishes what it has taken in. One that took over meanwhile would find
        unfinished objects, and a shard that this process took would have nobody who processes it.
        """
        self._retired = True

    async def release(self) -> None:
        """Leave the Lease to others for good, and at once; a failure only makes them wait."""
        self._retired = self._released = True
        held = self.is_held
        self._lose()
        try:
            # An attempt that is under way comes first: it may renew or take the Lease.
            async with asyncio.timeout(self._pace.max_attempt_seconds), self._attempting:
                if self._may_name_this:
                    await self._free(self._mine if held else None)
        except Exception as error:  # noqa: BLE001  # any error: the stop goes on
            _log.warning("A Lease was not released: others wait until it expires", extra=self._trouble(error))

    async def _free(self, mine: LeaseState | None) -> None:
        """Take this process's name out of the Lease, if it is in it; ``mine`` saves reading it first."""
        seconds = self._pace.attempt_seconds
        state = mine or await self._store.get(self._name, seconds=seconds)
        if state is None or self._identity not in {state.holder, state.requested_by}:
            return
        if state.holder == self._identity:
            state = replace(state, holder="", duration_seconds=1, renewed_at=now(), offered=False)
        free = replace(state, requested_by="")
        try:
            await self._store.put(self._name, free, seconds=seconds)
        except ObjectChangedError:
            if mine is None:
                raise
            await self._free(None)  # another process has asked for it meanwhile

    async def attempt(self) -> float:
        """Try once to get or to renew the Lease; return the seconds until the next attempt.

        Whatever goes wrong is a failed attempt: the Lease then ends at its deadline, unless another attempt
        succeeds before.
        """
        async with self._attempting:
            return self._pace.renew_seconds if self._released else await self._try_once()

    async def _try_once(self) -> float:
        began = self._clock()
        mine, self._mine = self._mine, None  # until the answer shows what became of the attempt
        try:
            async with asyncio.timeout(self._patience if mine is not None else 2 * self._patience):
                next_at = await self._attempt(mine)
        except ObjectChangedError:
            # Another process was quicker, or has asked for the Lease: the next attempt reads it.
            return 0.0 if mine is not None else jittered(self._pace.retry_seconds)
        except Exception as error:  # noqa: BLE001  # any error: a loop that ends would keep others waiting
            self._log_failure(self._trouble(error))
            self._patience = min(2 * self._patience, self._pace.max_attempt_seconds)
            next_at = began + jittered(self._pace.retry_seconds)
        else:
            if self._failure:
                _log.info("A Lease can be read and written again", extra={"lease": self._name})
            self._patience, self._failure = self._pace.attempt_seconds, ""
        return max(0.0, next_at - self._clock())

    def _log_failure(self, trouble: dict[str, str]) -> None:
        if trouble["error"] != self._failure or self._clock() >= self._logged_at + self._pace.remind_seconds:
            _log.warning("A Lease could be neither read nor written", extra=trouble)
            self._logged_at = self._clock()
        self._failure = trouble["error"]

    async def _attempt(self, mine: LeaseState | None) -> float:
        """Make one attempt; return when the next one is due, by the clock. Every request has its time."""
        seconds = self._patience
        state = mine or await self._store.get(self._name, seconds=seconds)
        self._may_name_this = state is not None and self._identity in {state.holder, state.requested_by}
        is_mine = state is not None and state.holder == self._identity
        may_take = self._is_fit() and not self._retired
        if state is not None:
            self._look_at(state)
            if is_mine and not self._retired and state.requested_by not in {"", self._identity}:
                return await self._hand_over(state)
            if (wait := self._until_free(state)) > 0:
                self._lose()  # whatever this process believed
                if state.offered and not state.requested_by and may_take:
                    await self._ask(state)
                return self._clock() + min(wait, jittered(self._pace.retry_seconds))
        if not is_mine and not may_take:
            return self._clock() + jittered(self._pace.retry_seconds)
        began = self._clock()
        self._may_name_this = True
        self._mine = await self._store.put(self._name, self._renewed(state), seconds=seconds)
        if not self._released:
            # From before the request: no process can have seen this renewal earlier.
            self._held_until = began + self._pace.deadline_seconds
            self._changed.set()
        return began + self._pace.renew_seconds

    async def _ask(self, state: LeaseState) -> None:
        """Ask the holder of a Lease for it, as it was just read."""
        self._may_name_this = True
        request = replace(state, requested_by=self._identity)
        await self._store.put(self._name, request, seconds=self._pace.attempt_seconds)

    async def _hand_over(self, state: LeaseState) -> float:
        # This process stops first. The other one learns with its next attempt that it holds the Lease.
        self._lose()
        time = now()
        handed = replace(
            state,
            holder=state.requested_by,
            duration_seconds=self._pace.duration_seconds,
            requested_by="",
            offered=False,
            acquired_at=time,
            renewed_at=time,
            transitions=state.transitions + 1,
        )
        await self._store.put(self._name, handed, seconds=self._pace.attempt_seconds)
        self._may_name_this = False
        self._look_at(handed)
        return self._clock() + jittered(self._pace.retry_seconds)

    def _trouble(self, error: Exception) -> dict[str, str]:
        return {"lease": self._name, "error": str(error) or "no answer in time"}

    def _lose(self) -> None:
        self._held_until = float("-inf")
        self._changed.set()

    def _look_at(self, state: LeaseState) -> None:
        # A request for the Lease also changes it, and does not show that its holder is alive.
        seen = self._seen
        if seen is None or _renewal(state) != _renewal(seen):
            self._seen, self._seen_at = state, self._clock()

    def _until_free(self, state: LeaseState) -> float:
        """Return the seconds until this process may write the Lease; 0 if it may now."""
        if state.holder in {"", self._identity}:
            return 0.0
        return max(self._seen_at + self._lasts(state) - self._clock(), 0.0)

    def _lasts(self, state: LeaseState) -> float:
        return min(state.duration_seconds, self._pace.longest_seconds)

    def _is_offered(self) -> bool:
        """Return whether this process could not do its work for so long that others should have the Lease."""
        now = self._clock()
        self._unfit_since = float("inf") if self._is_fit() else min(self._unfit_since, now)
        return now - self._unfit_since >= self._pace.unfit_seconds

    def _renewed(self, state: LeaseState | None) -> LeaseState:
        """Return the Lease as this process writes it over ``state``."""
        time, duration = now(), self._pace.duration_seconds
        if state is None:
            return LeaseState(self._identity, duration, time, time, 0)
        if state.holder == self._identity:
            offered = self._is_offered()
            if offered and not state.offered:
                _log.warning(
                    "A Lease is offered to other processes: this one can't store records",
                    extra={"lease": self._name},
                )
            return replace(
                state, duration_seconds=duration, renewed_at=time, requested_by="", offered=offered
            )
        return LeaseState(
            self._identity,
            duration,
            time,
            time,
            state.transitions + 1,
            version=state.version,
            metadata=state.metadata,
        )


def _renewal(state: LeaseState) -> tuple[str, str, int]:
    return state.holder, state.renewed_at, state.transitions
