"""Deletes stored objects from the cluster once they expire, and only if the archive has their rows.

The schedule in memory may be lost: it is rebuilt by listing the stored objects at the start, at intervals,
and after an overflow.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from datastorage import metrics
from datastorage.errors import (
    ClusterUnavailableError,
    ObjectChangedError,
    ObjectGoneError,
    RequestRefusedError,
    TransientError,
)
from datastorage.pipeline import deletion, listing
from datastorage.pipeline.clusterobject import Body, Expiry, expiry_of, is_current, is_held, read_or_log
from datastorage.pipeline.listing import Page, Walk
from datastorage.pipeline.lookup import Answer
from datastorage.pipeline.rowconfirmation import Confirmation, note_missing
from datastorage.pipeline.schedule import Schedule
from datastorage.resilience.worker import jittered, repeat
from datastorage.resources.kinds import ARCHIVED, KINDS, ResourceKind
from datastorage.tracing import NO_TRACES, Step, Traces

_log = logging.getLogger(__name__)


class Cluster(listing.Cluster, deletion.Cluster, Protocol):
    """The requests that are needed here (kube/objects.py)."""


Restore = Callable[[ResourceKind, Body], Awaitable[None]]
"""Stores an object again: its row is missing although its status says that it is stored."""
DatabaseTime = Callable[[], Awaitable[float]]
"""Returns the time by PostgreSQL's clock, in Unix seconds."""


@dataclass(frozen=True)
class Pace:
    """When failed work is tried again, and how many deletions run at once."""

    concurrency: int = 8
    resync_seconds: float = 3600.0
    """Between two listings of the stored objects, when nothing asks for one earlier."""
    retry_seconds: float = 5.0
    refused_retry_seconds: float = 30.0
    """After a refusal by the API server or PostgreSQL: an administrator may have to act."""
    gather_seconds: float = 0.5
    """Objects that fall due within this time are confirmed together, so that a trickle does not cost a query
    each."""


@dataclass(frozen=True)
class Clock:
    """The clocks of this machine: Unix seconds, and seconds that never go back."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Plan:
    """One line of a dry run: when a stored object is deleted, if it is not held and its row is confirmed."""

    expiry: Expiry
    held: bool
    confirmed: bool


class GarbageCollector:
    """Confirms and deletes the objects in the schedule."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        confirmation: Confirmation,
        schedule: Schedule,
        database_time: DatabaseTime,
        restore: Restore,
        pace: Pace = Pace(),
        clock: Clock = Clock(),
        traces: Traces = NO_TRACES,
    ) -> None:
        """``database_time`` waits while PostgreSQL is away."""
        self._cluster = cluster
        self._confirmation = confirmation
        self._schedule = schedule
        self._database_time = database_time
        self._restore = restore
        self._pace = pace
        self._clock = clock
        self._traces = traces
        self._slots = asyncio.Semaphore(pace.concurrency)
        # How far PostgreSQL's clock is ahead of this machine's, in seconds. Expiry times count from a commit,
        # by PostgreSQL's clock: with a wrong clock here, objects could be deleted hours early.
        self._clock_offset = 0.0
        self._listing_at = dict.fromkeys(KINDS, 0.0)
        self._listed_at = 0.0
        self._walk = Walk(
            cluster,
            name="Listing the stored objects",
            selectors=[f"status.phase={phase}" for phase in ARCHIVED],
        )

    def list_soon(self, kind: ResourceKind) -> None:
        """Ask for a listing of a kind that is served again: deletions that ran meanwhile found no object."""
        self._listing_at[kind] = 0.0
        self._schedule.wake.set()

    async def run(self) -> None:
        """List the stored objects and delete the expired ones until cancelled."""
        await repeat(self._step, interval_seconds=self._pace.resync_seconds, wake=self._schedule.wake)

    async def _step(self) -> float:
        """List the kinds and delete the objects that are due; return the seconds until the next step."""
        if self._clock.monotonic() >= self._next_listing():
            await self._list()
        due = self._schedule.pop_due(self._now())
        if due:
            await self.collect(due)
            return 0.0
        pause = self._next_listing() - self._clock.monotonic()
        next_due = self._schedule.next_due()
        if next_due is not None:
            pause = min(pause, next_due - self._now() + self._pace.gather_seconds)
        return max(0.0, pause)

    def _next_listing(self) -> float:
        listing_at = min(self._listing_at.values())
        forgotten_due = self._schedule.forgotten_due
        if forgotten_due is None:
            return listing_at
        # The entries that the schedule dropped are listed when they fall due, with a pause between listings.
        now = self._clock.monotonic()
        until_due = max(forgotten_due - self._now(), self._listed_at + self._pace.retry_seconds - now)
        return min(listing_at, now + until_due)

    async def collect(self, due: Sequence[Expiry]) -> None:
        """Confirm the rows of the objects and delete those that are confirmed."""
        await self._read_clock()
        now = self._now()
        for expiry in due:
            if expiry.due > now:
                self._schedule.add(expiry)
        due = [expiry for expiry in due if expiry.due <= now]
        answer = await self._confirm(due)
        async with asyncio.TaskGroup() as group:
            for expiry in due:
                if expiry.key in answer.unanswered:
                    self._retry(expiry, self._pace.refused_retry_seconds)
                    continue
                # The semaphore is taken here, so that there are never more tasks than slots.
                await self._slots.acquire()
                act = self._delete if expiry.key in answer.found else self._restore_row
                group.create_task(self._with_slot(act(expiry)))

    def _now(self) -> float:
        """Return the time by PostgreSQL's clock, in Unix seconds."""
        return self._clock.wall() + self._clock_offset

    async def _read_clock(self) -> None:
        database = await self._database_time()
        self._clock_offset = database - self._clock.wall()

    async def plan(self, kind: ResourceKind) -> AsyncIterator[Plan]:
        """Yield the deletions to come of one kind; delete nothing.

        Raises ClusterError and TransientError; NotServedError if the kind's definition is missing.
        """
        async for page in self._walk.pages(kind):
            expiries = [(b, e) for b in page.bodies if (e := read_or_log(kind, b, expiry_of))]
            answer = await self._confirmation.of_keys(kind, [expiry.key for _, expiry in expiries])
            if answer.unanswered:
                raise TransientError(next(iter(answer.unanswered.values())))
            for body, expiry in expiries:
                yield Plan(expiry, is_held(body), expiry.key in answer.found)

    async def _list(self) -> None:
        """List the kinds that are due; all kinds if the schedule dropped entries, of whatever kind."""
        now, forgotten = self._clock.monotonic(), self._schedule.forgotten_due is not None
        due = [kind for kind in KINDS if forgotten or self._listing_at[kind] <= now]
        self._schedule.forgotten_due = None
        self._listing_at.update(dict.fromkeys(due, math.inf))
        await self._read_clock()
        failed = await self._walk.run(due, self._note_all)
        self._listed_at = self._clock.monotonic()
        for kind in due:
            pause = self._pace.retry_seconds if kind in failed else self._pace.resync_seconds
            # Earlier, if a listing was requested during this one.
            self._listing_at[kind] = min(self._listing_at[kind], self._listed_at + jittered(pause))

    async def _note_all(self, page: Page) -> None:
        kind = page.kind
        current = [body for body in page.bodies if read_or_log(kind, body, lambda _, body: is_current(body))]
        # Objects on hold and those that stay long are looked up too: their rows may be gone.
        confirmed = await self._confirmation.of_objects(kind, current)
        for body in confirmed.missing:
            await self._restore(kind, body)
        for body in confirmed.stored:
            found = read_or_log(kind, body, deletion.read)
            if found is not None:
                self._note(found)

    def _note(self, found: deletion.Found) -> None:
        if found.expiry is not None:
            self._schedule.add(found.expiry)
        elif found.held and not found.deleting:
            metrics.GC_TOTAL.labels(metrics.GcOutcome.HELD).inc()

    async def _confirm(self, expiries: Sequence[Expiry]) -> Answer:
        combined = Answer()
        for kind in KINDS:
            answer = await self._confirmation.of_keys(kind, [e.key for e in expiries if e.ref.kind is kind])
            combined.found.update(answer.found)
            combined.unanswered.update(answer.unanswered)
        return combined

    async def _with_slot(self, action: Awaitable[None]) -> None:
        try:
            await action
        finally:
            self._slots.release()

    async def _delete(self, expiry: Expiry) -> None:
        ref, key = expiry.ref, expiry.key
        try:
            with self._traces.step(Step.DELETION, key.uid, key.generation, ref.as_log_fields):
                await deletion.delete(self._cluster, ref, expiry.resource_version)
        except ObjectGoneError:
            metrics.GC_TOTAL.labels(metrics.GcOutcome.GONE).inc()
        except ObjectChangedError:
            metrics.GC_TOTAL.labels(metrics.GcOutcome.CHANGED).inc()
            await self._look_again(expiry)
        except ClusterUnavailableError:
            self._retry(expiry, self._pace.retry_seconds)
        except RequestRefusedError as error:
            metrics.GC_TOTAL.labels(metrics.GcOutcome.REFUSED).inc()
            self._retry(expiry, self._pace.refused_retry_seconds)
            _log.error("Deletion refused", extra={**ref.as_log_fields(), "error": str(error)})

    def _retry(self, expiry: Expiry, seconds: float) -> None:
        self._schedule.add(replace(expiry, due=self._now() + seconds))

    async def _look_again(self, expiry: Expiry) -> None:
        """Schedule the object as it is now: it has changed since it was noted, perhaps only a label."""
        found = await deletion.look_again(self._cluster, expiry.ref)
        if found is None or found.uid != expiry.ref.uid:
            return
        if found.archived:
            self._note(found)
        elif found.key == expiry.key and not found.held:
            # The object has no room for a status, and only its labels changed: its row is still complete.
            self._schedule.add(replace(expiry, resource_version=found.resource_version))

    async def _restore_row(self, expiry: Expiry) -> None:
        """Store an object again whose row is missing although its status says Stored. Do not delete it."""
        metrics.GC_TOTAL.labels(metrics.GcOutcome.UNCONFIRMED).inc()
        found = await deletion.look_again(self._cluster, expiry.ref)
        if found is not None and found.uid == expiry.ref.uid:
            note_missing(expiry.ref.kind, found.body)
            await self._restore(expiry.ref.kind, found.body)
