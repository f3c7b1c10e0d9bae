"""One shard: the components that process a selection of the cluster's objects, from watch to deletion.

A replica has one for each kind, so that trouble with the table or the definition of one kind does not hold up
the other. Each can be opened, started and stopped independently of the others.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from datastorage import metrics
from datastorage.assembly.replica import Replica
from datastorage.assembly.store import Store
from datastorage.kube.objects import ObjectClient
from datastorage.kube.watch import KopfFactory, Watch
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.kube.watchsession import WatchSession
from datastorage.metrics import Dependency
from datastorage.pipeline import garbagecollector, neglected, statuswriter, sweep
from datastorage.pipeline.batchcommit import BatchCommit
from datastorage.pipeline.batchwriter import EmbeddingWriter, RowWriter
from datastorage.pipeline.clusterobject import Body
from datastorage.pipeline.committer import Committer
from datastorage.pipeline.garbagecollector import GarbageCollector
from datastorage.pipeline.handlers import build_registry, kopf_settings
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.neglected import Neglected
from datastorage.pipeline.objectintake import ObjectIntake
from datastorage.pipeline.register import Memory, Register
from datastorage.pipeline.rowconfirmation import Confirmation
from datastorage.pipeline.schedule import Limits, Schedule
from datastorage.pipeline.setaside import Aside
from datastorage.pipeline.statusqueue import StatusQueue
from datastorage.pipeline.statuswriter import Followers, StatusWriter
from datastorage.pipeline.sweep import Sweep, SweepRequests
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.reading.registry import table_of
from datastorage.resources.selection import Selection
from datastorage.tracing import NO_TRACES, Traces
from datastorage.vectors import promote
from datastorage.vectors.promote import Promotion, PromotionRequests


@dataclass(frozen=True)
class Shard:
    """The components of one shard that run, are asked for their state, or are closed in the end."""

    selection: Selection
    tables: Breaker
    """For the tables of the shard's kinds: open while PostgreSQL serves, and takes no rows of them."""
    monitor: WatchMonitor
    watches: Mapping[ResourceKind, Watch]
    objects: ObjectIntake
    register: Register
    intake: Intake
    statuses: StatusQueue
    schedule: Schedule
    sweep_requests: SweepRequests
    sweep: Sweep
    committer: Committer
    aside: Aside
    status_writer: StatusWriter
    collector: GarbageCollector
    promotion: Promotion | None


@dataclass(frozen=True)
class _Shared:
    """The components of a shard that several of its other components use. They are built first."""

    cluster: ObjectClient
    tables: Breaker
    confirmation: Confirmation
    register: Register
    intake: Intake
    statuses: StatusQueue
    schedule: Schedule
    sweep_requests: SweepRequests
    promotion_requests: PromotionRequests


@asynccontextmanager
async def open_shard(
    replica: Replica, selection: Selection, *, on_watch_started: Callable[[], None]
) -> AsyncIterator[Shard]:
    """Build and wire the components of a shard; take it out of the replica in the end.

    ``on_watch_started`` is called whenever Kopf has started: Kopf replaces the process's signal handlers.
    """
    shared = _build_shared(replica, selection)
    shard = _build(replica, selection, shared, on_watch_started)
    replica.shards.add(shared.sweep_requests, shared.promotion_requests)
    counted = [
        (metrics.UNSTORED[table_of(selection.kinds[0])], shared.register.unstored),
        (metrics.UNSTORED_OLDEST[table_of(selection.kinds[0])], shared.register.oldest_unstored_seconds),
    ]
    for gauge, value in counted:
        gauge.add(value)
    try:
        yield shard
    finally:
        for gauge, value in counted:
            gauge.remove(value)
        replica.shards.remove(shared.sweep_requests, shared.promotion_requests)
        await shared.tables.close()
        for component in (shard.intake, shard.aside, shard.statuses, shard.schedule):
            component.close()


def _build_shared(replica: Replica, selection: Selection) -> _Shared:
    intake, store, dependencies = replica.settings.intake, replica.store, replica.dependencies

    def share(most: int) -> int:
        # The limits are those of the process: its shards share the room evenly.
        return max(1, most * len(selection.kinds) // (len(KINDS) * selection.shards))

    sweep_requests = SweepRequests()
    tables = [table_of(kind) for kind in selection.kinds]
    trial = partial(store.trial.write, tables)
    breaker = Breaker(
        [Dependency(table) for table in tables],
        trial,
        trial=trial,
        within=replica.postgres,
        on_recovery=sweep_requests.add,
    )
    return _Shared(
        cluster=ObjectClient(replica.transport, selection),
        tables=breaker,
        confirmation=Confirmation(store.archive, breaker, store.rejected),
        register=Register(Memory(generations=share(Memory.generations))),
        intake=Intake(max_items=share(intake.max_items), max_bytes=share(intake.max_bytes)),
        statuses=StatusQueue(),
        schedule=Schedule(Limits(most=share(Limits.most), kept=share(Limits.kept))),
        sweep_requests=sweep_requests,
        promotion_requests=PromotionRequests(
            lambda: dependencies is not None and dependencies.serving,
            lambda: None if dependencies is None else dependencies.trouble,
        ),
    )


def _build(
    replica: Replica, selection: Selection, shared: _Shared, on_watch_started: Callable[[], None]
) -> Shard:
    settings = replica.settings
    objects = ObjectIntake(
        intake=shared.intake,
        register=shared.register,
        statuses=shared.statuses,
        default_ttl_seconds=settings.ttl_seconds_after_stored,
        on_overflow=shared.sweep_requests.add,
        with_texts=replica.store.vectors is not None,
        created=replica.created_objects,
        traces=replica.traces,
    )
    commit = _build_commit(replica, shared)
    aside = Aside(commit, shared.register)
    collector = _build_collector(replica, shared, objects)
    monitor = WatchMonitor(selection.kinds, selection.namespaces)
    kopf_factory = KopfFactory(
        namespaces=selection.namespaces,
        session=lambda kind, retry: WatchSession(
            replica.transport, retry, partial(objects.is_known, kind), selection
        ),
        registry=partial(build_registry, objects=objects, selection=selection),
        settings=kopf_settings,
    )
    on_recovery = partial(_catch_up, shared, collector)
    return Shard(
        selection=selection,
        tables=shared.tables,
        monitor=monitor,
        watches={
            kind: Watch(
                kind, kopf_factory, monitor=monitor, on_started=on_watch_started, on_recovery=on_recovery
            )
            for kind in selection.kinds
        },
        objects=objects,
        register=shared.register,
        intake=shared.intake,
        statuses=shared.statuses,
        schedule=shared.schedule,
        sweep_requests=shared.sweep_requests,
        sweep=_build_sweep(replica, selection, shared, objects),
        committer=Committer(shared.intake, commit, aside),
        aside=aside,
        status_writer=_build_status_writer(replica, shared, objects),
        collector=collector,
        promotion=_build_promotion(replica, shared),
    )


def _build_sweep(replica: Replica, selection: Selection, shared: _Shared, objects: ObjectIntake) -> Sweep:
    interval = replica.settings.sweep_interval_seconds
    cluster, others = shared.cluster, None
    if selection.shards > 1 and selection.shard == 0:
        cluster = ObjectClient(replica.transport, replace(selection, shards=1))
        others = Neglected(
            selection,
            neglected.Limits(patience_seconds=interval),
            serving_since=lambda: shared.tables.serving_since,
        )
    return Sweep(
        cluster=cluster,
        objects=objects,
        confirmation=shared.confirmation,
        requests=shared.sweep_requests,
        neglected=others,
        pace=sweep.Pace(interval_seconds=interval),
    )


def _build_commit(replica: Replica, shared: _Shared) -> BatchCommit:
    return BatchCommit(
        register=shared.register,
        writer=build_writer(replica.store, on_pending=replica.request_backfill, traces=replica.traces),
        rejected=replica.store.rejected,
        breaker=shared.tables,
        authors=replica.authors,
        traces=replica.traces,
    )


def _build_collector(replica: Replica, shared: _Shared, objects: ObjectIntake) -> GarbageCollector:
    store, postgres, settings = replica.store, replica.postgres, replica.settings

    async def restore(kind: ResourceKind, body: Body) -> None:
        await objects.put(kind, body, read_at=time.monotonic(), force=True)

    return GarbageCollector(
        cluster=shared.cluster,
        confirmation=shared.confirmation,
        schedule=shared.schedule,
        database_time=partial(postgres.run, store.archive.time),
        restore=restore,
        pace=garbagecollector.Pace(
            concurrency=settings.delete_concurrency, resync_seconds=settings.gc_interval_seconds
        ),
        traces=replica.traces,
    )


def _build_status_writer(replica: Replica, shared: _Shared, objects: ObjectIntake) -> StatusWriter:
    return StatusWriter(
        cluster=shared.cluster,
        register=shared.register,
        statuses=shared.statuses,
        followers=Followers(
            schedule=shared.schedule.add,
            offer=objects.offer,
            sweep=shared.sweep_requests.add,
            promote=shared.promotion_requests.request_if_serving,
            refused=replica.guard_notice.note,
        ),
        pace=statuswriter.Pace(concurrency=replica.settings.status_concurrency),
        traces=replica.traces,
    )


def _build_promotion(replica: Replica, shared: _Shared) -> Promotion | None:
    if replica.dependencies is None:
        return None
    settings = replica.settings
    return Promotion(
        cluster=shared.cluster,
        archive=replica.store.archive,
        breaker=shared.tables,
        register=shared.register,
        statuses=shared.statuses,
        requests=shared.promotion_requests,
        default_ttl_seconds=settings.ttl_seconds_after_stored,
        pace=promote.Pace(interval_seconds=settings.sweep_interval_seconds),
    )


def build_writer(
    store: Store, *, on_pending: Callable[[], None], traces: Traces = NO_TRACES
) -> RowWriter | EmbeddingWriter:
    """Return the writer of batches; ``on_pending`` is called when vectors wait in the outbox."""
    vectors = store.vectors
    if vectors is None:
        return RowWriter(store.archive)
    return EmbeddingWriter(
        archive=store.archive,
        embedder=vectors.embedder,
        on_pending=on_pending,
        vector_store=vectors.breaker,
        traces=traces,
    )


def _catch_up(
    shared: _Shared,
    collector: GarbageCollector,
    kind: ResourceKind,
    is_new: bool,  # noqa: FBT001  # the watch's callback
) -> None:
    """Ask for listings: changes were missed while a kind was not watched, or not even served (``is_new``)."""
    shared.sweep_requests.add(kind)
    if is_new:
        collector.list_soon(kind)
        shared.promotion_requests.request_if_serving()
