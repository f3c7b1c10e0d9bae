"""Promotes objects whose vectors are no longer pending: their status says so, and no longer Degraded.

The cluster lists the objects in question, and the archive says whether their vectors are still pending. So
none is forgotten if another replica wrote the vector, or a crash came between vector and status. An object
that is Stored while its vector is made in the background becomes Degraded if that is held up.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from datastorage.pipeline.clusterobject import (
    Body,
    ObjectVersion,
    observes_generation,
    phase_of,
    read_or_log,
    vector_state_of,
    version_of,
)
from datastorage.pipeline.listing import Cluster, Page, Walk
from datastorage.pipeline.lookup import Archive as Rows
from datastorage.pipeline.lookup import look_up
from datastorage.pipeline.register import Register
from datastorage.pipeline.statusqueue import StatusQueue, StatusUpdate
from datastorage.records.reasons import Reason
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.signal import Signal
from datastorage.resilience.worker import repeat
from datastorage.resources.kinds import KINDS, Phase, ResourceKind
from datastorage.resources.reading.objectrecord import key_of
from datastorage.resources.reading.registry import table_of

# Nearly all objects are Stored, and few of them have a pending vector.
_SELECTORS: Final = (
    f"status.phase={Phase.DEGRADED}",
    f"status.phase={Phase.RECORDING}",
    f"status.phase={Phase.STORED},status.writes.vector.state={WriteState.PENDING}",
)


class Archive(Rows, Protocol):
    """The look-up of rows and of the states of their vectors (storage/write.py)."""

    async def time(self) -> float: ...


@dataclass(frozen=True)
class Pace:
    """How often the objects are looked at: each look lists them."""

    interval_seconds: float = 300.0
    """Between two looks without a request."""
    first_pause_seconds: float = 2.0
    """After a look that found objects to promote. Jitter shortens it by half at most."""
    max_pause_seconds: float = 30.0
    """While looks find no object to promote, they become rarer, up to this pause."""


class PromotionRequests:
    """Requests for a look at the objects. Built before the promotion, so that other components can ask."""

    def __init__(
        self, serving: Callable[[], bool], trouble: Callable[[], tuple[Reason, str] | None] = lambda: None
    ) -> None:
        """``serving`` says whether vectors can be made and written, as far as is known; ``trouble`` why they
        can't, in a word and a sentence.
        """
        self._serving = serving
        self.trouble = trouble
        self.signal = Signal()
        """Set when vectors were written or given up, here or by others."""

    def request_if_serving(self) -> None:
        """Ask for a look, because the status of an object now says that its vector is pending.

        The vector may have been written before the status was. While a dependency is away no vector is
        written, and a look for each new object would be useless.
        """
        if self._serving():
            self.signal.set()


@dataclass(frozen=True, slots=True)
class Promoted:
    """The result of one look at the objects."""

    queued: int
    """Status updates that were queued."""
    complete: bool
    """False where the cluster could not be listed, a row not looked up, or something was under way."""


class Promotion:
    """Looks through the cluster for objects to promote."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        archive: Archive,
        breaker: Breaker,
        register: Register,
        statuses: StatusQueue,
        requests: PromotionRequests,
        default_ttl_seconds: int,
        pace: Pace = Pace(),
    ) -> None:
        """``breaker`` is that of the tables of the rows."""
        self._archive = archive
        self._breaker = breaker
        self._register = register
        self._statuses = statuses
        self._requests = requests
        self._default_ttl_seconds = default_ttl_seconds
        self._pace = pace
        self._pauses = Backoff(pace.first_pause_seconds, pace.max_pause_seconds)
        self._walk = Walk(
            cluster,
            name="Listing the objects whose vectors were pending",
            selectors=_SELECTORS,
        )

    async def run(self) -> None:
        """Look at the objects until cancelled: at once, on request, and at intervals."""
        await repeat(self._look, interval_seconds=self._pace.interval_seconds, wake=self._requests.signal)

    async def _look(self) -> float | None:
        promoted = await self.promote()
        if promoted.queued:
            self._pauses.reset()
        # A request that comes now is kept in the signal until the pause is over, and so is one that came
        # during the look: its object may have been on a page that was read before.
        await asyncio.sleep(self._pauses.next())
        return None if promoted.complete else 0.0

    async def promote(self) -> Promoted:
        """Queue the status of every object whose vector is no longer pending."""
        queued, complete = 0, True

        async def promote_page(page: Page) -> None:
            nonlocal queued, complete
            promoted = await self._promote(page)
            queued += promoted.queued
            complete = complete and promoted.complete

        failed = await self._walk.run(KINDS, promote_page)
        return Promoted(queued, complete and not failed)

    async def _promote(self, page: Page) -> Promoted:
        found = [
            (version, phase_of(body))
            for body in page.bodies
            if (version := read_or_log(page.kind, body, self._pending_version)) is not None
        ]
        if not found:
            return Promoted(0, complete=True)
        keys = [version.key for version, _ in found]
        answer = await look_up(self._archive, self._breaker, table_of(page.kind), keys)
        # By PostgreSQL's clock, like stored_at in the same status.
        now = datetime.fromtimestamp(await self._breaker.run(self._archive.time), UTC)
        queued, complete = 0, not answer.unanswered
        for version, phase in found:
            stored = answer.found.get(version.key)
            if stored is None:
                continue
            vector = self._present(stored.vector)
            is_newly_held_up = vector.is_held_up and phase == Phase.STORED
            if vector.state is WriteState.PENDING and not is_newly_held_up:
                continue
            # One update at a time: a second one would only find that the first has changed the object.
            if not self._register.start(version.key, committed=True):
                complete = False
                continue
            outcome = replace(stored, vector=replace(vector, at=now))
            await self._statuses.put(StatusUpdate(version, outcome))
            queued += 1
        return Promoted(queued, complete)

    def _present(self, vector: VectorWrite) -> VectorWrite:
        """Return the state of a vector with what is known of the servers that it needs."""
        trouble = self._requests.trouble()
        if trouble is None or vector.reason is not Reason.QUEUED:
            return vector
        reason, message = trouble
        return replace(vector, reason=reason, message=message)

    def _pending_version(self, kind: ResourceKind, body: Body) -> ObjectVersion | None:
        """Return the version of an object whose status is about its present spec, and says Pending."""
        if not observes_generation(body) or vector_state_of(body) != WriteState.PENDING:
            return None
        return version_of(kind, body, key_of(kind, body), default_ttl_seconds=self._default_ttl_seconds)
