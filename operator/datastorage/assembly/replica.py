"""One running process: the components that it has once, however many shards it serves."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from datastorage.assembly.store import Store, open_store
from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.guards import Guards
from datastorage.kube.recordedbypolicy import RecordedByPolicy
from datastorage.kube.rightsreview import RightsReview
from datastorage.kube.transport import Transport
from datastorage.metrics import Dependency
from datastorage.pipeline.authors import Authors
from datastorage.pipeline.createdobjects import CreatedObjects
from datastorage.pipeline.statusguard import StatusGuardNotice
from datastorage.pipeline.sweep import SweepRequests
from datastorage.resilience.breaker import Breaker
from datastorage.settings import Settings
from datastorage.tracing import Traces, open_traces
from datastorage.vectors.backfill import Backfill, Dependencies
from datastorage.vectors.indexer import Indexer
from datastorage.vectors.outboxcount import OutboxCount
from datastorage.vectors.promote import PromotionRequests


class ShardsHere:
    """The shards of this replica, for requests that go to all of them."""

    def __init__(self) -> None:
        self._shards: list[tuple[SweepRequests, PromotionRequests]] = []

    def add(self, sweep: SweepRequests, promotion: PromotionRequests) -> None:
        """Add the requests of a shard that begins."""
        self._shards.append((sweep, promotion))

    def remove(self, sweep: SweepRequests, promotion: PromotionRequests) -> None:
        """Remove the requests of a shard that ends."""
        self._shards.remove((sweep, promotion))

    def sweep(self) -> None:
        """Ask for a sweep of every shard."""
        for sweep, _ in self._shards:
            sweep.add()

    def promote(self) -> None:
        """Ask every shard for a look at its objects, since vectors were written or refused."""
        for _, promotion in self._shards:
            promotion.signal.set()


@dataclass(frozen=True)
class Replica:
    """The components of one process."""

    settings: Settings
    store: Store
    postgres: Breaker
    """For the server as a whole. Each shard has one more, for the tables of its kinds."""
    transport: Transport
    rights: RightsReview
    shards: ShardsHere
    guards: Guards
    guard_notice: StatusGuardNotice
    authors: Authors | None
    """None if the policy that names authors is not installed."""
    created_objects: CreatedObjects
    """The custom resources of requests; empty if requests create none."""
    dependencies: Dependencies | None
    """The breakers for writing vectors. This and the next three are None if no vectors are kept."""
    backfill: Backfill | None
    outbox_count: OutboxCount | None
    indexer: Indexer | None
    traces: Traces

    def request_backfill(self) -> None:
        """Ask for a look at the outbox, because vectors are pending there."""
        if self.backfill is not None:
            self.backfill.request()


@asynccontextmanager
async def open_replica(settings: Settings, *, writable: bool = True) -> AsyncIterator[Replica]:
    """Build the components that a process has once; close them in the end. ``writable``: see open_store.

    Raises ConfigurationError for a wrong setting or where there is no cluster.
    """
    async with AsyncExitStack() as stack:
        # Closed last: until then, everything else may still make spans.
        traces = await stack.enter_async_context(open_traces())
        store = await stack.enter_async_context(open_store(settings, writable=writable))
        transport = await stack.enter_async_context(Transport(load_endpoint))
        shards = ShardsHere()
        postgres = Breaker(
            Dependency.POSTGRES,
            store.archive.probe_server,
            trial=store.trial.write_shared,
            on_recovery=shards.sweep,
        )
        stack.push_async_callback(postgres.close)
        dependencies = _dependencies(store, postgres)
        yield Replica(
            settings=settings,
            store=store,
            postgres=postgres,
            transport=transport,
            rights=RightsReview(transport, on_recovery=shards.sweep),
            shards=shards,
            guards=Guards(transport),
            guard_notice=StatusGuardNotice(),
            authors=_authors(settings, transport),
            created_objects=CreatedObjects(settings.api.fallback_max),
            dependencies=dependencies,
            backfill=_build_backfill(store, dependencies, shards, traces),
            outbox_count=_build_outbox_count(store, postgres, shards),
            indexer=_build_indexer(settings, store),
            traces=traces,
        )


def _authors(settings: Settings, transport: Transport) -> Authors | None:
    return Authors(RecordedByPolicy(transport).look) if settings.recorded_by_policy else None


def _dependencies(store: Store, postgres: Breaker) -> Dependencies | None:
    vectors = store.vectors
    return None if vectors is None else Dependencies(postgres, vectors.embedder_breaker, vectors.breaker)


def _build_backfill(
    store: Store, dependencies: Dependencies | None, shards: ShardsHere, traces: Traces
) -> Backfill | None:
    vectors = store.vectors
    if vectors is None or dependencies is None:
        return None
    return Backfill(
        outbox=store.outbox,
        embedder=vectors.embedder,
        vectors=vectors.tables,
        dependencies=dependencies,
        on_progress=shards.promote,
        traces=traces,
    )


def _build_outbox_count(store: Store, postgres: Breaker, shards: ShardsHere) -> OutboxCount | None:
    if store.vectors is None:
        return None
    return OutboxCount(store.outbox, postgres, on_progress=shards.promote)


def _build_indexer(settings: Settings, store: Store) -> Indexer | None:
    if store.vectors is None:
        return None
    return Indexer(store.vectors.tables, memory_mib=settings.vector.index_memory_mib)
