"""The watch: Kopf brings events to the intake, and never ends unnoticed."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import kopf
import pytest
import pytest_asyncio

from datastorage.handlers import build_registry, kopf_settings
from datastorage.kube import connection as connection_module
from datastorage.kube import watch as watch_module
from datastorage.kube.connection import watch_session
from datastorage.kube.watch import Watch
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.pipeline.intake import Intake
from datastorage.resources import GROUP, KINDS
from tests.support.apiserver import FakeApiServer
from tests.support.objects import audit_record, key_of_body
from tests.support.polling import eventually
from tests.unit.conftest import Spawn

RECORDS = "/apis/datastorage.kubernaut.io/v1alpha1/auditrecords"
TRACES = "/apis/datastorage.kubernaut.io/v1alpha1/actiontraces"


class Bench:
    """A supervised watch on a fake API server."""

    def __init__(self, server: FakeApiServer, intake: Intake) -> None:
        self.server = server
        self.monitor = WatchMonitor()
        self.started = 0
        self.restarts = 0
        self.api = server.client()
        self.sessions: list[aiohttp.ClientSession] = []
        self.watch = Watch(
            server=server.url,
            session=self._session,
            registry=lambda: build_registry(intake),
            settings=kopf_settings,
            namespaces=(),
            monitor=self.monitor,
            on_started=self._start,
            on_restart=self._restart,
        )

    def _session(self) -> aiohttp.ClientSession:
        self.sessions.append(watch_session(self.api, self.monitor))
        return self.sessions[-1]

    def _start(self) -> None:
        self.started += 1

    def _restart(self) -> None:
        self.restarts += 1


@pytest_asyncio.fixture
async def bench(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A watch that is restarted without delay."""
    monkeypatch.setattr(watch_module, "_FIRST_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(connection_module, "_WATCH_INTERVAL_SECONDS", 0.0)
    async with FakeApiServer().serve() as server:
        made = Bench(server, intake)
        yield made
        await made.api.close()


async def test_events_reach_the_intake(bench: Bench, intake: Intake, spawn: Spawn) -> None:
    added, deleted, settled = audit_record(), audit_record(), audit_record()
    intake.settle(key_of_body(settled), 1)
    bench.server.events = [
        {"type": "ADDED", "object": added},
        {"type": "DELETED", "object": deleted},
        {"type": "DELETED", "object": settled},
    ]
    spawn(bench.watch.run())
    await eventually(lambda: intake.depth == 2)
    items = {item.ref.name: item.deleted for item in intake._queue}
    assert items == {added["metadata"]["name"]: False, deleted["metadata"]["name"]: True}
    await eventually(lambda: bench.monitor.problem(2) is None)
    assert (bench.started, bench.restarts) == (1, 0)
    assert {query["fieldSelector"] for query in bench.server.watch_queries} == {"status.phase!=Stored"}
    # What is there at the start comes as events too: a list of large objects would not fit into memory.
    assert {query["sendInitialEvents"] for query in bench.server.watch_queries} == {"true"}
    assert bench.server.requests == []


@pytest.mark.parametrize("status", [404, 410])
async def test_kopf_is_started_again_when_it_gives_up(
    bench: Bench, intake: Intake, spawn: Spawn, status: int
) -> None:
    bench.server.watch_answers = [status, status, status, status]
    bench.server.events = [{"type": "ADDED", "object": audit_record()}]
    task = spawn(bench.watch.run())
    await eventually(lambda: intake.depth == 1, seconds=20)
    assert bench.restarts >= 1
    assert bench.started == bench.restarts + 1
    assert not task.done()


@pytest.mark.parametrize("answers", [[410], [410, 410], [404, 404, 410]])
async def test_every_watch_ends_with_kopf(bench: Bench, spawn: Spawn, answers: list[int]) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told["message"]))
    bench.server.watch_answers = list(answers)
    spawn(bench.watch.run())
    await eventually(lambda: bench.restarts >= 1 and bench.monitor.problem(2) is None)
    names = [task.get_name().partition("@")[0] for task in asyncio.all_tasks()]
    watchers = sorted(name for name in names if name.startswith("watcher for "))
    assert watchers == sorted(f"watcher for {kind.plural}.v1alpha1.{GROUP}" for kind in KINDS)
    gc.collect()
    assert complaints == []


async def test_a_task_of_kopf_that_fails_restarts_it_and_ends_the_others(
    bench: Bench, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[asyncio.Task[None]] = []

    async def fail() -> None:
        raise RuntimeError("a worker failed")

    async def wait() -> None:
        await asyncio.Event().wait()

    async def spawn_tasks(**_: Any) -> list[asyncio.Task[None]]:
        others.append(asyncio.create_task(wait()))
        return [others[-1], asyncio.create_task(fail())]

    monkeypatch.setattr(kopf, "spawn_tasks", spawn_tasks)
    task = spawn(bench.watch.run())
    await eventually(lambda: bench.restarts >= 2)
    assert all(other.cancelled() for other in others[:-1])
    assert not task.done()


def test_kopf_writes_nothing() -> None:
    settings = kopf_settings()
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert set(settings.watching.field_selectors.values()) == {"status.phase!=Stored"}
    assert len(settings.watching.field_selectors) == 2


def test_the_monitor_knows_how_many_watches_are_open() -> None:
    monitor = WatchMonitor()
    assert monitor.problem(2) == "0 of 2 watches are open"
    monitor.opened(RECORDS)
    assert monitor.problem(2) == "1 of 2 watches are open"
    monitor.opened(TRACES)
    assert monitor.problem(2) is None
    monitor.closed(TRACES)
    assert monitor.problem(2) == f"watch of {TRACES} does not get through"
    monitor.opened(TRACES)
    assert monitor.problem(2) is None
    monitor.stopped()
    assert monitor.problem(2) == "0 of 2 watches are open"


async def test_a_watch_that_is_told_twice_to_end_closes_its_session(bench: Bench) -> None:
    watching = asyncio.create_task(bench.watch.run())
    await eventually(lambda: bench.monitor.problem(2) is None)
    watching.cancel()
    for _ in range(2):  # it is amid the cleaning up
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert watching.cancelled()
    assert [session.closed for session in bench.sessions] == [True] * len(bench.sessions)
    assert bench.sessions
