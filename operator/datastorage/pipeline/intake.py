"""Bounded intake: takes each content of an object in once, and says so when it is full.

The watch may not wait (Kopf would hold every object in memory meanwhile), so ``offer`` drops what does
not fit and asks for a sweep, which brings it back. The sweep may wait, and uses ``put``.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from datastorage import metrics
from datastorage.pipeline.item import ObjectRef, WorkItem, ref_of, unread_ref_of
from datastorage.pipeline.reading import work_item
from datastorage.records.record import RecordKey
from datastorage.resources.kinds import Phase, ResourceKind
from datastorage.resources.reading.record import canonical_spec, key_of

_log = logging.getLogger(__name__)

# How many settled contents are remembered. A stale event of a settled object follows its status write
# within moments; one that comes after it was forgotten is stored again, without effect.
_REMEMBERED: Final = 50_000
# An event may have waited this long before it came here, behind tens of thousands of others at most. What an
# object said longer ago than it was settled is stale; what it says later than that is news, even if it is the
# same as before: its cluster was restored from a backup, and its status has to be written again.
_LATE_EVENT_SECONDS: Final = 300.0
# A content that waits in the cluster and that no sweep has brought back for so long is there no more.
_FORGOTTEN_SECONDS: Final = 3600.0
# How many versions of objects that can't be read are remembered, so that each is logged once.
_UNREADABLE_REMEMBERED: Final = 1_000
_SETTLED_PHASES: Final = frozenset({Phase.RECORDING, Phase.STORED, Phase.DEGRADED, Phase.REJECTED})


class Verdict(StrEnum):
    """What became of an offered object."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # this content is on its way, or was settled after the object was read
    WAITING = "waiting"  # PostgreSQL has refused it for now: its time to be tried again has not come
    SETTLED = "settled"  # its own status says that it needs nothing more
    UNREADABLE = "unreadable"  # a fault of this program: the object stays in the cluster, and is logged
    FULL = "full"  # no room: a sweep will bring it back


class Intake:
    """A queue of work items, bounded in number and bytes, that holds each content of an object once."""

    def __init__(
        self,
        *,
        max_items: int,
        max_bytes: int,
        default_ttl_seconds: int,
        on_overflow: Callable[[], None],
        with_texts: bool = True,
    ) -> None:
        """``with_texts``: the records are to have vectors. ``on_overflow`` is told when there is no room."""
        self._with_texts = with_texts
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._default_ttl_seconds = default_ttl_seconds
        self._on_overflow = on_overflow
        self._queue: deque[WorkItem] = deque()
        self._bytes = 0
        self._in_flight: set[RecordKey] = set()
        self._secured: set[RecordKey] = set()
        self._last_copies: dict[RecordKey, ObjectRef] = {}
        # When each was settled, in monotonic seconds, and the object's generation then.
        self._settled: OrderedDict[RecordKey, tuple[float, int]] = OrderedDict()
        # Until when each has to wait, in monotonic seconds.
        self._postponed: OrderedDict[RecordKey, float] = OrderedDict()
        self._unreadable: OrderedDict[tuple[ObjectRef, str | None], None] = OrderedDict()
        self._depth_share = metrics.Share(metrics.INTAKE_DEPTH)
        self._bytes_share = metrics.Share(metrics.INTAKE_BYTES)
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    def offer(self, kind: ResourceKind, body: Mapping[str, Any]) -> Verdict:
        """Take the object in if it needs storing and there is room; never wait."""
        verdict, _ = self._take_in(kind, body, read_at=time.monotonic() - _LATE_EVENT_SECONDS)
        if verdict is Verdict.FULL:
            self._on_overflow()
        metrics.INTAKE_TOTAL.labels(verdict.value).inc()
        return verdict

    def offer_last_copy(self, kind: ResourceKind, body: Mapping[str, Any]) -> Verdict:
        """Take in an object that the cluster has no more, even where there is no room.

        To wait for room would not save memory: Kopf would hold the object instead, and a stop would drop it.
        What its status says is no proof that its row is there, and after this nobody can look again.
        """
        verdict, key = self._take_in(
            kind, body, read_at=time.monotonic() - _LATE_EVENT_SECONDS, deleted=True, force=True
        )
        if key is not None and key in self._in_flight and key not in self._secured:
            self._last_copies[key] = ref_of(kind, body)
        metrics.INTAKE_TOTAL.labels(verdict.value).inc()
        return verdict

    async def put(
        self, kind: ResourceKind, body: Mapping[str, Any], *, read_at: float, force: bool = False
    ) -> Verdict:
        """Take the object in if it needs storing, waiting for room as long as it takes.

        ``read_at``: when the cluster was asked for it, in monotonic seconds. ``force``: store it even if its
        status says that it is stored (the archive knows better).
        """
        while (verdict := self._take_in(kind, body, read_at=read_at, force=force)[0]) is Verdict.FULL:
            self._drained.clear()
            await self._drained.wait()
        metrics.INTAKE_TOTAL.labels(verdict.value).inc()
        return verdict

    async def take(self, *, max_items: int, max_bytes: int, linger_seconds: float) -> list[WorkItem]:
        """Wait for work and return a batch of at least one item.

        A batch that is not full waits ``linger_seconds`` for company. A single item may exceed ``max_bytes``.
        """
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            if len(self._queue) >= max_items:
                break
            await asyncio.sleep(linger_seconds)
            if self._queue:  # another taker may have been quicker
                break
        batch: list[WorkItem] = []
        size = 0
        while (
            self._queue and len(batch) < max_items and (not batch or size + self._queue[0].size <= max_bytes)
        ):
            item = self._queue.popleft()
            size += item.size
            batch.append(item)
        self._bytes -= size
        self._drained.set()
        self._export()
        return batch

    def begin(self, key: RecordKey) -> bool:
        """Note that something is under way for a content that is stored; False when it is already."""
        if key in self._in_flight:
            return False
        self._in_flight.add(key)
        self._secured.add(key)
        return True

    def secure(self, key: RecordKey) -> None:
        """Note that an item is committed: whatever happens to it now, it is not lost."""
        self._secured.add(key)
        self._last_copies.pop(key, None)

    def settle(self, key: RecordKey, generation: int) -> None:
        """Forget an item whose way is over; stale events of it are recognised for a while.

        ``generation`` is the object's own, which a deletion raises without another content.
        """
        self.release(key)
        self._settled[key] = (time.monotonic(), generation)
        self._settled.move_to_end(key)
        if len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)

    def release(self, key: RecordKey) -> None:
        """Forget an item whose way ended early, so that the next event or sweep takes it in again."""
        self._in_flight.discard(key)
        self._secured.discard(key)
        self._last_copies.pop(key, None)

    def postpone(self, key: RecordKey, *, seconds: float) -> None:
        """Forget an item that was refused for now; it is not taken in again before ``seconds`` are over."""
        self.release(key)
        self._postponed[key] = time.monotonic() + seconds
        if len(self._postponed) > _REMEMBERED:
            self._postponed.popitem(last=False)

    @property
    def postponed(self) -> int:
        """Items that wait in the cluster because PostgreSQL has refused them."""
        before = time.monotonic() - _FORGOTTEN_SECONDS
        while self._postponed and next(iter(self._postponed.values())) < before:
            self._postponed.popitem(last=False)
        return len(self._postponed)

    def is_last_copy(self, item: WorkItem) -> bool:
        """Whether the cluster has the item no more."""
        return item.deleted or item.record.key in self._last_copies

    @property
    def last_copies(self) -> list[ObjectRef]:
        """Objects that are neither in the cluster any more nor committed yet: only this process has them."""
        return list(self._last_copies.values())

    @property
    def depth(self) -> int:
        """Items waiting to be taken."""
        return len(self._queue)

    def _take_in(
        self,
        kind: ResourceKind,
        body: Mapping[str, Any],
        *,
        read_at: float,
        deleted: bool = False,
        force: bool = False,
    ) -> tuple[Verdict, RecordKey | None]:
        """Take an object in if it needs storing and there is room; return its key where it was needed."""
        unread = unread_ref_of(kind, body)
        version: str | None = None
        try:
            ref_of(kind, body)  # all that follows needs it
            version = str(body["metadata"]["resourceVersion"])
            if (unread, version) in self._unreadable:
                return Verdict.UNREADABLE, None
            if not force and _says_settled(body):
                return Verdict.SETTLED, None
            spec_bytes = canonical_spec(body)
            key = key_of(kind, body, spec_bytes)
            verdict = self._judge(key, body, read_at=read_at)
            if verdict is Verdict.ACCEPTED or (verdict in {Verdict.FULL, Verdict.WAITING} and deleted):
                self._append(kind, body, spec_bytes, deleted=deleted)
                verdict = Verdict.ACCEPTED
        except Exception:  # noqa: BLE001  # whatever it is, it is logged whole
            # No object of an API server is known that leads here; what a proxy has made may lack anything.
            # It must not stop the sweep for all others.
            self._note_unreadable(unread, version)
            return Verdict.UNREADABLE, None
        return verdict, key

    def _note_unreadable(self, ref: ObjectRef, version: str | None) -> None:
        """Log and count what can't be read, each version of an object once."""
        if (ref, version) in self._unreadable:
            return
        metrics.VALIDATION_FAILURES.labels("object", "unreadable").inc()
        _log.exception("Object can't be read; it stays in the cluster", extra=ref.as_log_fields())
        self._unreadable[ref, version] = None
        if len(self._unreadable) > _UNREADABLE_REMEMBERED:
            self._unreadable.popitem(last=False)

    def _judge(self, key: RecordKey, body: Mapping[str, Any], *, read_at: float) -> Verdict:
        if key in self._in_flight:
            return Verdict.DUPLICATE
        # Our own status write moves an object out of the watch's field selector. It then arrives as
        # deleted, with its content from before the write: only this memory tells that it is stored.
        settled_at, generation = self._settled.get(key, (-math.inf, 0))
        if settled_at > read_at and body["metadata"]["generation"] <= generation:
            return Verdict.DUPLICATE
        if time.monotonic() < self._postponed.get(key, 0.0):
            return Verdict.WAITING
        if len(self._queue) >= self._max_items or self._bytes >= self._max_bytes:
            return Verdict.FULL
        return Verdict.ACCEPTED

    def _append(
        self, kind: ResourceKind, body: Mapping[str, Any], spec_bytes: bytes, *, deleted: bool
    ) -> None:
        item = work_item(
            kind, body, default_ttl_seconds=self._default_ttl_seconds, deleted=deleted,
            with_text=self._with_texts, spec_bytes=spec_bytes,
        )  # fmt: skip
        self._queue.append(item)
        self._bytes += item.size
        self._in_flight.add(item.record.key)
        self._postponed.pop(item.record.key, None)
        self._filled.set()
        self._export()

    def close(self) -> None:
        """Count no more in the metrics."""
        self._depth_share.close()
        self._bytes_share.close()

    def _export(self) -> None:
        self._depth_share.set(len(self._queue))
        self._bytes_share.set(self._bytes)


def _says_settled(body: Mapping[str, Any]) -> bool:
    status = body.get("status") or {}
    current = status.get("observedGeneration") == body["metadata"]["generation"]
    return current and status.get("phase") in _SETTLED_PHASES
