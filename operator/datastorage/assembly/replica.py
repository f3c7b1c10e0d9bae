"""The parts of the operator, and how they are wired. Nothing else builds them."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from datastorage.assembly.store import Store, build_store
from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.objects import ObjectClient
from datastorage.kube.rightsreview import RightsReview
from datastorage.kube.transport import Transport
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.pipeline import garbagecollector, statuswriter
from datastorage.pipeline.committer import Committer, Writer
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.garbagecollector import GarbageCollector
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.objectintake import ObjectIntake
from datastorage.pipeline.objects import Body
from datastorage.pipeline.register import Register
from datastorage.pipeline.schedule import Schedule
from datastorage.pipeline.statusqueue import StatusQueue
from datastorage.pipeline.statuswriter import Followers, StatusWriter
from datastorage.pipeline.sweep import Pace as SweepPace
from datastorage.pipeline.sweep import Sweep, SweepRequests
from datastorage.pipeline.writer import EmbeddingWriter, RowWriter
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.settings import Settings
from datastorage.vectors.backfill import Backfill, Dependencies
from datastorage.vectors.indexer import Indexer
from datastorage.vectors.promote import Pace as PromotionPace
from datastorage.vectors.promote import Promotion, PromotionRequests


@dataclass(frozen=True)
class Parts:
    """What one running operator is made of."""

    settings: Settings
    store: Store
    transport: Transport
    cluster: ObjectClient
    rights: RightsReview
    monitor: WatchMonitor
    register: Register
    objects: ObjectIntake
    sweep: Sweep
    sweep_requests: SweepRequests
    breaker: Breaker
    statuses: StatusQueue
    status_writer: StatusWriter
    collector: GarbageCollector
    committer: Committer
    backfill: Backfill | None
    promotion: Promotion | None
    promotion_requests: PromotionRequests
    indexer: Indexer | None


@asynccontextmanager
async def build(settings: Settings, *, writable: bool = True) -> AsyncIterator[Parts]:
    """Build and wire all parts of the operator; close them in the end. ``writable``: see build_store.

    Raises ConfigurationError for a wrong setting or where there is no cluster.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(build_store(settings, writable=writable))
        transport = await stack.enter_async_context(Transport(load_endpoint))
        cluster = ObjectClient(transport, namespaces=settings.namespaces)
        register, sweep_requests, statuses, schedule = Register(), SweepRequests(), StatusQueue(), Schedule()
        intake = Intake(max_items=settings.intake.max_items, max_bytes=settings.intake.max_bytes)
        objects = ObjectIntake(
            intake=intake,
            register=register,
            statuses=statuses,
            default_ttl_seconds=settings.ttl_seconds_after_stored,
            on_overflow=sweep_requests.add,
            with_texts=store.vectors is not None,
        )
        breaker = Breaker(
            "postgres", store.archive.probe, on_recovery=sweep_requests.add, trial=store.trial.write
        )
        stack.push_async_callback(breaker.close)
        confirmation = Confirmation(store.archive, breaker, store.rejected)
        sweep = Sweep(
            cluster=cluster,
            objects=objects,
            confirmation=confirmation,
            requests=sweep_requests,
            pace=SweepPace(interval_seconds=settings.sweep_interval_seconds),
        )

        async def restore(kind: ResourceKind, body: Body) -> None:
            await objects.put(kind, body, read_at=time.monotonic(), force=True)

        collector = GarbageCollector(
            cluster=cluster,
            confirmation=confirmation,
            schedule=schedule,
            database_time=lambda: breaker.run(store.archive.time),
            restore=restore,
            pace=garbagecollector.Pace(
                concurrency=settings.delete_concurrency, resync_seconds=settings.gc_interval_seconds
            ),
        )
        dependencies = _dependencies(store, breaker)
        promotion_requests = PromotionRequests(lambda: dependencies is not None and dependencies.serving)
        status_writer = StatusWriter(
            cluster=cluster,
            register=register,
            statuses=statuses,
            followers=Followers(
                schedule=schedule.add,
                offer=objects.offer,
                sweep=sweep_requests.add,
                promote=promotion_requests.vector_is_pending,
            ),
            pace=statuswriter.Pace(concurrency=settings.status_concurrency),
        )
        promotion = Promotion(
            cluster=cluster,
            archive=store.archive,
            breaker=breaker,
            register=register,
            statuses=statuses,
            requests=promotion_requests,
            default_ttl_seconds=settings.ttl_seconds_after_stored,
            pace=PromotionPace(interval_seconds=settings.sweep_interval_seconds),
        )
        backfill = _build_backfill(store, dependencies, promotion_requests)
        committer = Committer(
            intake=intake,
            register=register,
            writer=build_writer(store, on_owed=backfill.request if backfill is not None else _nothing),
            rejected=store.rejected,
            breaker=breaker,
        )
        monitor = WatchMonitor(KINDS, settings.namespaces)
        yield Parts(
            settings, store, transport, cluster, RightsReview(transport, on_recovery=sweep_requests.add),
            monitor, register, objects, sweep, sweep_requests, breaker, statuses, status_writer, collector,
            committer, backfill, promotion if backfill is not None else None, promotion_requests,
            _build_indexer(settings, store),
        )  # fmt: skip


def _dependencies(store: Store, postgres: Breaker) -> Dependencies | None:
    vectors = store.vectors
    return None if vectors is None else Dependencies(postgres, vectors.embedder_breaker, vectors.breaker)


def _build_backfill(
    store: Store, dependencies: Dependencies | None, promotion: PromotionRequests
) -> Backfill | None:
    vectors = store.vectors
    if vectors is None or dependencies is None:
        return None
    return Backfill(
        outbox=store.outbox,
        embedder=vectors.embedder,
        vectors=vectors.tables,
        dependencies=dependencies,
        promotion=promotion.signal,
    )


def _build_indexer(settings: Settings, store: Store) -> Indexer | None:
    if store.vectors is None:
        return None
    return Indexer(store.vectors.tables, memory_mib=settings.vector.index_memory_mib)


def build_writer(store: Store, *, on_owed: Callable[[], None]) -> Writer:
    """Return what stores batches; ``on_owed`` is called when vectors wait in the outbox."""
    vectors = store.vectors
    if vectors is None:
        return RowWriter(store.archive)
    return EmbeddingWriter(archive=store.archive, embedder=vectors.embedder, on_owed=on_owed)


def _nothing() -> None:
    """Without vectors nothing is ever owed."""
