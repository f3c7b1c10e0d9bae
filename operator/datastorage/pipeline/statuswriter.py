"""Tells the cluster what became of each record: one status patch, or at ttl 0 one deletion instead."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from datastorage import metrics
from datastorage.errors import (
    ClusterError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    ObjectTooLargeError,
    RequestRefusedError,
    TransientError,
)
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Announcement, Expiry, Outcome, Rejection, WorkItem
from datastorage.pipeline.reading import expiry_of, is_held
from datastorage.records.record import StoredRecord
from datastorage.records.writes import WriteState
from datastorage.resources.kinds import ARCHIVED, Phase, ResourceKind
from datastorage.resources.status import recording_status, rejected_status, stored_status

_log = logging.getLogger(__name__)

# Commits run ahead of the API server, which is several times slower than PostgreSQL. This many finished
# records may wait to be told; each holds under 1 KB.
_MAX_WAITING: Final = 100_000
_FIRST_RETRY_SECONDS: Final = 0.1
_MAX_RETRY_SECONDS: Final = 3.0
# After so many attempts, a minute or so, a write gives its worker back: it may be the object's own fault.
_MAX_ATTEMPTS: Final = 24
# An API server that is starting refuses what it allows once its rules are loaded. This many refusals take
# about 15 s.
_MAX_REFUSALS: Final = 11


class Cluster(Protocol):
    """The requests that are needed here (kube/objects.py)."""

    async def patch_status(
        self, kind: ResourceKind, namespace: str, name: str, *, resource_version: str, status: dict[str, Any]
    ) -> str: ...
    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None: ...
    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]: ...


class StatusWriter:
    """A bounded queue, and as many workers as requests may be under way at once."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        intake: Intake,
        schedule: Callable[[Expiry], None],
        on_abandoned: Callable[[], None],
        on_owing: Callable[[], None],
        concurrency: int,
    ) -> None:
        """``schedule`` takes the stored objects that are to be deleted later.

        ``on_abandoned`` is called when an object's status was given up for now, ``on_owing`` when a status
        says that a vector is owed.
        """
        self._cluster = cluster
        self._intake = intake
        self._schedule = schedule
        self._on_abandoned = on_abandoned
        self._on_owing = on_owing
        self._concurrency = concurrency
        self._queue: asyncio.Queue[Announcement] = asyncio.Queue(_MAX_WAITING)
        self._depth = metrics.Share(metrics.STATUS_DEPTH)
        self._unwritten = 0

    @property
    def idle(self) -> bool:
        """True when everything that was announced has been written."""
        return self._unwritten == 0

    async def announce(self, item: WorkItem, outcome: Outcome) -> None:
        """Queue the outcome of an item; wait while the queue is full."""
        if item.deleted:
            self._intake.settle(item.record.key, item.generation)
            return
        announcement = Announcement(
            ref=item.ref,
            key=item.record.key,
            generation=item.generation,
            resource_version=item.resource_version,
            final=item.final,
            ttl_seconds=item.ttl_seconds,
            held=item.held,
            # With finalizers the status comes first: Stored is what closes the spec.
            at_once=item.final and item.ttl_seconds == 0 and not item.held and not item.has_finalizers,
            outcome=outcome,
        )
        await self.announce_again(announcement)

    async def announce_again(self, announcement: Announcement) -> None:
        """Queue a status write for an object that has had one; wait while the queue is full."""
        self._unwritten += 1
        await self._queue.put(announcement)
        self._depth.set(self._queue.qsize())

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._work())

    def close(self) -> None:
        """Count no more in the metrics."""
        self._depth.close()

    async def _work(self) -> None:
        while True:
            announcement = await self._queue.get()
            self._depth.set(self._queue.qsize())
            try:
                await self._settle(announcement)
            finally:
                self._unwritten -= 1

    async def _settle(self, announcement: Announcement) -> None:
        ref, key = announcement.ref, announcement.key
        try:
            await self._write_until_answered(announcement)
        except NotServedError:
            # The object may come back with its definition, and needs its status then: nothing is settled.
            metrics.STATUS_TOTAL.labels("gone").inc()
            self._intake.release(key)
        except ObjectGoneError:
            # Somebody deleted it after it was stored. There is nothing left to tell.
            metrics.STATUS_TOTAL.labels("gone").inc()
            self._intake.settle(key, announcement.generation)
        except ObjectChangedError:
            # Another version, or another object under the same name. Look at what is there now and begin
            # again with it: the event that brought it may have been dropped because this one was in flight.
            metrics.STATUS_TOTAL.labels("changed").inc()
            self._intake.release(key)
            await self._look_again(announcement)
        except ObjectTooLargeError:
            # There is no room for a status in it. It is stored and is cleared in its time all the same: the
            # deletion guard does not hold the operator back.
            metrics.STATUS_TOTAL.labels("too_large").inc()
            _log.warning("Stored, but the object has no room for a status", extra=ref.as_log_fields())
            self._intake.settle(key, announcement.generation)
            if announcement.final and isinstance(announcement.outcome, StoredRecord):
                self._schedule_deletion(announcement, announcement.outcome, announcement.resource_version)
        except RequestRefusedError as error:
            # Repeating at once would not help; a later sweep tries again.
            metrics.STATUS_TOTAL.labels("refused").inc()
            self._intake.release(key)
            _log.error("Status refused", extra={**ref.as_log_fields(), "error": str(error)})
        except TransientError as error:
            metrics.STATUS_TOTAL.labels("abandoned").inc()
            self._intake.release(key)
            self._on_abandoned()
            _log.warning("Status not written for now", extra={**ref.as_log_fields(), "error": str(error)})
        else:
            metrics.STATUS_TOTAL.labels("success").inc()
            self._intake.settle(key, announcement.generation)
            if _owes(announcement.outcome):
                # It may have been paid while this waited in the queue.
                self._on_owing()

    async def _write_until_answered(self, announcement: Announcement) -> None:
        delay = _FIRST_RETRY_SECONDS
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return await self._write(announcement)
            except ObjectTooLargeError:
                raise
            except (TransientError, RequestRefusedError) as error:
                refused = isinstance(error, RequestRefusedError)
                if attempt >= (_MAX_REFUSALS if refused else _MAX_ATTEMPTS):
                    raise
                metrics.STATUS_TOTAL.labels("retried").inc()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret
            delay = min(delay * 2, _MAX_RETRY_SECONDS)
        return None

    async def _write(self, announcement: Announcement) -> None:
        ref, generation = announcement.ref, announcement.generation
        match announcement.outcome:
            case Rejection(reason):
                status = rejected_status(
                    uid=ref.uid, generation=generation, at=datetime.now(UTC), message=reason
                )
                await self._patch(announcement, status)
            case StoredRecord() as stored if not announcement.final:
                status = recording_status(
                    uid=ref.uid, generation=generation, stored_at=stored.stored_at,
                    content_hash=stored.content_hash, vector=stored.vector,
                    diverged=stored.diverged,
                )  # fmt: skip
                await self._patch(announcement, status)
            case StoredRecord() if announcement.at_once:
                await self._cluster.delete(
                    ref.kind, ref.namespace, ref.name, uid=ref.uid,
                    resource_version=announcement.resource_version,
                )  # fmt: skip
                metrics.GC_TOTAL.labels("deleted").inc()
            case StoredRecord() as stored:
                await self._write_stored(announcement, stored)

    async def _write_stored(self, announcement: Announcement, stored: StoredRecord) -> None:
        status = stored_status(
            uid=announcement.ref.uid,
            generation=announcement.generation,
            stored_at=stored.stored_at,
            content_hash=stored.content_hash,
            expires_at=_expiry(announcement, stored),
            vector=stored.vector,
            diverged=stored.diverged,
            held=announcement.held,
        )
        version = await self._patch(announcement, status)
        self._schedule_deletion(announcement, stored, version)

    def _schedule_deletion(self, announcement: Announcement, stored: StoredRecord, version: str) -> None:
        if not announcement.held:
            due = _expiry(announcement, stored).timestamp()
            self._schedule(Expiry(due, announcement.ref, announcement.key, version))

    async def _patch(self, announcement: Announcement, status: dict[str, Any]) -> str:
        # Always tied to the version that was stored: a later generation that were called Stored would be
        # hidden from every watch, and so would a new object under the name of a deleted one.
        ref = announcement.ref
        return await self._cluster.patch_status(
            ref.kind,
            ref.namespace,
            ref.name,
            resource_version=announcement.resource_version,
            status=status,
        )

    async def _look_again(self, announcement: Announcement) -> None:
        ref = announcement.ref
        try:
            body = await self._cluster.get(ref.kind, ref.namespace, ref.name)
        except ClusterError:
            return  # it is gone, or the sweep will find it
        status = body.get("status") or {}
        current = status.get("observedGeneration") == body["metadata"]["generation"]
        if status.get("phase") in ARCHIVED and current:
            # Our own write, whose answer was lost on the way, or one that came between a look at what is owed
            # and the write that says that it is paid.
            if status["phase"] == Phase.DEGRADED:
                self._on_owing()
            expiry = expiry_of(ref.kind, body)
            if expiry is not None and not is_held(body["metadata"]):
                self._schedule(expiry)
            return
        # Never waits for room: this worker may be what makes room. What does not fit comes with the sweep.
        self._intake.offer(ref.kind, body)


def _expiry(announcement: Announcement, stored: StoredRecord) -> datetime:
    return stored.stored_at + timedelta(seconds=announcement.ttl_seconds)


def _owes(outcome: Outcome) -> bool:
    return isinstance(outcome, StoredRecord) and outcome.vector.state is WriteState.PENDING
