"""Writes the outcome of a record into its object: one status patch, or at ttl 0 one deletion instead."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from datastorage import metrics
from datastorage.errors import (
    ClusterUnavailableError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    ObjectTooLargeError,
    RequestRefusedError,
)
from datastorage.pipeline import deletion
from datastorage.pipeline.clusterobject import Body, Expiry, ObjectVersion
from datastorage.pipeline.item import Outcome, Rejection
from datastorage.pipeline.register import Register
from datastorage.pipeline.statusqueue import StatusQueue, StatusUpdate
from datastorage.records.record import StoredRecord
from datastorage.records.vectorwrite import WriteState
from datastorage.resilience.backoff import Backoff
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.status import recording_status, rejected_status, stored_status
from datastorage.tracing import NO_TRACES, Step, Traces

_log = logging.getLogger(__name__)


class Cluster(deletion.Cluster, Protocol):
    """The requests that are needed here (kube/objects.py)."""

    async def patch_status(
        self, kind: ResourceKind, namespace: str, name: str, *, resource_version: str, status: dict[str, Any]
    ) -> str: ...


@dataclass(frozen=True)
class Pace:
    """How many writes are under way at once, and how long each is repeated."""

    concurrency: int = 16
    """For each kind: refused or slow writes of one kind do not hold up the other."""
    first_retry_seconds: float = 0.1
    max_retry_seconds: float = 3.0
    max_attempts: int = 24
    """After these, about a minute, the write is given up for now: the object itself may be the cause."""
    max_refusals: int = 11
    """About 15 s: an API server that is starting refuses requests until it has loaded its rules."""


@dataclass(frozen=True)
class Followers:
    """The calls into other components that follow a status write."""

    schedule: Callable[[Expiry], None]
    """Takes the stored objects that are to be deleted later."""
    offer: Callable[[ResourceKind, Body], object]
    """Takes an object that has changed since it was stored. It must not wait."""
    sweep: Callable[[], None]
    """Called when an object's status was given up for now."""
    promote: Callable[[], None]
    """Called when a status says that a vector is pending."""
    refused: Callable[[RequestRefusedError], None]
    """Called with a refusal that repeating has not cured."""


class StatusWriter:
    """Takes status updates from the queue and writes them, with one worker per concurrent request."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        register: Register,
        statuses: StatusQueue,
        followers: Followers,
        pace: Pace = Pace(),
        traces: Traces = NO_TRACES,
    ) -> None:
        self._cluster = cluster
        self._register = register
        self._statuses = statuses
        self._followers = followers
        self._pace = pace
        self._traces = traces

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in KINDS:
                for _ in range(self._pace.concurrency):
                    group.create_task(self._work(kind))

    async def _work(self, kind: ResourceKind) -> None:
        while True:
            update = await self._statuses.get(kind)
            try:
                await self._process(update)
            finally:
                self._statuses.written()

    async def _process(self, update: StatusUpdate) -> None:
        version, register = update.version, self._register
        ref, key = version.ref, version.key
        try:
            step = Step.DELETION if update.delete_now else Step.STATUS
            with self._traces.step(step, key.uid, key.generation, ref.as_log_fields):
                await self._write_until_answered(update)
        except NotServedError:
            # The object may come back with its definition, and then needs its status: the generation is not
            # settled.
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.GONE).inc()
            register.forget(key)
        except ObjectGoneError:
            # Somebody deleted it after it was stored. There is no object left that needs a status.
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.GONE).inc()
            register.done(key, version.generation)
        except ObjectChangedError:
            # There is a new version, or another object with the same name. It is offered again: its event may
            # have been dropped because this one was under way.
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.CHANGED).inc()
            register.forget(key)
            await self._look_again(version)
        except ObjectTooLargeError:
            # The object has no room for a status. It is stored, and is still deleted on time: the deletion
            # guard exempts the operator.
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.TOO_LARGE).inc()
            _log.warning("Stored, but the object has no room for a status", extra=ref.as_log_fields())
            register.done(key, version.generation)
            if version.final and isinstance(update.outcome, StoredRecord):
                self._schedule_deletion(version, update.outcome, version.resource_version)
        except RequestRefusedError as error:
            # Repeating at once would not help; a later sweep tries again.
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.REFUSED).inc()
            register.forget(key)
            _log.error("Status refused", extra={**ref.as_log_fields(), "error": str(error)})
            self._followers.refused(error)
        except ClusterUnavailableError as error:
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.ABANDONED).inc()
            register.forget(key)
            self._followers.sweep()
            _log.warning("Status not written for now", extra={**ref.as_log_fields(), "error": str(error)})
        else:
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.SUCCESS).inc()
            register.done(key, version.generation)
            if _is_pending(update.outcome):
                # The vector may have been written while the update waited in the queue.
                self._followers.promote()

    async def _write_until_answered(self, update: StatusUpdate) -> None:
        pauses = Backoff(self._pace.first_retry_seconds, self._pace.max_retry_seconds)
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._write(update)
            except (ClusterUnavailableError, RequestRefusedError) as error:
                refused = isinstance(error, RequestRefusedError)
                limit = self._pace.max_refusals if refused else self._pace.max_attempts
                if attempts >= limit or isinstance(error, ObjectTooLargeError):
                    raise
            metrics.STATUS_TOTAL.labels(metrics.StatusOutcome.RETRIED).inc()
            await asyncio.sleep(pauses.next())

    async def _write(self, update: StatusUpdate) -> None:
        version = update.version
        uid, generation = version.ref.uid, version.generation
        match update.outcome:
            case Rejection(reason):
                now = datetime.now(UTC)
                status = rejected_status(uid=uid, generation=generation, at=now, message=reason)
                await self._patch(version, status)
            case StoredRecord() as stored if not version.final:
                status = recording_status(
                    uid=uid,
                    generation=generation,
                    stored_at=stored.stored_at,
                    content_hash=stored.content_hash,
                    vector=stored.vector,
                    diverged=stored.diverged,
                )
                await self._patch(version, status)
            case StoredRecord() if update.delete_now:
                await deletion.delete(self._cluster, version.ref, version.resource_version)
            case StoredRecord() as stored:
                status = stored_status(
                    uid=uid,
                    generation=generation,
                    stored_at=stored.stored_at,
                    content_hash=stored.content_hash,
                    expires_at=_expires_at(version, stored),
                    vector=stored.vector,
                    diverged=stored.diverged,
                    held=version.held,
                )
                self._schedule_deletion(version, stored, await self._patch(version, status))

    def _schedule_deletion(self, version: ObjectVersion, stored: StoredRecord, resource_version: str) -> None:
        if not version.held:
            due = _expires_at(version, stored).timestamp()
            self._followers.schedule(Expiry(due, version.ref, version.key, resource_version))

    async def _patch(self, version: ObjectVersion, status: dict[str, Any]) -> str:
        # Only the version that was stored may be patched: a later generation, or a new object with the same
        # name, would be called Stored without being stored, and be hidden from every watch.
        ref = version.ref
        return await self._cluster.patch_status(
            ref.kind, ref.namespace, ref.name, resource_version=version.resource_version, status=status
        )

    async def _look_again(self, version: ObjectVersion) -> None:
        found = await deletion.look_again(self._cluster, version.ref)
        if found is None:
            return
        if not (found.archived and found.current):
            # ``offer`` never waits for room: this worker may have to make it. The sweep brings back what is
            # dropped.
            self._followers.offer(version.ref.kind, found.body)
            return
        # The change is our own write, whose answer was lost, or a write between the promotion's look at the
        # vector and its status write.
        if found.vector_pending:
            self._followers.promote()
        if found.expiry is not None:
            self._followers.schedule(found.expiry)


def _expires_at(version: ObjectVersion, stored: StoredRecord) -> datetime:
    return stored.stored_at + timedelta(seconds=version.ttl_seconds)


def _is_pending(outcome: Outcome) -> bool:
    return isinstance(outcome, StoredRecord) and outcome.vector.state is WriteState.PENDING
