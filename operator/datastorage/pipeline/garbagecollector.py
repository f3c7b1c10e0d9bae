"""Deletes stored objects from the cluster when their time has come, and only what the archive confirms.

The schedule in memory is a convenience: it is rebuilt by listing the stored objects at the start, at
intervals, and after it overflowed, so that nothing depends on it surviving.
"""

import asyncio
import heapq
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from datastorage import metrics
from datastorage.errors import (
    ClusterError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    RequestRefusedError,
    TransientError,
)
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.item import Expiry, ObjectRef
from datastorage.pipeline.kindbykind import KindByKind
from datastorage.pipeline.lookup import Answer
from datastorage.pipeline.reading import expiry_of, is_current, is_held
from datastorage.resources.kinds import ARCHIVED, KINDS, ResourceKind
from datastorage.resources.reading.record import key_of

_log = logging.getLogger(__name__)

_PAGE_SIZE: Final = 500
# One confirmation asks for this many rows.
_BATCH: Final = 500
# Entries of about 1 KB each. When there are more, the latest tenth is let go and comes with a later listing.
_MAX_SCHEDULED: Final = 100_000
_KEPT_WHEN_FULL: Final = 90_000
_RETRY_SECONDS: Final = 5.0
# After the API server or PostgreSQL said no: an administrator may have to act.
_REFUSED_RETRY_SECONDS: Final = 30.0
# Objects that fall due within this time are confirmed together: at a trickle, one query for many of them.
_GATHER_SECONDS: Final = 0.5


class Cluster(Protocol):
    """The requests that are needed here (kube/objects.py)."""

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None: ...
    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]: ...
    def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]: ...


Restore = Callable[[ResourceKind, Mapping[str, Any]], Awaitable[None]]
"""Stores an object again, which the archive does not have although its status says so."""
DatabaseTime = Callable[[], Awaitable[float]]
"""Returns what PostgreSQL's clock says, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One line of a dry run: what would happen to a stored object, and when (Unix seconds)."""

    expiry: Expiry
    held: bool
    confirmed: bool


class GarbageCollector:
    """The end of the pipeline."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        confirmation: Confirmation,
        database_time: DatabaseTime,
        restore: Restore,
        concurrency: int,
        resync_seconds: float,
    ) -> None:
        """``database_time`` waits while PostgreSQL is away."""
        self._cluster = cluster
        self._confirmation = confirmation
        self._database_time = database_time
        self._restore = restore
        self._slots = asyncio.Semaphore(concurrency)
        self._resync_seconds = resync_seconds
        self._heap: list[Expiry] = []
        self._scheduled = metrics.Share(metrics.GC_SCHEDULED)
        # The newest version of each object in the schedule, by uid: a status may change while it waits.
        self._versions: dict[str, str] = {}
        # How far PostgreSQL's clock is ahead of ours, in seconds. All times of expiry were counted from a
        # commit: by a clock of ours that is wrong, objects would go hours early.
        self._clock_offset = 0.0
        self._earlier = asyncio.Event()
        # When the earliest of those that were let go is due; None while everything is in the schedule.
        self._forgotten_due: float | None = None
        self._listing_at = dict.fromkeys(KINDS, 0.0)
        self._listed_at = 0.0
        self._kind_by_kind = KindByKind("Listing the stored objects")

    def schedule(self, expiry: Expiry) -> None:
        """Note an object for deletion at its time. Noting it again changes its version alone."""
        known = expiry.ref.uid in self._versions
        self._versions[expiry.ref.uid] = expiry.resource_version
        if known:
            return
        heapq.heappush(self._heap, expiry)
        if len(self._heap) > _MAX_SCHEDULED:
            self._forget_the_latest()
        self._scheduled.set(len(self._heap))
        if self._heap[0] is expiry:
            self._earlier.set()

    def _forget_the_latest(self) -> None:
        # Never the newest: a record with a short time to live must not wait behind those with a long one.
        self._heap.sort()
        for expiry in self._heap[_KEPT_WHEN_FULL:]:
            self._versions.pop(expiry.ref.uid, None)
        first = self._heap[_KEPT_WHEN_FULL].due
        self._forgotten_due = first if self._forgotten_due is None else min(first, self._forgotten_due)
        del self._heap[_KEPT_WHEN_FULL:]  # what is left is sorted, and so a heap

    def list_soon(self, kind: ResourceKind) -> None:
        """Ask for a listing of a kind that is served again: deletions meanwhile have found nothing."""
        self._listing_at[kind] = 0.0
        self._earlier.set()

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            if time.monotonic() >= self._next_listing():
                await self._rebuild()
            due = self._pop_due()
            if due:
                await self.collect(due)
            else:
                await self._sleep_until(self._next_listing())

    def close(self) -> None:
        """Count no more in the metrics."""
        self._scheduled.close()

    def _next_listing(self) -> float:
        listing_at = min(self._listing_at.values())
        if self._forgotten_due is None:
            return listing_at
        # What was let go is looked for when it falls due, with a pause between one listing and the next.
        until_due = max(
            self._forgotten_due - self._now(), self._listed_at + _RETRY_SECONDS - time.monotonic()
        )
        return min(listing_at, time.monotonic() + until_due)

    async def collect(self, due: Sequence[Expiry]) -> None:
        """Confirm the rows of the objects and delete those that are confirmed."""
        await self._read_clock()
        now = self._now()
        early = [expiry for expiry in due if expiry.due > now]
        for expiry in early:
            self.schedule(expiry)
        due = [expiry for expiry in due if expiry.due <= now]
        answer = await self._confirm(due)
        async with asyncio.TaskGroup() as group:
            for expiry in due:
                if expiry.key in answer.unanswered:
                    self._retry(expiry, _REFUSED_RETRY_SECONDS)
                    continue
                # The semaphore is taken here, so that there are never more tasks than slots.
                await self._slots.acquire()
                act = self._delete if expiry.key in answer.found else self._restore_row
                group.create_task(self._with_slot(act(expiry)))

    def _now(self) -> float:
        """Return the time by PostgreSQL's clock, in Unix seconds."""
        return time.time() + self._clock_offset

    async def _read_clock(self) -> None:
        database = await self._database_time()
        self._clock_offset = database - time.time()

    async def plan(self) -> AsyncIterator[Plan]:
        """List what would be deleted and when, without deleting anything."""
        for kind in KINDS:
            try:
                async for page in self._archived(kind):
                    answer = await self._confirmation.of_keys(kind, [key_of(kind, body) for body in page])
                    for why in answer.unanswered.values():
                        raise TransientError(why)
                    for body in page:
                        expiry = expiry_of(kind, body)
                        if expiry is not None:
                            yield Plan(expiry, is_held(body["metadata"]), expiry.key in answer.found)
            except NotServedError:
                continue  # without its definition a kind has no objects

    async def _rebuild(self) -> None:
        """List the kinds that are due; what was let go may be of either."""
        now = time.monotonic()
        due = [kind for kind in KINDS if self._forgotten_due is not None or self._listing_at[kind] <= now]
        self._forgotten_due = None
        self._listing_at.update(dict.fromkeys(due, math.inf))
        await self._read_clock()
        failed = await self._kind_by_kind.run(due, self._list)
        self._listed_at = time.monotonic()
        for kind in due:
            pause = _RETRY_SECONDS if kind in failed else self._resync_seconds
            at = self._listed_at + pause * random.uniform(0.8, 1.2)  # noqa: S311
            # Sooner, where it was asked for during the listing.
            self._listing_at[kind] = min(self._listing_at[kind], at)

    async def _list(self, kind: ResourceKind) -> None:
        async for page in self._archived(kind):
            # What is on hold or stays long is looked up too: its row may be gone.
            confirmed = await self._confirmation.of_objects(kind, [b for b in page if is_current(b)])
            for body in confirmed.missing:
                await self._restore(kind, body)
            for body in confirmed.stored:
                self._note(kind, body)

    async def _archived(self, kind: ResourceKind) -> AsyncIterator[list[dict[str, Any]]]:
        for phase in ARCHIVED:
            async for page in self._cluster.pages(
                kind, field_selector=f"status.phase={phase}", page_size=_PAGE_SIZE
            ):
                yield page

    def _note(self, kind: ResourceKind, body: Mapping[str, Any]) -> None:
        expiry = expiry_of(kind, body)
        if "deletionTimestamp" in body["metadata"]:
            return  # deleted already; others' finalizers decide when it goes
        if is_held(body["metadata"]):
            metrics.GC_TOTAL.labels("held").inc()
        elif expiry is not None:
            self.schedule(expiry)

    async def _confirm(self, expiries: Sequence[Expiry]) -> Answer:
        of_kinds = [
            await self._confirmation.of_keys(kind, [e.key for e in expiries if e.ref.kind is kind])
            for kind in KINDS
        ]
        return Answer(
            {key: row for answer in of_kinds for key, row in answer.found.items()},
            {key: why for answer in of_kinds for key, why in answer.unanswered.items()},
        )

    async def _with_slot(self, action: Awaitable[None]) -> None:
        try:
            await action
        finally:
            self._slots.release()

    async def _delete(self, expiry: Expiry) -> None:
        ref = expiry.ref
        try:
            await self._cluster.delete(
                ref.kind, ref.namespace, ref.name, uid=ref.uid, resource_version=expiry.resource_version
            )
            metrics.GC_TOTAL.labels("deleted").inc()
        except ObjectGoneError:
            metrics.GC_TOTAL.labels("gone").inc()
        except ObjectChangedError:
            metrics.GC_TOTAL.labels("changed").inc()
            await self._look_again(expiry)
        except TransientError:
            self._retry(expiry, _RETRY_SECONDS)
        except RequestRefusedError as error:
            metrics.GC_TOTAL.labels("refused").inc()
            self._retry(expiry, _REFUSED_RETRY_SECONDS)
            _log.error("Deletion refused", extra={**ref.as_log_fields(), "error": str(error)})

    def _retry(self, expiry: Expiry, seconds: float) -> None:
        self.schedule(replace(expiry, due=self._now() + seconds))

    async def _look_again(self, expiry: Expiry) -> None:
        """Something about the object changed since it was noted: a label, or it is another object."""
        body = await self._get(expiry.ref)
        if body is None:
            return
        metadata, status = body["metadata"], body.get("status") or {}
        if metadata["uid"] != expiry.ref.uid:
            return
        if status.get("phase") in ARCHIVED:
            self._note(expiry.ref.kind, body)
        elif key_of(expiry.ref.kind, body) == expiry.key and not is_held(metadata):
            # It has no room for a status, and only its labels changed: what is stored is still all of it.
            self.schedule(replace(expiry, resource_version=metadata["resourceVersion"]))

    async def _restore_row(self, expiry: Expiry) -> None:
        """Bring back the row of an object that says Stored while the archive has none. It must not go."""
        metrics.GC_TOTAL.labels("unconfirmed").inc()
        _log.error(
            "What a stored object says is missing in the archive; storing it again",
            extra=expiry.ref.as_log_fields(),
        )
        body = await self._get(expiry.ref)
        if body is not None and body["metadata"]["uid"] == expiry.ref.uid:
            await self._restore(expiry.ref.kind, body)

    async def _get(self, ref: ObjectRef) -> dict[str, Any] | None:
        try:
            return await self._cluster.get(ref.kind, ref.namespace, ref.name)
        except ClusterError:
            return None  # gone, or found again by the next listing

    def _pop_due(self) -> list[Expiry]:
        now = self._now()
        due: list[Expiry] = []
        while self._heap and self._heap[0].due <= now and len(due) < _BATCH:
            expiry = heapq.heappop(self._heap)
            due.append(replace(expiry, resource_version=self._versions.pop(expiry.ref.uid)))
        self._scheduled.set(len(self._heap))
        return due

    async def _sleep_until(self, next_listing: float) -> None:
        self._earlier.clear()
        pause = next_listing - time.monotonic()
        if self._heap:
            pause = min(pause, self._heap[0].due - self._now() + _GATHER_SECONDS)
        try:
            async with asyncio.timeout(max(0.0, pause)):
                await self._earlier.wait()
        except TimeoutError:
            pass
