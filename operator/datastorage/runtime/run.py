"""The running operator: starts the parts, waits for the end, stops them in order."""

import asyncio
import logging
import signal
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, TypeVar

from datastorage.api.health import Check, health_server, metrics_server
from datastorage.assembly.replica import Parts, build
from datastorage.assembly.store import Store, VectorStore
from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    NewerSchemaError,
    TransientError,
)
from datastorage.kube.watch import KopfParts, Watch
from datastorage.kube.watchsession import WatchSession
from datastorage.pipeline.handlers import build_registry, kopf_settings
from datastorage.resilience.cancellation import end_tasks
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.runtime.processend import LastResort, told_to_end
from datastorage.settings import Settings
from datastorage.storage.schema import VECTORS

T = TypeVar("T")
_log = logging.getLogger(__name__)

# One batch is prepared while the other commits.
_COORDINATORS: Final = 2
_PARTITION_INTERVAL_SECONDS: Final = 3600.0
_PROBE_SECONDS: Final = 2.0
# The start waits no longer for the vectors' server, and then for the embedder.
_VECTORS_SECONDS: Final = 3.0
# A watch that is broken for this long while lists succeed is cured by a restart, and by nothing else.
_WATCH_PATIENCE_SECONDS: Final = 300.0
_FLUSH_POLL_SECONDS: Final = 0.05
# For all of a stop beside the flush. It takes a second as a rule, and this where parts do not end in order.
# terminationGracePeriodSeconds (manifests/base/deployment.yaml) has to be some seconds longer than both.
_REST_SECONDS: Final = 20.0


async def run(settings: Settings) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises ConfigurationError when it can't start as it is set up, DataStorageError when a part ended that
    must not end: the process is then to exit non-zero and be started again.
    """
    with LastResort(settings.shutdown_seconds + _REST_SECONDS) as last_resort:
        stop = _Stop(last_resort)
        _take_signals(stop)
        if told_to_end():
            stop.set()
        async with AsyncExitStack() as stack:
            try:
                # Reading the kubeconfig may run a program that does not end.
                parts = await _unless_stopped(stop, stack.enter_async_context(build(settings)))
                if parts is not None:
                    await Operator(parts, stop).run()
            finally:
                last_resort.arm()


class _Stop(asyncio.Event):
    """Set when the operator is told to stop. From then on the time runs."""

    def __init__(self, last_resort: LastResort) -> None:
        super().__init__()
        self._last_resort = last_resort

    def set(self) -> None:
        self._last_resort.arm()
        super().set()


class Operator:
    """The running parts."""

    def __init__(self, parts: Parts, stop: asyncio.Event) -> None:
        self._parts = parts
        self._stop = stop
        self._watch_broken_since: float | None = None

    async def run(self) -> None:
        """Start everything, wait for the stop or for a part that ends, stop everything."""
        settings = self._parts.settings
        health = health_server(
            addresses=settings.listen_address,
            port=settings.api_port,
            health={"watch": self._check_watch_alive},
            ready={
                "running": self._check_running,
                "postgres": self._check_postgres,
                "access": self._check_access,
                "watch": self._check_watch,
            },
            ready_notes={"waiting": self._parts.aside.problem, **_vector_notes(self._parts.store)},
        )
        numbers = metrics_server(addresses=settings.listen_address, port=settings.metrics_port)
        try:
            await health.start()
            await numbers.start()
            await self._work()
        finally:
            await health.stop()
            await numbers.stop()

    async def _work(self) -> None:
        parts = self._parts
        # Inside the breaker: a PostgreSQL that is still starting is waited for, a wrong schema is not.
        await _unless_stopped(self._stop, parts.breaker.run(parts.store.database.check_state))
        if parts.store.vectors is not None:
            await _unless_stopped(self._stop, _prepare_vectors(parts.store.vectors))
        if self._stop.is_set():
            return
        intakes = [
            *(_task(f"watch-{kind.plural}", self._watch(kind).run()) for kind in KINDS),
            _task("sweep", parts.sweep.run()),
        ]
        workers = [
            *(_task(f"coordinator-{n}", parts.coordinator.run()) for n in range(_COORDINATORS)),
            _task("aside", parts.aside.run()),
            _task("status-writer", parts.status_writer.run()),
            _task("garbage-collector", parts.collector.run()),
            _task("rights", parts.rights.run()),
            _task("partitions", self._prepare_partitions()),
        ]
        if parts.backfill is not None:
            workers.append(_task("backfill", parts.backfill.run()))
        if parts.indexer is not None:
            workers.append(_task("indexer", parts.indexer.run()))
        stopped = _task("stop", self._stop.wait())
        _log.info("Running", extra={"namespaces": list(parts.settings.namespaces) or "all"})
        try:
            done, _ = await asyncio.wait({*intakes, *workers, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped in done:
                _log.info("Stopping: nothing more is taken in")
                await end_tasks(intakes)
                await self._flush()
            else:
                self._tell_lost()
                raise _ended_unexpectedly(next(iter(done)))
        finally:
            await end_tasks([*intakes, *workers, stopped])

    def _watch(self, kind: ResourceKind) -> Watch:
        parts = self._parts
        kopf_parts = KopfParts(
            namespaces=parts.settings.namespaces,
            session=partial(WatchSession, parts.transport),
            registry=partial(build_registry, intake=parts.intake),
            settings=kopf_settings,
        )
        return Watch(
            kind,
            kopf_parts,
            monitor=parts.monitor,
            # Kopf takes the signals for itself whenever it starts.
            on_started=lambda: _take_signals(self._stop),
            on_recovery=self._catch_up,
        )

    def _catch_up(self, kind: ResourceKind, is_new: bool) -> None:  # noqa: FBT001  # the watch's callback
        """Make good for what was missed while a kind was not watched, or not even served (``is_new``)."""
        parts = self._parts
        parts.sweep.request(kind)
        if is_new:
            parts.collector.list_soon(kind)
            if parts.backfill is not None:
                parts.backfill.lift_soon()

    async def _flush(self) -> None:
        parts, started = self._parts, time.monotonic()
        try:
            async with asyncio.timeout(parts.settings.shutdown_seconds):
                # Rare and short: not worth an event in every part.
                while not (parts.coordinator.idle and parts.status_writer.idle):  # noqa: ASYNC110
                    await asyncio.sleep(_FLUSH_POLL_SECONDS)
        except TimeoutError:
            # What is in the cluster is found again by the next start. What is not there any more, is not.
            _log.warning("Stopped before everything was announced; the next start goes on with it")
            self._tell_lost()
        else:
            _log.info("Flushed", extra={"seconds": round(time.monotonic() - started, 2)})

    def _tell_lost(self) -> None:
        for ref in self._parts.intake.last_copies:
            _log.error("Lost: deleted in the cluster before it could be stored", extra=ref.as_log_fields())

    async def _prepare_partitions(self) -> None:
        while True:
            await self._parts.breaker.run(self._parts.store.archive.prepare_partitions)
            await asyncio.sleep(_PARTITION_INTERVAL_SECONDS)

    async def _check_running(self) -> str | None:
        return "stopping" if self._stop.is_set() else None

    async def _check_postgres(self) -> str | None:
        return self._parts.breaker.reason or await _trouble_of(self._parts.store.archive.probe, "PostgreSQL")

    async def _check_access(self) -> str | None:
        return self._parts.transport.monitor.problem()

    async def _check_watch(self) -> str | None:
        return self._parts.monitor.problem

    async def _check_watch_alive(self) -> str | None:
        problem, now = self._parts.monitor.curable_problem, time.monotonic()
        # A right or credentials that are missing are missing after a restart too.
        if problem is None or await self._check_access() is not None:
            self._watch_broken_since = None
            return None
        if self._watch_broken_since is None:
            self._watch_broken_since = now
        listed = self._parts.sweep.last_success
        if now - self._watch_broken_since > _WATCH_PATIENCE_SECONDS and listed is not None:
            # Lists get through and watches do not: the fault is in this process.
            return problem if listed > self._watch_broken_since else None
        return None


async def _prepare_vectors(vectors: VectorStore) -> None:
    """Refuse a newer schema, load the model, connect to Redis.

    Trouble with vectors is no reason to store no records.
    """
    await vectors.cache.connect()
    for ready in (partial(vectors.database.check_state, VECTORS), vectors.embedder.probe):
        try:
            async with asyncio.timeout(_VECTORS_SECONDS):
                await ready()
        except NewerSchemaError:
            raise
        except ConfigurationError as error:
            _log.error("Starting without vectors: %s", error)  # a state to be mended, no crash
        except (TransientError, TimeoutError) as error:
            reason = str(error) or f"no answer in {_VECTORS_SECONDS:g} s"
            _log.warning("Starting without vectors; missing vectors are added later", extra={"error": reason})


async def _trouble_of(probe: Callable[[], Awaitable[None]], server: str) -> str | None:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await probe()
    except (DataStorageError, TimeoutError) as error:
        return str(error) or f"{server}: no answer in {_PROBE_SECONDS:g} s"
    return None


def _vector_notes(store: Store) -> dict[str, Check]:
    if store.vectors is None:
        return {}
    vectors = store.vectors

    async def embedder() -> str | None:
        return vectors.embedder_breaker.reason

    async def vector_store() -> str | None:
        return vectors.breaker.reason or await _trouble_of(vectors.tables.probe, "the vectors' tables")

    return {"embedder": embedder, "vector_store": vector_store, "redis": vectors.cache.check}


async def _unless_stopped(stop: asyncio.Event, operation: Coroutine[Any, Any, T]) -> T | None:
    """Return the operation's result; None where the stop comes first, and the operation is cancelled."""
    task, stopped = _task("start", operation), _task("stop", stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await end_tasks([task, stopped])


def _take_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _ended_unexpectedly(task: asyncio.Task[Any]) -> DataStorageError:
    cause = None if task.cancelled() else task.exception()
    if cause is None:
        return DataStorageError(f"{task.get_name()} ended unexpectedly")
    # One line of the cause: the details of a database error quote the row.
    why = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
    if not isinstance(cause, DataStorageError):  # a bug: say where
        frames = "".join(traceback.format_tb(cause.__traceback__))
        _log.error("%s ended unexpectedly: %s\n%s", task.get_name(), why, frames)
    return DataStorageError(f"{task.get_name()} ended unexpectedly: {why}")


def _task(name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(coroutine, name=name)
