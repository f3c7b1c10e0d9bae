"""One running process: everything that it has once, however many shards it looks after."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from datastorage.assembly.store import Store, open_store
from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.rightsreview import RightsReview
from datastorage.kube.transport import Transport
from datastorage.pipeline.sweep import SweepRequests
from datastorage.resilience.breaker import Breaker
from datastorage.settings import Settings
from datastorage.vectors.backfill import Backfill, Dependencies
from datastorage.vectors.indexer import Indexer
from datastorage.vectors.promote import Lift, Lifted


class ShardsHere:
    """The shards of this replica, for what concerns each of them."""

    def __init__(self) -> None:
        self._shards: list[tuple[SweepRequests, Lift]] = []

    def add(self, requests: SweepRequests, lift: Lift) -> None:
        """Add the components of a shard that begins."""
        self._shards.append((requests, lift))

    def remove(self, requests: SweepRequests, lift: Lift) -> None:
        """Remove the components of a shard that ends."""
        self._shards.remove((requests, lift))

    def sweep(self) -> None:
        """Ask for a sweep of every shard."""
        for requests, _ in self._shards:
            requests.add()

    async def promote(self) -> Lifted:
        """Promote the objects of every shard whose vectors are written."""
        lifted = Lifted()
        for _, lift in list(self._shards):
            lifted += await lift()
        return lifted


@dataclass(frozen=True)
class Replica:
    """The components of one process."""

    settings: Settings
    store: Store
    postgres: Breaker
    transport: Transport
    rights: RightsReview
    shards: ShardsHere
    backfill: Backfill | None
    indexer: Indexer | None

    def promote_soon(self) -> None:
        """Ask for a look at the objects whose vectors are pending: some may have been written."""
        if self.backfill is not None:
            self.backfill.lift_soon()


@asynccontextmanager
async def open_replica(settings: Settings, *, writable: bool = True) -> AsyncIterator[Replica]:
    """Build what a process has once; close it in the end. ``writable``: see open_store.

    Raises ConfigurationError for a wrong setting or where there is no cluster.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings, writable=writable))
        transport = await stack.enter_async_context(Transport(load_endpoint))
        shards = ShardsHere()
        postgres = Breaker("postgres", store.archive.probe, on_recovery=shards.sweep, trial=store.trial.write)
        stack.push_async_callback(postgres.close)
        yield Replica(
            settings=settings,
            store=store,
            postgres=postgres,
            transport=transport,
            rights=RightsReview(transport, on_recovery=shards.sweep),
            shards=shards,
            backfill=_build_backfill(settings, store, postgres, shards),
            indexer=_build_indexer(settings, store),
        )


def _build_backfill(
    settings: Settings, store: Store, postgres: Breaker, shards: ShardsHere
) -> Backfill | None:
    vectors = store.vectors
    if vectors is None:
        return None
    return Backfill(
        outbox=store.outbox,
        embedder=vectors.embedder,
        vectors=vectors.tables,
        dependencies=Dependencies(postgres, vectors.embedder_breaker, vectors.breaker),
        lift=shards.promote,
        lift_seconds=settings.sweep_interval_seconds,
    )


def _build_indexer(settings: Settings, store: Store) -> Indexer | None:
    if store.vectors is None:
        return None
    return Indexer(store.vectors.tables, memory_mib=settings.vector.index_memory_mib)
