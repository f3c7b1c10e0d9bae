"""One shard: the way of a selection of the cluster's objects, from their watch to their deletion.

A replica may have several. Each can be opened, started and stopped apart from the others.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from datastorage.assembly.replica import Replica
from datastorage.assembly.store import Store
from datastorage.kube.objects import ObjectClient
from datastorage.kube.watch import KopfParts, Watch
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.kube.watchsession import WatchSession
from datastorage.pipeline import garbagecollector, statuswriter, sweep
from datastorage.pipeline.committer import Committer, Writer
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.garbagecollector import GarbageCollector
from datastorage.pipeline.handlers import build_registry, kopf_settings
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.objectintake import ObjectIntake
from datastorage.pipeline.objects import Body
from datastorage.pipeline.register import Register
from datastorage.pipeline.schedule import Schedule
from datastorage.pipeline.statusqueue import StatusQueue
from datastorage.pipeline.statuswriter import Followers, StatusWriter
from datastorage.pipeline.sweep import Sweep, SweepRequests
from datastorage.pipeline.writer import EmbeddingWriter, RowWriter
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.selection import Selection
from datastorage.vectors import promote
from datastorage.vectors.promote import Promotion, PromotionRequests


@dataclass(frozen=True)
class Shard:
    """The components of one shard."""

    selection: Selection
    monitor: WatchMonitor
    watches: Mapping[ResourceKind, Watch]
    requests: SweepRequests
    sweep: Sweep
    register: Register
    committer: Committer
    statuses: StatusQueue
    status_writer: StatusWriter
    collector: GarbageCollector
    promotion: Promotion | None
    """None where no vectors are kept."""


@asynccontextmanager
async def open_shard(
    replica: Replica, selection: Selection, *, on_watch_started: Callable[[], None]
) -> AsyncIterator[Shard]:
    """Build and wire the components of a shard; take it out of the replica in the end.

    ``on_watch_started`` is called whenever Kopf has begun, which takes the process's signals for itself.
    """
    shared = _Shared(replica, selection)
    shard = _build(shared, on_watch_started)
    replica.shards.add(shared.sweeps, shared.promotions)
    try:
        yield shard
    finally:
        replica.shards.remove(shared.sweeps, shared.promotions)
        for component in (shared.intake, shard.committer.aside, shared.statuses, shared.schedule):
            component.close()


class _Shared:
    """The values that several components of a shard share. They are made first, and handed to all of them."""

    def __init__(self, replica: Replica, selection: Selection) -> None:
        settings, store = replica.settings, replica.store
        self.replica = replica
        self.selection = selection
        self.cluster = ObjectClient(replica.transport, selection)
        self.confirmation = Confirmation(store.archive, replica.postgres, store.rejected)
        self.register = Register()
        self.statuses = StatusQueue()
        self.schedule = Schedule()
        self.sweeps = SweepRequests()
        self.promotions = PromotionRequests(replica.vectors_serve)
        self.intake = Intake(max_items=settings.intake.max_items, max_bytes=settings.intake.max_bytes)
        self.objects = ObjectIntake(
            intake=self.intake,
            register=self.register,
            statuses=self.statuses,
            default_ttl_seconds=settings.ttl_seconds_after_stored,
            on_overflow=self.sweeps.add,
            with_texts=store.vectors is not None,
        )


def _build(shared: _Shared, on_watch_started: Callable[[], None]) -> Shard:
    replica, selection = shared.replica, shared.selection
    collector = _build_collector(shared)
    monitor = WatchMonitor(KINDS, selection.namespaces)
    kopf_parts = KopfParts(
        namespaces=selection.namespaces,
        session=partial(WatchSession, replica.transport),
        registry=partial(build_registry, objects=shared.objects, selection=selection),
        settings=kopf_settings,
    )
    on_recovery = partial(_catch_up, shared, collector)
    return Shard(
        selection=selection,
        monitor=monitor,
        watches={
            kind: Watch(
                kind, kopf_parts, monitor=monitor, on_started=on_watch_started, on_recovery=on_recovery
            )
            for kind in KINDS
        },
        requests=shared.sweeps,
        sweep=Sweep(
            cluster=shared.cluster,
            objects=shared.objects,
            confirmation=shared.confirmation,
            requests=shared.sweeps,
            pace=sweep.Pace(interval_seconds=replica.settings.sweep_interval_seconds),
        ),
        register=shared.register,
        committer=Committer(
            intake=shared.intake,
            register=shared.register,
            writer=_build_writer(replica),
            rejected=replica.store.rejected,
            breaker=replica.postgres,
        ),
        statuses=shared.statuses,
        status_writer=_build_status_writer(shared),
        collector=collector,
        promotion=_build_promotion(shared) if replica.store.vectors is not None else None,
    )


def _build_collector(shared: _Shared) -> GarbageCollector:
    store, postgres, settings = shared.replica.store, shared.replica.postgres, shared.replica.settings

    async def restore(kind: ResourceKind, body: Body) -> None:
        await shared.objects.put(kind, body, read_at=time.monotonic(), force=True)

    return GarbageCollector(
        cluster=shared.cluster,
        confirmation=shared.confirmation,
        schedule=shared.schedule,
        database_time=partial(postgres.run, store.archive.time),
        restore=restore,
        pace=garbagecollector.Pace(
            concurrency=settings.delete_concurrency, resync_seconds=settings.gc_interval_seconds
        ),
    )


def _build_status_writer(shared: _Shared) -> StatusWriter:
    return StatusWriter(
        cluster=shared.cluster,
        register=shared.register,
        statuses=shared.statuses,
        followers=Followers(
            schedule=shared.schedule.add,
            offer=shared.objects.offer,
            sweep=shared.sweeps.add,
            promote=shared.promotions.vector_is_pending,
        ),
        pace=statuswriter.Pace(concurrency=shared.replica.settings.status_concurrency),
    )


def _build_promotion(shared: _Shared) -> Promotion:
    replica = shared.replica
    return Promotion(
        cluster=shared.cluster,
        archive=replica.store.archive,
        breaker=replica.postgres,
        register=shared.register,
        statuses=shared.statuses,
        requests=shared.promotions,
        default_ttl_seconds=replica.settings.ttl_seconds_after_stored,
        pace=promote.Pace(interval_seconds=replica.settings.sweep_interval_seconds),
    )


def _build_writer(replica: Replica) -> Writer:
    if replica.backfill is None:
        return RowWriter(replica.store.archive)
    return build_writer(replica.store, on_owed=replica.backfill.request)


def build_writer(store: Store, *, on_owed: Callable[[], None]) -> Writer:
    """Return what stores batches; ``on_owed`` is called when vectors wait in the outbox."""
    vectors = store.vectors
    if vectors is None:
        return RowWriter(store.archive)
    return EmbeddingWriter(archive=store.archive, embedder=vectors.embedder, on_owed=on_owed)


def _catch_up(
    shared: _Shared,
    collector: GarbageCollector,
    kind: ResourceKind,
    is_new: bool,  # noqa: FBT001  # the watch's callback
) -> None:
    """Look for what happened while a kind was not watched, or not even served (``is_new``)."""
    shared.sweeps.add(kind)
    if is_new:
        collector.list_soon(kind)
        shared.promotions.vector_is_pending()
