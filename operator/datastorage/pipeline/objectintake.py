"""Takes in the cluster's objects: each content of an object once, and no more than there is room for.

The watch must not wait (Kopf would hold every object in memory meanwhile), so ``offer`` drops an object
that does not fit and asks for a sweep, which brings it back. The sweep may wait, and uses ``put``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cachetools import FIFOCache

from datastorage import metrics
from datastorage.metrics import Verdict
from datastorage.pipeline.clusterobject import (
    Body,
    ObjectRef,
    is_settled,
    log_unreadable,
    ref_of,
    unread_ref_of,
    version_of,
)
from datastorage.pipeline.createdobjects import CreatedObjects
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Stamp, WorkItem
from datastorage.pipeline.objectorigin import ObjectOrigin
from datastorage.pipeline.register import Register
from datastorage.pipeline.statusqueue import StatusQueue
from datastorage.records.record import RecordKey
from datastorage.resources.kinds import AUDIT_RECORD, ResourceKind
from datastorage.resources.reading.objectrecord import author_of, canonical_spec, key_of, record_of
from datastorage.resources.reading.requestobject import claim_of, stands_for_request
from datastorage.tracing import NO_TRACES, Traces

# An event may arrive this late, behind tens of thousands of others. A content that was read before it was
# settled is stale. One that was read later is new, even if it is the same as before: the cluster was restored
# from a backup, and the status has to be written again.
_LATE_EVENT_SECONDS: Final = 300.0
# How many versions of objects that can't be read are remembered, so that each is logged once.
_UNREADABLE_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An object with the values read from it, so that they are read once, however long it waits for room."""

    kind: ResourceKind
    body: Body
    ref: ObjectRef
    spec_bytes: bytes
    key: RecordKey


class ObjectIntake:
    """Judges objects, and puts the records of those that have to be stored into the intake."""

    def __init__(
        self,
        *,
        intake: Intake,
        register: Register,
        statuses: StatusQueue,
        default_ttl_seconds: int,
        on_overflow: Callable[[], None],
        with_texts: bool = True,
        created: CreatedObjects | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        """``with_texts``: whether records get vectors. ``on_overflow`` is called when there is no room.

        ``created`` are the objects that this process itself creates for requests.
        """
        self._intake = intake
        self._register = register
        self._statuses = statuses
        self._default_ttl_seconds = default_ttl_seconds
        self._on_overflow = on_overflow
        self._with_texts = with_texts
        self._created = created
        self._traces = traces
        self._unreadable: FIFOCache[tuple[ObjectRef, str | None], None] = FIFOCache(_UNREADABLE_REMEMBERED)
        self.only_last_copies = False
        """Whether another process takes in what the cluster has. Then only last copies are taken in here."""

    def offer(self, kind: ResourceKind, body: Body) -> Verdict:
        """Take the object in if it needs storing and there is room; never wait."""
        if self.only_last_copies:
            return Verdict.WAITING  # not counted: the other process counts it
        candidate = self._read(kind, body)
        if isinstance(candidate, Verdict):
            return _counted(candidate)
        verdict = self._take_in(candidate, read_at=_event_read_at())
        if verdict is Verdict.FULL:
            self._on_overflow()
        return _counted(verdict)

    def offer_last_copy(self, kind: ResourceKind, body: Body) -> Verdict:
        """Take in an object that the cluster no longer has, even where there is no room.

        Waiting for room would not save memory: Kopf would hold the object instead, and a stop would drop it.
        The status is ignored: it does not prove that the row exists, and nobody can look at the object later.
        """
        candidate = self._read(kind, body, force=True)
        if isinstance(candidate, Verdict):
            return _counted(candidate)
        verdict = self._take_in(candidate, read_at=_event_read_at(), deleted=True)
        # A generation that was under way already counts, too: this process now has its only copy.
        self._register.last_copy(candidate.key, candidate.ref)
        return _counted(verdict)

    def is_known(self, kind: ResourceKind, body: Body) -> bool:
        """Whether an object that the cluster no longer has is already stored with this content.

        If so, it is counted as an offered duplicate: nothing more has to happen.
        """
        candidate = self._read(kind, body, force=True)
        if isinstance(candidate, Verdict):
            return False
        register, key, generation = self._register, candidate.key, body["metadata"]["generation"]
        known = register.is_committed(key) or register.is_settled(key, generation, read_at=_event_read_at())
        if known:
            _counted(Verdict.DUPLICATE)
        return known

    async def put(self, kind: ResourceKind, body: Body, *, read_at: float, force: bool = False) -> Verdict:
        """Take the object in if it needs storing, waiting for room as long as it takes.

        ``read_at``: when the cluster was asked for it, in monotonic seconds. ``force``: store it even if its
        status says that it is stored (the archive does not have it).
        """
        candidate = self._read(kind, body, force=force)
        if isinstance(candidate, Verdict):
            return _counted(candidate)
        while (verdict := self._take_in(candidate, read_at=read_at)) is Verdict.FULL:
            await self._intake.drained()
        return _counted(verdict)

    def _read(self, kind: ResourceKind, body: Body, *, force: bool = False) -> _Candidate | Verdict:
        """Read an object; return the verdict if it can't be read, or its own status says it is settled."""
        version: str | None = None
        try:
            ref = ref_of(kind, body)
            version = str(body["metadata"]["resourceVersion"])
            if (ref, version) in self._unreadable:
                return Verdict.UNREADABLE
            if not force and is_settled(body):
                return Verdict.SETTLED
            spec_bytes = canonical_spec(body)
            return _Candidate(kind, body, ref, spec_bytes, key_of(kind, body, spec_bytes))
        except Exception:  # noqa: BLE001  # any error: it is logged with its traceback
            return self._cannot_read(unread_ref_of(kind, body), version)

    def _take_in(self, candidate: _Candidate, *, read_at: float, deleted: bool = False) -> Verdict:
        """Take an object in if it needs storing and there is room; one that is ``deleted`` can't wait."""
        register, key, body = self._register, candidate.key, candidate.body
        try:
            generation = body["metadata"]["generation"]
            if register.is_under_way(key) or register.is_settled(key, generation, read_at=read_at):
                return Verdict.DUPLICATE
            if not deleted and register.is_postponed(key):
                return Verdict.WAITING
            if not deleted and not self._intake.has_room:
                return Verdict.FULL
            kind, spec_bytes = candidate.kind, candidate.spec_bytes
            record = record_of(kind, body, spec_bytes=spec_bytes, with_text=self._with_texts)
            version = version_of(kind, body, record.key, default_ttl_seconds=self._default_ttl_seconds)
            stamp = Stamp(author_of(body), time.monotonic())
            origin = ObjectOrigin(version, deleted, self._statuses, register)
            if kind is AUDIT_RECORD and stands_for_request(record.name):
                record = replace(record, claim=claim_of(body))
                origin = replace(origin, created=self._created)
        except Exception:  # noqa: BLE001  # as above
            return self._cannot_read(candidate.ref, str(body["metadata"]["resourceVersion"]))
        register.start(record.key)
        self._intake.add(WorkItem(record, origin, stamp, self._traces.taken_in()))
        return Verdict.ACCEPTED

    def _cannot_read(self, ref: ObjectRef, version: str | None) -> Verdict:
        """Log and count an object that can't be read, once per version; it must not stop the others."""
        if (ref, version) not in self._unreadable:
            self._unreadable[ref, version] = None
            metrics.OBJECT_UNREADABLE.inc()
            log_unreadable(ref)
        return Verdict.UNREADABLE


def _event_read_at() -> float:
    return time.monotonic() - _LATE_EVENT_SECONDS


def _counted(verdict: Verdict) -> Verdict:
    metrics.INTAKE_TOTAL.labels(verdict).inc()
    return verdict
