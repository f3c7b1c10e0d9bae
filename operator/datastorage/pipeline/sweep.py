"""Makes sure that no object is forgotten: lists the unstored objects and feeds them to the intake.

The watch is fast, but its events can be lost, dropped or never sent. The sweep lists all objects that are
still unstored, page by page, at the pace at which the intake drains. If an object's status says that it is
stored (a running trace, a record without its vector), the sweep looks up the row, and has the object stored
again if the row is gone. An object whose status says Rejected is taken in again once its record is no longer
rejected. The sweep of the first shard also finds the neglected objects of other shards (neglected.py).
"""

import math
import time
from dataclasses import dataclass
from typing import Final

from datastorage import metrics
from datastorage.metrics import Verdict
from datastorage.pipeline.clusterobject import phase_of
from datastorage.pipeline.listing import OBJECTS_PER_PAGE, Cluster, Page, Walk
from datastorage.pipeline.neglected import Neglected
from datastorage.pipeline.objectintake import ObjectIntake
from datastorage.pipeline.rowconfirmation import Confirmation
from datastorage.resilience.signal import Signal
from datastorage.resilience.worker import MIN_JITTER, repeat
from datastorage.resources.kinds import KINDS, Phase, ResourceKind

# The watch and the sweep ask for everything that is not finally stored.
UNSTORED_SELECTOR: Final = f"status.phase!={Phase.STORED}"


@dataclass(frozen=True)
class Pace:
    """How often the cluster is listed."""

    interval_seconds: float = 300.0
    """Between two sweeps without a request."""
    pause_seconds: float = 1.0
    """Between a sweep and one that repeats it, or that was requested while it ran."""
    page_size: int = OBJECTS_PER_PAGE


class SweepRequests:
    """The kinds to sweep soon. Built before the sweep, so that other components can ask for one."""

    def __init__(self) -> None:
        self.signal = Signal()
        self._kinds: set[ResourceKind] = set()

    def add(self, *kinds: ResourceKind) -> None:
        """Ask for a sweep of these kinds, or of all; a second request before it begins changes nothing."""
        self._kinds.update(kinds or KINDS)
        self.signal.set()

    def take(self) -> list[ResourceKind]:
        """Return the kinds that were asked for, in order, and forget them."""
        kinds = [kind for kind in KINDS if kind in self._kinds]
        self._kinds.clear()
        return kinds


class Sweep:
    """Runs on request, and at intervals without one."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        objects: ObjectIntake,
        confirmation: Confirmation,
        requests: SweepRequests,
        neglected: Neglected | None = None,
        pace: Pace = Pace(),
    ) -> None:
        """``neglected`` chooses among the objects of all shards, which ``cluster`` then lists."""
        self._neglected = neglected
        self._objects = objects
        self._confirmation = confirmation
        self._requests = requests
        self._pace = pace
        self._walk = Walk(cluster, name="The sweep", selectors=[UNSTORED_SELECTOR], page_size=pace.page_size)
        # When each kind was listed last (monotonic seconds), whether that succeeded or not.
        self._listed_at = dict.fromkeys(KINDS, -math.inf)
        self.last_success: float | None = None
        """When the cluster was last listed to the end (monotonic seconds)."""

    async def run(self) -> None:
        """Sweep until cancelled, the first time at once."""
        await repeat(
            self._sweep,
            interval_seconds=self._pace.interval_seconds,
            wake=self._requests.signal,
            pause_seconds=self._pace.pause_seconds,
        )

    async def _sweep(self) -> None:
        # If one kind fails, only that kind is repeated. The other one is listed at its interval, however long
        # the failure lasts.
        now = time.monotonic()
        due = now - MIN_JITTER * self._pace.interval_seconds
        requested = self._requests.take()
        kinds = [kind for kind in KINDS if kind in requested or self._listed_at[kind] <= due]
        if not kinds:
            return
        self._listed_at.update(dict.fromkeys(kinds, now))
        if self._neglected is not None:
            self._neglected.begin(kinds)
        failed = await self._walk.run(kinds, self._feed)
        if failed:
            metrics.SWEEP_TOTAL.labels(metrics.Completion.FAILED).inc()
            self._requests.add(*failed)
        else:
            metrics.SWEEP_TOTAL.labels(metrics.Completion.SUCCESS).inc()
            self.last_success = time.monotonic()

    async def _feed(self, page: Page) -> None:
        bodies = page.bodies
        if self._neglected is not None:
            bodies = self._neglected.choose(page.kind, bodies)
        settled = [
            body
            for body in bodies
            if await self._objects.put(page.kind, body, read_at=page.read_at) is Verdict.SETTLED
        ]
        archived = [body for body in settled if phase_of(body) != Phase.REJECTED]
        rejected = [body for body in settled if phase_of(body) == Phase.REJECTED]
        for body in (
            *(await self._confirmation.of_objects(page.kind, archived)).missing,
            *await self._confirmation.not_rejected(page.kind, rejected),
        ):
            await self._objects.put(page.kind, body, read_at=page.read_at, force=True)
        metrics.SWEEP_OBJECTS.inc(len(bodies))
