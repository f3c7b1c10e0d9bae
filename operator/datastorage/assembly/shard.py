"""One shard: the way of a selection of the cluster's objects, from their watch to their deletion.

A replica may have several. Each can be opened, started and stopped apart from the others.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from datastorage.assembly.replica import Replica
from datastorage.assembly.store import Store
from datastorage.kube.objects import ObjectClient
from datastorage.kube.watch import KopfParts, Watch
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.kube.watchsession import WatchSession
from datastorage.pipeline.aside import Aside
from datastorage.pipeline.committer import Committer, Writer
from datastorage.pipeline.confirmation import Confirmation
from datastorage.pipeline.coordinator import Coordinator
from datastorage.pipeline.garbagecollector import GarbageCollector
from datastorage.pipeline.handlers import build_registry, kopf_settings
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.statuswriter import StatusWriter
from datastorage.pipeline.sweep import Sweep, SweepRequests
from datastorage.pipeline.writer import EmbeddingWriter, RowWriter
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.selection import Selection
from datastorage.vectors.promote import Lift


@dataclass(frozen=True)
class Shard:
    """The components of one shard."""

    selection: Selection
    monitor: WatchMonitor
    watches: Mapping[ResourceKind, Watch]
    requests: SweepRequests
    sweep: Sweep
    intake: Intake
    coordinator: Coordinator
    aside: Aside
    status_writer: StatusWriter
    collector: GarbageCollector
    lift: Lift


@asynccontextmanager
async def open_shard(
    replica: Replica, selection: Selection, *, on_watch_started: Callable[[], None]
) -> AsyncIterator[Shard]:
    """Build and wire the components of a shard; take it out of the replica in the end.

    ``on_watch_started`` is called whenever Kopf has begun, which takes the process's signals for itself.
    """
    shard = _build(replica, selection, on_watch_started)
    replica.shards.add(shard.requests, shard.lift)
    try:
        yield shard
    finally:
        replica.shards.remove(shard.requests, shard.lift)
        for component in (shard.intake, shard.aside, shard.status_writer, shard.collector):
            component.close()


def _build(replica: Replica, selection: Selection, on_watch_started: Callable[[], None]) -> Shard:
    settings, store, postgres = replica.settings, replica.store, replica.postgres
    cluster = ObjectClient(replica.transport, selection)
    confirmation = Confirmation(store.archive, postgres, store.rejected)
    requests = SweepRequests()
    intake = Intake(
        max_items=settings.intake.max_items,
        max_bytes=settings.intake.max_bytes,
        default_ttl_seconds=settings.ttl_seconds_after_stored,
        on_overflow=requests.add,
        with_texts=store.vectors is not None,
    )
    sweep = Sweep(
        cluster=cluster,
        intake=intake,
        confirmation=confirmation,
        requests=requests,
        interval_seconds=settings.sweep_interval_seconds,
    )
    collector = _build_collector(replica, cluster, confirmation, intake)
    status_writer = StatusWriter(
        cluster=cluster,
        intake=intake,
        schedule=collector.schedule,
        on_abandoned=requests.add,
        on_owing=replica.promote_soon,
        concurrency=settings.status_concurrency,
    )
    lift = Lift(
        cluster=cluster,
        archive=store.archive,
        breaker=postgres,
        intake=intake,
        announce=status_writer.announce_again,
        default_ttl_seconds=settings.ttl_seconds_after_stored,
    )
    committer = Committer(
        intake=intake,
        writer=_build_writer(replica),
        rejected=store.rejected,
        breaker=postgres,
        announcer=status_writer,
    )
    aside = Aside(committer=committer, intake=intake)
    coordinator = Coordinator(intake=intake, committer=committer, aside=aside)
    monitor = WatchMonitor(KINDS, selection.namespaces)
    kopf_parts = KopfParts(
        namespaces=selection.namespaces,
        session=partial(WatchSession, replica.transport),
        registry=partial(build_registry, intake=intake, selection=selection),
        settings=kopf_settings,
    )
    on_recovery = partial(_catch_up, replica, requests, collector)
    watches = {
        kind: Watch(kind, kopf_parts, monitor=monitor, on_started=on_watch_started, on_recovery=on_recovery)
        for kind in KINDS
    }
    return Shard(
        selection,
        monitor,
        watches,
        requests,
        sweep,
        intake,
        coordinator,
        aside,
        status_writer,
        collector,
        lift,
    )


def _build_collector(
    replica: Replica, cluster: ObjectClient, confirmation: Confirmation, intake: Intake
) -> GarbageCollector:
    store, postgres, settings = replica.store, replica.postgres, replica.settings

    async def restore(kind: ResourceKind, body: Mapping[str, Any]) -> None:
        await intake.put(kind, body, read_at=time.monotonic(), force=True)

    return GarbageCollector(
        cluster=cluster,
        confirmation=confirmation,
        database_time=partial(postgres.run, store.archive.time),
        restore=restore,
        concurrency=settings.delete_concurrency,
        resync_seconds=settings.gc_interval_seconds,
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
    replica: Replica,
    requests: SweepRequests,
    collector: GarbageCollector,
    kind: ResourceKind,
    is_new: bool,  # noqa: FBT001  # the watch's callback
) -> None:
    """Look for what happened while a kind was not watched, or not even served (``is_new``)."""
    requests.add(kind)
    if is_new:
        collector.list_soon(kind)
        replica.promote_soon()
