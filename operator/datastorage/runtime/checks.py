"""The checks behind /health and /ready.

/health checks only what a restart would cure; /ready checks everything that the work can't be done without.
The notes of /ready report other problems.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from datastorage.api.health import Check
from datastorage.assembly.replica import Replica
from datastorage.assembly.shard import Shard
from datastorage.assembly.store import VectorStore
from datastorage.errors import DataStorageError
from datastorage.kube.accessmonitor import AccessMonitor
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.pipeline.lease import Lease
from datastorage.query.standby import Standby
from datastorage.resilience.breaker import Breaker
from datastorage.tracing import NO_TRACES


@dataclass(frozen=True)
class Pace:
    """How long a check waits before it says that something is wrong."""

    probe_seconds: float = 2.0
    """For the answer of a server; the kubelet itself waits a few seconds for ours."""
    watch_patience_seconds: float = 300.0
    """If a watch is broken for this long while lists succeed, only a restart cures it."""


class WatchHealth:
    """Whether the watches of one shard are broken in a way that a restart would cure."""

    def __init__(
        self,
        monitor: WatchMonitor,
        access: AccessMonitor,
        last_list: Callable[[], float | None],
        *,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``last_list`` returns when the cluster was last listed to the end, by ``clock`` in seconds."""
        self._monitor = monitor
        self._access = access
        self._last_list = last_list
        self._pace = pace
        self._clock = clock
        self._broken_since: float | None = None

    def rest(self) -> None:
        """Note that nothing is watched now, because another process has the shard."""
        self._broken_since = None

    async def problem(self) -> str | None:
        """Return what is wrong in a sentence, or None."""
        problem, now = self._monitor.curable_problem, self._clock()
        # Missing rights or credentials would still be missing after a restart.
        if problem is None or self._access.problem() is not None:
            self._broken_since = None
            return None
        if self._broken_since is None:
            self._broken_since = now
        listed = self._last_list()
        if now - self._broken_since > self._pace.watch_patience_seconds and listed is not None:
            # Lists get through and watches do not: the fault is in this process.
            return problem if listed > self._broken_since else None
        return None


class Checks:
    """The checks of a replica and of its shards."""

    def __init__(
        self,
        replica: Replica,
        shards: Sequence[Shard],
        stop: asyncio.Event,
        pace: Pace = Pace(),
        standby: Standby | None = None,
        leases: Sequence[Lease] = (),
    ) -> None:
        """``standby`` is the one that answers the questions of the API, if there is one.

        ``leases`` are those of the shards, if there are any. A shard that another process has is not watched
        here.
        """
        self._replica = replica
        self._standby = standby
        self._shards = shards
        self._stop = stop
        self._pace = pace
        self._leases = leases
        self._watches = [
            WatchHealth(shard.monitor, replica.transport.monitor, _last_list_of(shard), pace=pace)
            for shard in shards
        ]

    def health(self) -> Mapping[str, Check]:
        """Return the checks of /health by their names."""
        return {"watch": self._watch_alive}

    def ready(self) -> Mapping[str, Check]:
        """Return the checks of /ready."""
        return {
            "running": self._running,
            "postgres": self._postgres,
            "access": self._access,
            "watch": self._watch,
        }

    def notes(self) -> dict[str, Check]:
        """Return the checks that /ready shows and does not fail for."""
        vectors, authors, traces = self._replica.store.vectors, self._replica.authors, self._replica.traces
        return (
            {"waiting": self._waiting}
            | ({"leases": self._nobody} if self._leases else {})
            | {"guards": self._replica.guards.problem}
            | ({"recorded_by": authors.problem} if authors is not None else {})
            | (vector_notes(vectors, self._pace) if vectors is not None else {})
            | (standby_notes(self._standby) if self._standby is not None else {})
            | ({"traces": traces.problem} if traces is not NO_TRACES else {})
        )

    async def _running(self) -> str | None:
        return "stopping" if self._stop.is_set() else None

    async def _postgres(self) -> str | None:
        probe = self._replica.store.archive.probe
        return (
            self._replica.postgres.reason
            or _joined(_table_problem(shard.tables) for shard in self._shards)
            or await trouble_of(probe, "PostgreSQL", self._pace.probe_seconds)
        )

    async def _access(self) -> str | None:
        return self._replica.transport.monitor.problem()

    async def _watch(self) -> str | None:
        return _joined(shard.monitor.problem for shard in self._shards if self._is_here(shard))

    async def _watch_alive(self) -> str | None:
        problems = []
        for shard, watch in zip(self._shards, self._watches, strict=True):
            if self._is_here(shard):
                problems.append(await watch.problem())
            else:
                watch.rest()
        return _joined(problems)

    def _is_here(self, shard: Shard) -> bool:
        return not self._leases or self._leases[shard.selection.shard].is_held

    async def _waiting(self) -> str | None:
        return _joined([await shard.aside.problem() for shard in self._shards])

    async def _nobody(self) -> str | None:
        return _joined([await lease.problem() for lease in self._leases])


def vector_notes(vectors: VectorStore, pace: Pace) -> dict[str, Check]:
    """Return the checks of the components that make and keep vectors. Records are stored without them."""

    async def embedder() -> str | None:
        return vectors.embedder_breaker.reason

    async def vector_store() -> str | None:
        return vectors.breaker.reason or await trouble_of(
            vectors.tables.probe, "the vectors' tables", pace.probe_seconds
        )

    return {"embedder": embedder, "vector_store": vector_store, "redis": vectors.cache.check}


def standby_notes(standby: Standby) -> dict[str, Check]:
    """Return the check of the standby, without which the primary answers some of the questions."""

    async def check() -> str | None:
        if standby.problem is not None:
            return f"{standby.problem}; the primary answers a few questions at a time"
        return standby.lateness

    return {"standby": check}


async def trouble_of(probe: Callable[[], Awaitable[None]], server: str, seconds: float) -> str | None:
    """Return why a probe of a server fails or gives no answer in time, or None."""
    try:
        async with asyncio.timeout(seconds):
            await probe()
    except (DataStorageError, TimeoutError) as error:
        return str(error) or f"{server}: no answer in {seconds:g} s"
    return None


def _joined(problems: Iterable[str | None]) -> str | None:
    # Shards see the same cluster: they often have the same problem.
    return "; ".join(dict.fromkeys(problem for problem in problems if problem)) or None


def _table_problem(tables: Breaker) -> str | None:
    return None if tables.reason is None else f"{tables.dependency} can't be written: {tables.reason}"


def _last_list_of(shard: Shard) -> Callable[[], float | None]:
    return lambda: shard.sweep.last_success
