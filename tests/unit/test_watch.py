"""The watches: Kopf's events reach the intake, definitions are waited for, and no end goes unnoticed."""

import asyncio
import contextvars
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import kopf
import pytest
import pytest_asyncio
from kopf._cogs.clients.auth import vault_var  # private: Kopf offers no look at where it keeps credentials

from datastorage.kube.watch import KopfFactory, Watch, WatchPace
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.kube.watchretry import RequestPace, WatchRetry
from datastorage.kube.watchsession import WatchSession
from datastorage.metrics import Verdict
from datastorage.pipeline.handlers import build_registry, kopf_settings
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, KINDS, ResourceKind
from datastorage.resources.selection import EVERYTHING, Selection
from harness.apiserver import FakeApiServer
from harness.objects import action_trace, audit_record, key_of_body
from harness.polling import eventually
from tests.support.entrance import Entrance
from tests.support.tasks import Spawn

RECORDS = "/apis/datastorage.kubernaut.io/v1alpha1/auditrecords"
TRACES = "/apis/datastorage.kubernaut.io/v1alpha1/actiontraces"
AT_ONCE = WatchPace(
    first_pause_seconds=0.0,
    requests=RequestPace(watch_interval_seconds=0.0, first_pause_seconds=0.01, max_pause_seconds=0.02),
)


class Bench:
    """Supervised watches of both kinds on a fake API server."""

    def __init__(self, server: FakeApiServer, entrance: Entrance) -> None:
        self.server = server
        self.entrance = entrance
        self.monitor = WatchMonitor(KINDS)
        self.started: list[ResourceKind] = []
        self.recoveries: list[tuple[ResourceKind, bool]] = []
        self.transport = server.transport()
        self.sessions: list[WatchSession] = []
        self.selection = EVERYTHING
        factory = KopfFactory(
            namespaces=(),
            session=self._session,
            registry=lambda kind: build_registry(kind, entrance.objects, EVERYTHING),
            settings=kopf_settings,
        )
        self.records, self.traces = (
            Watch(
                kind, factory, monitor=self.monitor, on_started=partial(self.started.append, kind),
                on_recovery=lambda kind, is_new: self.recoveries.append((kind, is_new)),
                pace=AT_ONCE,
            )
            for kind in KINDS
        )  # fmt: skip

    def _session(self, kind: ResourceKind, retry: WatchRetry) -> WatchSession:
        self.sessions.append(
            WatchSession(self.transport, retry, partial(self.entrance.objects.is_known, kind), self.selection)
        )
        return self.sessions[-1]


@pytest_asyncio.fixture
async def bench(entrance: Entrance) -> AsyncIterator[Bench]:
    """Watches that are started again, and ask again, without delay."""
    async with FakeApiServer().serve() as server:
        made = Bench(server, entrance)
        yield made
        await made.transport.close()


def watch_both(bench: Bench, spawn: Spawn) -> None:
    spawn(bench.records.run())
    spawn(bench.traces.run())


async def test_events_reach_the_intake(bench: Bench, entrance: Entrance, spawn: Spawn) -> None:
    added, deleted, settled, trace = audit_record(), audit_record(), audit_record(), action_trace()
    entrance.register.done(key_of_body(settled), 1)
    bench.server.events = [
        {"type": "ADDED", "object": added},
        {"type": "DELETED", "object": deleted},
        {"type": "DELETED", "object": settled},
        {"type": "ADDED", "object": trace},
    ]
    watch_both(bench, spawn)
    await eventually(lambda: entrance.intake.depth == 3)
    assert {ref.name for ref in entrance.register.last_copies} == {deleted["metadata"]["name"]}
    assert set(await entrance.take_names()) == {body["metadata"]["name"] for body in (added, deleted, trace)}
    await eventually(lambda: bench.monitor.problem is None)
    assert (sorted(kind.kind for kind in bench.started), bench.recoveries) == (
        ["ActionTrace", "AuditRecord"],
        [],
    )
    assert sorted(bench.server.watches) == [TRACES, RECORDS]
    assert {query["fieldSelector"] for query in bench.server.watch_queries} == {"status.phase!=Stored"}
    # Objects that exist at the start come as events too: a list of large ones would not fit into memory.
    assert {query["sendInitialEvents"] for query in bench.server.watch_queries} == {"true"}
    assert bench.server.requests == []


async def test_a_shard_watches_its_range(bench: Bench, entrance: Entrance, spawn: Spawn) -> None:
    bench.selection = Selection(shard=1, shards=2)
    bodies = [audit_record() for _ in range(20)]
    own = {body["metadata"]["name"] for body in bodies if bench.selection.has(body)}
    # Most servers ignore the selector.
    bench.server.events = [{"type": "ADDED", "object": body} for body in bodies]
    watch_both(bench, spawn)
    await eventually(lambda: bench.monitor.problem is None)
    await eventually(lambda: entrance.intake.depth == len(own))
    assert set(await entrance.take_names()) == own
    assert {query["shardSelector"] for query in bench.server.watch_queries} == {
        bench.selection.shard_selector
    }
    assert {query["fieldSelector"] for query in bench.server.watch_queries} == {"status.phase!=Stored"}


async def test_kopf_does_not_see_the_deletion_of_a_stored_object(
    bench: Bench, entrance: Entrance, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    offer = entrance.objects.offer_last_copy

    def spy(kind: ResourceKind, body: Any) -> Verdict:
        seen.append(body["metadata"]["name"])
        return offer(kind, body)

    monkeypatch.setattr(entrance.objects, "offer_last_copy", spy)
    stored, unstored = audit_record(name="stored"), audit_record(name="unstored")
    entrance.register.done(key_of_body(stored), 1)
    bench.server.events = [{"type": "DELETED", "object": stored}, {"type": "DELETED", "object": unstored}]
    watch_both(bench, spawn)
    assert await entrance.take_names() == ["unstored"]
    assert set(seen) == {"unstored"}


async def test_large_objects_do_not_pile_up_in_kopf(
    bench: Bench, entrance: Entrance, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kopf waits for no handler, and keeps each event for a while after it was handled."""
    count, loads = 10, json.loads
    parsed: list[dict[str, Any]] = []
    whole: list[int] = []

    def watched_loads(text: str) -> Any:
        body = loads(text)
        if isinstance(body, dict) and body.get("type") == "ADDED":
            parsed.append(body["object"])
            whole.append(sum("spec" in one or "managedFields" in one["metadata"] for one in parsed))
        return body

    monkeypatch.setattr(json, "loads", watched_loads)
    spec = {**audit_record()["spec"], "details": {"text": "x" * 300_000}}
    bench.server.events = [
        {"type": "ADDED", "object": audit_record(spec, managedFields=[{"manager": "test"}])}
        for _ in range(count)
    ]
    spawn(bench.records.run())
    await eventually(lambda: entrance.intake.depth == count)
    assert whole == [1] * count, "each is handled, and let go, before the next one is parsed"


async def test_the_credentials_of_one_kopf_are_not_seen_by_the_other(bench: Bench, spawn: Spawn) -> None:
    watch_both(bench, spawn)
    await eventually(lambda: bench.monitor.problem is None)
    assert len(bench.sessions) == 2
    assert vault_var not in contextvars.copy_context()


@pytest.mark.parametrize("missing", [{"auditrecords"}, {"auditrecords", "actiontraces"}])
async def test_a_definition_that_is_not_there_at_the_start_is_waited_for(
    bench: Bench, entrance: Entrance, spawn: Spawn, caplog: pytest.LogCaptureFixture, missing: set[str]
) -> None:
    caplog.set_level(logging.INFO)
    bench.server.unserved = set(missing)
    bench.server.events = [
        {"type": "ADDED", "object": audit_record()},
        {"type": "ADDED", "object": action_trace()},
    ]
    watch_both(bench, spawn)
    await eventually(lambda: entrance.intake.depth == 2 - len(missing))
    await eventually(lambda: "auditrecords.datastorage.kubernaut.io" in (bench.monitor.problem or ""))
    # A restart would not create a definition.
    await eventually(lambda: bench.monitor.curable_problem is None)
    bench.server.unserved.clear()
    await eventually(lambda: entrance.intake.depth == 2)
    await eventually(lambda: bench.monitor.problem is None)
    assert sorted(bench.recoveries, key=str) == [
        (kind, True) for kind in (ACTION_TRACE, AUDIT_RECORD) if kind.plural in missing
    ]
    assert len(bench.started) == 2, "Kopf itself was not started again"
    messages = [record.getMessage() for record in caplog.records if "definition" in record.getMessage()]
    assert len(messages) == 2 * len(missing), "one line when it is missed, one when it is there"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_definition_that_goes_and_comes_back_does_not_disturb_the_other_kind(
    bench: Bench, entrance: Entrance, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    watch_both(bench, spawn)
    await eventually(lambda: bench.monitor.problem is None)
    bench.server.undefine("auditrecords")
    await eventually(lambda: "AuditRecord" in (bench.monitor.problem or ""))
    bench.server.events = [{"type": "ADDED", "object": audit_record()}]
    bench.server.unserved.clear()
    await eventually(lambda: entrance.intake.depth == 1)
    await eventually(lambda: bench.monitor.problem is None)
    assert bench.recoveries == [(AUDIT_RECORD, True)]
    assert bench.server.watches.count(TRACES) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_watch_that_can_not_continue_starts_again(
    bench: Bench, entrance: Entrance, spawn: Spawn
) -> None:
    bench.server.watch_answers["auditrecords"] = [410, 410]
    bench.server.events = [{"type": "ADDED", "object": audit_record()}]
    watch_both(bench, spawn)
    await eventually(lambda: entrance.intake.depth == 1)
    assert bench.started.count(AUDIT_RECORD) == 3
    assert bench.started.count(ACTION_TRACE) == 1
    assert bench.server.watches.count(TRACES) == 1


@pytest.mark.parametrize(
    ("status", "refused"), [(403, True), (400, True), (429, False), (503, False), (401, False)]
)
async def test_a_watch_that_is_refused_is_asked_for_again_without_kopf_hearing_of_it(
    bench: Bench, spawn: Spawn, caplog: pytest.LogCaptureFixture, status: int, *, refused: bool
) -> None:
    bench.server.watch_answers["auditrecords"] = [status] * 30
    spawn(bench.records.run())
    await eventually(lambda: f"({status})" in (bench.monitor.problem or ""))
    assert (f"({status})" in (bench.monitor.curable_problem or "")) is not refused
    await eventually(lambda: RECORDS not in (bench.monitor.problem or ""))
    assert bench.recoveries == [(AUDIT_RECORD, False)]
    assert bench.started == [AUDIT_RECORD]
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == (0 if status in {429, 503} else 1)


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
    task = spawn(bench.records.run())
    await eventually(lambda: len(others) >= 3)
    assert all(other.cancelled() for other in others[:-1])
    assert not task.done()


@pytest.mark.parametrize("kind", KINDS)
def test_kopf_writes_nothing(kind: ResourceKind) -> None:
    settings = kopf_settings(kind)
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert list(settings.watching.field_selectors.values()) == ["status.phase!=Stored"]


def test_the_monitor_knows_how_the_watches_are() -> None:
    monitor = WatchMonitor(KINDS)
    assert monitor.problem == "2 of 2 watches are not open yet"
    monitor.opened(RECORDS)
    assert monitor.problem == "1 of 2 watches are not open yet"
    assert monitor.opened(TRACES) is False
    assert monitor.problem is None
    monitor.failed(TRACES, "refused")
    assert monitor.problem == f"the watch of {TRACES} fails: refused"
    assert monitor.opened(TRACES) is True
    assert monitor.problem is None
    monitor.lost(AUDIT_RECORD)
    assert monitor.problem == monitor.curable_problem == "1 of 2 watches are not open yet"
    monitor.undefined(AUDIT_RECORD)
    assert "apply the definition auditrecords.datastorage.kubernaut.io" in (monitor.problem or "")
    assert monitor.curable_problem is None


def test_there_is_a_watch_for_each_namespace() -> None:
    assert WatchMonitor(KINDS, ("a", "b")).problem == "4 of 4 watches are not open yet"


@pytest.mark.parametrize("turns", range(6))
async def test_a_watch_that_is_cancelled_amid_its_start_leaves_nothing_behind(
    bench: Bench, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    watching = asyncio.create_task(bench.records.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await eventually(lambda: asyncio.all_tasks() <= before)
    assert caplog.records == []


async def test_a_watch_that_is_cancelled_twice_closes_its_session(bench: Bench) -> None:
    watching = asyncio.create_task(bench.records.run())
    await eventually(lambda: bench.monitor.problem == "1 of 2 watches are not open yet")
    watching.cancel()
    for _ in range(2):  # the cleanup is under way
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert watching.cancelled()
    assert [session.closed for session in bench.sessions] == [True] * len(bench.sessions)
    assert bench.sessions
