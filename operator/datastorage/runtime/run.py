"""The running operator: the order in which it starts, waits for its end, and stops."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datastorage import metrics
from datastorage.api.app import api_app, api_server, metrics_server
from datastorage.api.certificate import ServingCertificate
from datastorage.api.health import health_routes
from datastorage.assembly.leases import ShardLeases, build_leases
from datastorage.assembly.replica import Replica, open_replica
from datastorage.assembly.rest import Rest, open_rest
from datastorage.assembly.shard import Shard, open_shard
from datastorage.assembly.store import VectorStore
from datastorage.errors import ConfigurationError, NewerSchemaError, TransientError
from datastorage.resilience.cancellation import end_tasks
from datastorage.resilience.loopwatch import LoopWatch
from datastorage.resilience.worker import repeat
from datastorage.resources.kinds import KINDS
from datastorage.resources.selection import Selection
from datastorage.runtime.checks import Checks
from datastorage.runtime.garbage import spare_what_is_loaded
from datastorage.runtime.processend import LastResort, end_requested
from datastorage.runtime.runningshard import Always, RunningShard, Tenure
from datastorage.runtime.supervisor import ended_unexpectedly, first_ended, start, unless_stopped
from datastorage.settings import Settings
from datastorage.storage import partitions
from datastorage.storage.schema import VECTORS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How long the steps of start and stop may take."""

    vectors_seconds: float = 3.0
    """The longest that the start waits for the vectors' server, and then for the embedder."""
    partitions_seconds: float = 3600.0
    """Between two checks that the next months have their partitions."""
    rest_seconds: float = 20.0
    """For all of a stop besides the flush. It usually takes a second, and this long if components hang.
    terminationGracePeriodSeconds (manifests/base/deployment.yaml) has to be some seconds longer than both.
    """


async def run(settings: Settings, pace: Pace = Pace()) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises ConfigurationError when it can't start as it is set up, DataStorageError when a component that must
    keep running has ended: the process must then exit non-zero, to be started again.
    """
    with LastResort(settings.shutdown_seconds + pace.rest_seconds) as last_resort:
        stop = _Stop(last_resort)
        _take_signals(stop)
        watch = LoopWatch(metrics.LOOP_HELD.observe)
        watch.start()
        if end_requested():
            stop.set()
        async with AsyncExitStack() as stack:
            try:
                # Reading the kubeconfig may run a program that does not end.
                replica = await unless_stopped(stop, stack.enter_async_context(open_replica(settings)))
                if replica is not None:
                    shards = [
                        await stack.enter_async_context(
                            open_shard(
                                replica,
                                Selection(settings.namespaces, shard, settings.shards, kinds=(kind,)),
                                on_watch_started=partial(_take_signals, stop),
                            )
                        )
                        for shard in range(settings.shards)
                        for kind in KINDS
                    ]
                    rest = await stack.enter_async_context(open_rest(replica, shards))
                    # Records can be stored without everything else.
                    postgres = replica.postgres
                    leases = build_leases(settings, replica.transport, is_fit=lambda: postgres.reason is None)
                    await Operator(replica, shards, leases, rest, stop, pace).run()
            finally:
                last_resort.arm()
                watch.stop()


class _Stop(asyncio.Event):
    """Set when the operator has to stop; this starts the timer of the last resort."""

    def __init__(self, last_resort: LastResort) -> None:
        super().__init__()
        self._last_resort = last_resort

    def set(self) -> None:
        self._last_resort.arm()
        super().set()


class Operator:
    """A running replica, with its shards."""

    def __init__(
        self,
        replica: Replica,
        shards: list[Shard],
        leases: ShardLeases | None,
        rest: Rest,
        stop: asyncio.Event,
        pace: Pace = Pace(),
    ) -> None:
        self._replica = replica
        self._shards = shards
        self._leases = leases
        self._rest = rest
        self._stop = stop
        self._pace = pace

    async def run(self) -> None:
        """Start everything, wait for the stop or for a component that ends, stop everything."""
        settings = self._replica.settings
        leases = () if self._leases is None else self._leases.leases
        checks = Checks(self._replica, self._shards, self._stop, standby=self._rest.standby, leases=leases)
        certificate = ServingCertificate(Path(settings.tls.dir)) if settings.tls.dir else None
        notes = checks.notes() | ({} if certificate is None else {"certificate": certificate.problem})
        routes = health_routes(health=checks.health(), ready=checks.ready(), notes=notes)
        servers = (
            api_server(
                api_app(self._rest.routers, routes),
                addresses=settings.listen_address,
                port=settings.api.port,
                certificate=certificate,
                traces=self._replica.traces,
            ),
            metrics_server(routes, addresses=settings.listen_address, port=settings.metrics_port),
        )
        try:
            for server in servers:
                await server.start()
            await self._prepare()
            spare_what_is_loaded()
            if not self._stop.is_set():
                await self._work()
        finally:
            await asyncio.gather(*(server.stop() for server in servers))

    async def _prepare(self) -> None:
        replica = self._replica
        # The breaker waits for a PostgreSQL that is still starting. A wrong schema raises at once.
        await unless_stopped(self._stop, replica.postgres.run(replica.store.database.check_state))
        if replica.store.vectors is not None:
            await unless_stopped(self._stop, prepare_vectors(replica.store.vectors, self._pace))

    async def _work(self) -> None:
        workers = self._start_workers()
        settings = self._replica.settings
        running = [RunningShard(shard, self._tenure_of(shard)) for shard in self._shards]
        self._rest.submissions.open()
        _log.info("Running", extra={"namespaces": list(settings.namespaces) or "all"})
        tasks = [*workers, *self._rest.tasks, *(task for shard in running for task in shard.tasks)]
        try:
            ended = await first_ended(tasks, self._stop)
            self._rest.submissions.close()
            if self._leases is not None:
                self._leases.retire()
            failure = None if ended is None else ended_unexpectedly(ended)
            if failure is None:
                _log.info("Stopping: nothing more is taken in")
            else:
                _log.error("Stopping, nothing more is taken in: %s", failure)
                self._stop.set()
            # Also after a failure: the intake may hold the last copies of objects.
            await asyncio.gather(
                self._rest.submissions.finish_groups(),
                *(shard.flush(settings.shutdown_seconds) for shard in running),
            )
            # Only now: a process that takes over at once would find unfinished objects, and store them again.
            if self._leases is not None:
                await asyncio.gather(*(lease.release() for lease in self._leases.leases))
            if failure is not None:
                raise failure
        finally:
            await end_tasks(tasks)

    def _tenure_of(self, shard: Shard) -> Tenure:
        return Always() if self._leases is None else self._leases.leases[shard.selection.shard]

    def _start_workers(self) -> list[asyncio.Task[Any]]:
        """Start the workers that a process has once; every replica runs them."""
        replica = self._replica
        prepare = partial(replica.postgres.run, partial(partitions.prepare, replica.store.database))
        workers: list[asyncio.Task[Any]] = [
            start("rights", replica.rights.run()),
            start("guards", replica.guards.run()),
            start("partitions", repeat(prepare, interval_seconds=self._pace.partitions_seconds)),
        ]
        if self._leases is not None:
            leases = enumerate(self._leases.leases)
            workers += [start(f"lease-{number}", lease.run()) for number, lease in leases]
            workers.append(start("balance", self._leases.balance.run()))
        if replica.authors is not None:
            workers.append(start("authors", replica.authors.run()))
        if replica.backfill is not None:
            workers.append(start("backfill", replica.backfill.run()))
        if replica.outbox_count is not None:
            workers.append(start("outbox-count", replica.outbox_count.run()))
        if replica.indexer is not None:
            workers.append(start("indexer", replica.indexer.run()))
        return workers


async def prepare_vectors(vectors: VectorStore, pace: Pace = Pace()) -> None:
    """Refuse a newer schema, load the model, connect to Redis.

    Problems with vectors do not keep records from being stored.
    """
    await vectors.cache.connect()
    for ready in (partial(vectors.database.check_state, VECTORS), vectors.embedder.probe):
        try:
            async with asyncio.timeout(pace.vectors_seconds):
                await ready()
        except NewerSchemaError:
            raise
        except ConfigurationError as error:
            _log.error("Starting without vectors: %s", error)  # the settings have to be corrected: no crash
        except (TransientError, TimeoutError) as error:
            reason = str(error) or f"no answer in {pace.vectors_seconds:g} s"
            _log.warning("Starting without vectors; missing vectors are added later", extra={"error": reason})


def _take_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
