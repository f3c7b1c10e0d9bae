"""Bounded intake: takes each generation of an object in once, and says so when it is full.

The watch may not wait (Kopf would hold every object in memory meanwhile), so ``offer`` drops what does
not fit and asks for a sweep, which brings it back. The sweep may wait, and uses ``put``.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from datastorage import metrics
from datastorage.pipeline.extract import work_item
from datastorage.pipeline.workitem import ObjectRef, WorkItem
from datastorage.resources import Phase, ResourceKind
from datastorage.storage.records import Identity

_log = logging.getLogger(__name__)

# How many settled generations are remembered. A stale event of a settled object follows its status write
# within moments; one that comes after it was forgotten is stored again, without effect.
_REMEMBERED: Final = 50_000
_SETTLED_PHASES: Final = frozenset({Phase.RECORDING, Phase.STORED, Phase.DEGRADED, Phase.REJECTED})


class Verdict(StrEnum):
    """What became of an offered object."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # this generation is on its way, or was settled a moment ago
    SETTLED = "settled"  # its own status says that this generation needs nothing more
    UNREADABLE = "unreadable"  # a fault of this program: the object stays in the cluster, and is logged
    FULL = "full"  # no room: a sweep will bring it back


class Intake:
    """A queue of work items, bounded in number and bytes, that holds each (uid, generation) once."""

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
        self._in_flight: set[Identity] = set()
        self._secured: set[Identity] = set()
        self._last_copies: dict[Identity, ObjectRef] = {}
        self._settled: OrderedDict[Identity, None] = OrderedDict()
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    def offer(self, kind: ResourceKind, body: Mapping[str, Any]) -> Verdict:
        """Take the object in if it needs storing and there is room; never wait."""
        verdict = self._judge(body, force=False)
        if verdict is Verdict.ACCEPTED:
            verdict = self._append(kind, body, deleted=False)
        elif verdict is Verdict.FULL:
            self._on_overflow()
        metrics.INTAKE_TOTAL.labels(verdict.value).inc()
        return verdict

    def offer_last_copy(self, kind: ResourceKind, body: Mapping[str, Any]) -> Verdict:
        """Take in an object that the cluster has no more, even where there is no room.

        To wait for room would not save memory: Kopf would hold the object instead, and a stop would drop it.
        """
        verdict = self._judge(body, force=False)
        if verdict in {Verdict.ACCEPTED, Verdict.FULL}:
            verdict = self._append(kind, body, deleted=True)
        metadata = body["metadata"]
        identity = (metadata["uid"], metadata["generation"])
        if identity in self._in_flight and identity not in self._secured:
            ref = ObjectRef(kind, metadata["namespace"], metadata["name"], metadata["uid"])
            self._last_copies[identity] = ref
        metrics.INTAKE_TOTAL.labels(verdict.value).inc()
        return verdict

    async def put(self, kind: ResourceKind, body: Mapping[str, Any], *, force: bool = False) -> Verdict:
        """Take the object in if it needs storing, waiting for room as long as it takes.

        ``force``: store it even if its status says that it is stored (the archive knows better).
        """
        while (verdict := self._judge(body, force=force)) is Verdict.FULL:
            self._drained.clear()
            await self._drained.wait()
        if verdict is Verdict.ACCEPTED:
            verdict = self._append(kind, body, deleted=False)
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

    def begin(self, identity: Identity) -> bool:
        """Note that something is under way for a generation that is stored; False when it is already."""
        if identity in self._in_flight:
            return False
        self._in_flight.add(identity)
        self._secured.add(identity)
        return True

    def secure(self, identity: Identity) -> None:
        """Note that an item is committed: whatever happens to it now, it is not lost."""
        self._secured.add(identity)
        self._last_copies.pop(identity, None)

    def settle(self, identity: Identity) -> None:
        """Forget an item whose way is over; stale events of it are recognised for a while."""
        self.release(identity)
        self._settled[identity] = None
        if len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)

    def release(self, identity: Identity) -> None:
        """Forget an item whose way ended early, so that the next event or sweep takes it in again."""
        self._in_flight.discard(identity)
        self._secured.discard(identity)
        self._last_copies.pop(identity, None)

    @property
    def last_copies(self) -> list[ObjectRef]:
        """Objects that are neither in the cluster any more nor committed yet: only this process has them."""
        return list(self._last_copies.values())

    @property
    def depth(self) -> int:
        """Items waiting to be taken."""
        return len(self._queue)

    def _judge(self, body: Mapping[str, Any], *, force: bool) -> Verdict:
        metadata = body["metadata"]
        identity = (metadata["uid"], metadata["generation"])
        if identity in self._in_flight:
            return Verdict.DUPLICATE
        if not force:
            # Our own status write moves an object out of the watch's field selector. It then arrives as
            # deleted, with its content from before the write: only this memory tells that it is stored.
            if identity in self._settled:
                return Verdict.DUPLICATE
            status = body.get("status") or {}
            if status.get("phase") in _SETTLED_PHASES and status.get("observedGeneration") == identity[1]:
                return Verdict.SETTLED
        if len(self._queue) >= self._max_items or self._bytes >= self._max_bytes:
            return Verdict.FULL
        return Verdict.ACCEPTED

    def _append(self, kind: ResourceKind, body: Mapping[str, Any], *, deleted: bool) -> Verdict:
        try:
            item = work_item(
                kind, body, default_ttl_seconds=self._default_ttl_seconds, deleted=deleted,
                with_text=self._with_texts,
            )  # fmt: skip
        except Exception:  # noqa: BLE001  # whatever it is, it is logged whole
            # No input is known that leads here. One that does must not stop the sweep for all others.
            metadata = body["metadata"]
            metrics.VALIDATION_FAILURES.labels("object", "unreadable").inc()
            _log.exception(
                "Object can't be read; it stays in the cluster",
                extra=ObjectRef(
                    kind, metadata["namespace"], metadata["name"], metadata["uid"]
                ).as_log_fields(),
            )
            self.settle((metadata["uid"], metadata["generation"]))
            return Verdict.UNREADABLE
        self._queue.append(item)
        self._bytes += item.size
        self._in_flight.add(item.identity)
        self._filled.set()
        self._export()
        return Verdict.ACCEPTED

    def _export(self) -> None:
        metrics.INTAKE_DEPTH.set(len(self._queue))
        metrics.INTAKE_BYTES.set(self._bytes)
