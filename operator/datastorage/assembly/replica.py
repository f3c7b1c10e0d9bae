"""The parts of the operator, and how they are wired. Nothing else builds them."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from datastorage.assembly.store import Store, build_store
from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.objects import ObjectClient
from datastorage.kube.rightsreview import RightsReview
from datastorage.kube.transport import Transport
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.pipeline.aside import Aside
from datastorage.pipeline.committer import Committer, Writer
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.coordinator import Coordinator
from datastorage.pipeline.garbagecollector import GarbageCollector
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.statuswriter import StatusWriter
from datastorage.pipeline.sweep import Sweep
from datastorage.pipeline.writer import EmbeddingWriter, RowWriter
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.settings import Settings
from datastorage.vectors.backfill import Backfill, Dependencies
from datastorage.vectors.indexer import Indexer
from datastorage.vectors.promote import Lift


@dataclass(frozen=True)
class Parts:
    """What one running operator is made of."""

    settings: Settings
    store: Store
    transport: Transport
    cluster: ObjectClient
    rights: RightsReview
    monitor: WatchMonitor
    intake: Intake
    sweep: Sweep
    breaker: Breaker
    status_writer: StatusWriter
    collector: GarbageCollector
    coordinator: Coordinator
    aside: Aside
    backfill: Backfill | None
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
        # The intake asks for a sweep when it overflows, and the sweep fills the intake.
        sweep: Sweep
        intake = Intake(
            max_items=settings.intake.max_items,
            max_bytes=settings.intake.max_bytes,
            default_ttl_seconds=settings.ttl_seconds_after_stored,
            on_overflow=lambda: sweep.request(),  # noqa: PLW0108  # not assigned yet
            with_texts=store.vectors is not None,
        )
        breaker = Breaker(
            "postgres",
            store.archive.probe,
            on_recovery=lambda: sweep.request(),  # noqa: PLW0108
            trial=store.trial.write,
        )
        stack.push_async_callback(breaker.close)
        confirmation = Confirmation(store.archive, breaker, store.rejected)
        sweep = Sweep(
            cluster=cluster,
            intake=intake,
            confirmation=confirmation,
            interval_seconds=settings.sweep_interval_seconds,
        )

        async def restore(kind: ResourceKind, body: Mapping[str, Any]) -> None:
            await intake.put(kind, body, read_at=time.monotonic(), force=True)

        collector = GarbageCollector(
            cluster=cluster,
            confirmation=confirmation,
            database_time=lambda: breaker.run(store.archive.time),
            restore=restore,
            concurrency=settings.delete_concurrency,
            resync_seconds=settings.gc_interval_seconds,
        )
        # The status writer tells the backfill what is owed, and the backfill has statuses written.
        backfill: Backfill | None
        status_writer = StatusWriter(
            cluster=cluster,
            intake=intake,
            schedule=collector.schedule,
            on_abandoned=sweep.request,
            on_owing=lambda: backfill.lift_soon() if backfill is not None else None,
            concurrency=settings.status_concurrency,
        )
        lift = Lift(
            cluster=cluster,
            archive=store.archive,
            breaker=breaker,
            intake=intake,
            announce=status_writer.announce_again,
            default_ttl_seconds=settings.ttl_seconds_after_stored,
        )
        backfill = _build_backfill(settings, store, breaker, lift)
        committer = Committer(
            intake=intake,
            writer=build_writer(store, on_owed=backfill.request if backfill is not None else _nothing),
            rejected=store.rejected,
            breaker=breaker,
            announcer=status_writer,
        )
        aside = Aside(committer=committer, intake=intake)
        coordinator = Coordinator(intake=intake, committer=committer, aside=aside)
        monitor = WatchMonitor(KINDS, settings.namespaces)
        yield Parts(
            settings, store, transport, cluster, RightsReview(transport, on_recovery=sweep.request), monitor,
            intake, sweep, breaker, status_writer, collector, coordinator, aside, backfill,
            _build_indexer(settings, store),
        )  # fmt: skip


def _build_backfill(settings: Settings, store: Store, postgres: Breaker, lift: Lift) -> Backfill | None:
    vectors = store.vectors
    if vectors is None:
        return None
    return Backfill(
        outbox=store.outbox,
        embedder=vectors.embedder,
        vectors=vectors.tables,
        dependencies=Dependencies(postgres, vectors.embedder_breaker, vectors.breaker),
        lift=lift,
        lift_seconds=settings.sweep_interval_seconds,
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
