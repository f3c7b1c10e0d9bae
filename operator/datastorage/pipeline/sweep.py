"""The promise that nothing is forgotten: lists the unstored objects and feeds them to the intake.

The watch gives speed; events can be lost, dropped or never sent. The sweep asks the cluster what is
still unstored, page by page, at the pace at which the intake drains. Where an object that it meets says that
it is stored (a running trace, a record without its vector), it looks the row up, and has the object stored
again if the row is gone. One that says Rejected is taken in again once it is rejected no more.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

from datastorage import metrics
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.intake import Intake, Verdict
from datastorage.pipeline.kindbykind import KindByKind
from datastorage.resilience.signal import Signal
from datastorage.resilience.worker import jittered
from datastorage.resources.kinds import KINDS, Phase, ResourceKind

# What the watch and the sweep ask for: everything that is not finally stored.
UNSTORED_SELECTOR: Final = f"status.phase!={Phase.STORED}"
_PAGE_SIZE: Final = 500
# A sweep that was asked for while one ran begins after this pause, and a failed one is repeated after it.
_PAUSE_SECONDS: Final = 1.0


class Cluster(Protocol):
    """The request that is needed here (kube/objects.py)."""

    def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]: ...


class SweepRequests:
    """The kinds that are to be swept soon. Several components ask, and the sweep alone takes."""

    def __init__(self) -> None:
        self._kinds: set[ResourceKind] = set()
        self._signal = Signal()

    def add(self, *kinds: ResourceKind) -> None:
        """Ask for a sweep of these kinds, or of all, soon; asking again before it begins changes nothing."""
        self._kinds.update(kinds or KINDS)
        self._signal.set()

    async def next(self, seconds: float) -> set[ResourceKind]:
        """Wait for a request, ``seconds`` at most; return the kinds that were asked for, all without one."""
        await self._signal.wait(seconds)
        kinds, self._kinds = self._kinds or set(KINDS), set()
        return kinds


class Sweep:
    """Runs on request, and at intervals without one."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        intake: Intake,
        confirmation: Confirmation,
        requests: SweepRequests,
        interval_seconds: float,
    ) -> None:
        self._cluster = cluster
        self._intake = intake
        self._confirmation = confirmation
        self._interval_seconds = interval_seconds
        self._requests = requests
        self._kind_by_kind = KindByKind("The sweep")
        self.last_success: float | None = None
        """When the cluster was last listed to the end (monotonic seconds)."""

    async def run(self) -> None:
        """Sweep until cancelled, the first time at once."""
        self._requests.add()
        while True:
            wanted = await self._requests.next(jittered(self._interval_seconds))
            # Only what failed is repeated: the other kind is not listed again and again meanwhile.
            failed = await self._kind_by_kind.run([kind for kind in KINDS if kind in wanted], self._sweep)
            if failed:
                metrics.SWEEP_TOTAL.labels("failed").inc()
                self._requests.add(*failed)
            else:
                metrics.SWEEP_TOTAL.labels("success").inc()
                self.last_success = time.monotonic()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _sweep(self, kind: ResourceKind) -> None:
        read_at = time.monotonic()
        async for page in self._cluster.pages(kind, field_selector=UNSTORED_SELECTOR, page_size=_PAGE_SIZE):
            await self._feed(kind, page, read_at)
            metrics.SWEEP_OBJECTS.inc(len(page))
            read_at = time.monotonic()

    async def _feed(self, kind: ResourceKind, page: Sequence[dict[str, Any]], read_at: float) -> None:
        settled = [
            body for body in page if await self._intake.put(kind, body, read_at=read_at) is Verdict.SETTLED
        ]
        archived = [body for body in settled if body["status"]["phase"] != Phase.REJECTED]
        rejected = [body for body in settled if body["status"]["phase"] == Phase.REJECTED]
        for body in (
            *(await self._confirmation.of_objects(kind, archived)).missing,
            *await self._confirmation.not_rejected(kind, rejected),
        ):
            await self._intake.put(kind, body, read_at=read_at, force=True)
