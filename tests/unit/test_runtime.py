"""The health of the running operator: when /health asks for a restart, and what /ready reports."""

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from datastorage.assembly.replica import Replica, open_replica
from datastorage.assembly.shard import open_shard
from datastorage.errors import TransientError
from datastorage.kube.accessmonitor import AccessMonitor
from datastorage.kube.leases import LeaseState
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.pipeline.lease import Lease
from datastorage.records.record import RecordKey
from datastorage.resilience.cancellation import end_tasks
from datastorage.resources.kinds import AUDIT_RECORD, KINDS
from datastorage.resources.selection import Selection
from datastorage.runtime.checks import Checks, Pace, WatchHealth, trouble_of
from datastorage.runtime.runningshard import Pace as RunningPace
from datastorage.runtime.runningshard import RunningShard
from datastorage.runtime.supervisor import ended_unexpectedly
from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings
from harness.polling import DEADLINE_SECONDS, eventually
from harness.ports import free_port
from tests.support.counted import series

RECORDS, TRACES = (f"/apis/datastorage.kubernaut.io/v1alpha1/{kind.plural}" for kind in KINDS)
PATIENCE_SECONDS = Pace().watch_patience_seconds
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: nowhere
clusters: [{name: nowhere, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
users: [{name: nobody, user: {}}]
"""


class Bench:
    """The monitors of a shard, a clock, and the time of the last list that has succeeded."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.listed: float | None = None
        self.monitor = WatchMonitor(KINDS)
        self.access = AccessMonitor()
        self._health = WatchHealth(self.monitor, self.access, lambda: self.listed, clock=lambda: self.now)

    async def alive(self) -> str | None:
        return await self._health.problem()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest_asyncio.fixture
async def replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Replica]:
    """All components of a process. None has connected: there is no server."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    async with open_replica(Settings(database=DatabaseSettings(url=SecretStr(url)))) as opened:
        yield opened


async def test_open_watches_are_healthy_however_silent(bench: Bench) -> None:
    bench.monitor.opened(RECORDS)
    bench.monitor.opened(TRACES)
    bench.now += 100_000
    bench.listed = bench.now
    assert await bench.alive() is None


async def test_an_absent_api_server_is_no_reason_to_restart(bench: Bench) -> None:
    bench.listed = bench.now
    bench.monitor.failed(RECORDS, "refused")
    assert await bench.alive() is None
    bench.now += 100_000
    assert await bench.alive() is None


async def test_watches_that_fail_while_lists_succeed_are(bench: Bench) -> None:
    bench.monitor.failed(RECORDS, "refused")
    assert await bench.alive() is None
    bench.now += PATIENCE_SECONDS + 1
    bench.listed = bench.now
    assert RECORDS in (await bench.alive() or "")


async def test_the_records_that_wait_in_all_shards_are_counted(replica: Replica) -> None:
    created = datetime.now(UTC) - timedelta(hours=2)
    keys = [RecordKey(str(number), 1, created + timedelta(hours=number), b"") for number in range(2)]
    selections = [Selection(shard=shard, shards=2, kinds=(AUDIT_RECORD,)) for shard in range(2)]
    async with (
        open_shard(replica, selections[0], on_watch_started=lambda: None) as first,
        open_shard(replica, selections[1], on_watch_started=lambda: None) as second,
    ):
        for shard, key in zip((first, second), keys, strict=True):
            shard.register.start(key)
        assert series("datastorage_unstored_records") == {("audit_records",): 2, ("action_traces",): 0}
        oldest = series("datastorage_unstored_oldest_seconds")
        assert 7200 <= oldest["audit_records",] < 7300
        assert oldest["action_traces",] == 0
    for name in ("datastorage_unstored_records", "datastorage_unstored_oldest_seconds"):
        assert series(name) == {("audit_records",): 0, ("action_traces",): 0}


async def test_a_missing_definition_or_right_is_no_reason_to_restart(bench: Bench) -> None:
    bench.monitor.undefined(AUDIT_RECORD)
    bench.monitor.failed(TRACES, "API server (403): forbidden", refused=True)
    bench.access.forbidden(f"watch {TRACES}", "no")
    assert await bench.alive() is None
    bench.now += PATIENCE_SECONDS + 1
    bench.listed = bench.now
    assert await bench.alive() is None


async def test_the_watch_of_an_earlier_tenure_is_no_reason_to_restart(replica: Replica) -> None:
    now = 1000.0
    lease = Lease(_LeaseOfNobodyElse(), "shard-0", "a", clock=lambda: now)
    async with open_shard(replica, Selection(), on_watch_started=lambda: None) as shard:
        pace = Pace(watch_patience_seconds=0.0)
        alive = Checks(replica, [shard], asyncio.Event(), pace, leases=[lease]).health()["watch"]
        shard.monitor.failed(RECORDS, "refused")
        await lease.attempt()
        assert await alive() is None
        now += 100
        assert not lease.is_held
        assert await alive() is None
        await lease.attempt()
        shard.sweep.last_success = time.monotonic()
        assert await alive() is None, "the watch has just begun"
        shard.sweep.last_success = math.inf
        assert RECORDS in (await alive() or "")


class _LeaseOfNobodyElse:
    async def get(self, name: str, *, seconds: float) -> LeaseState | None:
        del name, seconds
        return None

    async def put(self, name: str, state: LeaseState, *, seconds: float) -> LeaseState:
        del name, seconds
        return state


class _Tenure:
    """Is held until a test says otherwise."""

    def __init__(self) -> None:
        self._held, self._lost = asyncio.Event(), asyncio.Event()

    def hold(self) -> None:
        self._lost.clear()
        self._held.set()

    def lose(self) -> None:
        self._held.clear()
        self._lost.set()

    async def until_held(self) -> None:
        await self._held.wait()

    async def until_lost(self) -> None:
        await self._lost.wait()


def _running(*names: str) -> set[str]:
    running = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name in running}


@pytest.mark.parametrize("linger_seconds", [3600.0, 0.0])
async def test_the_watch_goes_on_for_a_while_after_the_lease_was_lost(
    replica: Replica, linger_seconds: float
) -> None:
    watch, sweep = f"watch-{AUDIT_RECORD.plural}", "sweep"
    tenure = _Tenure()
    async with open_shard(replica, Selection(), on_watch_started=lambda: None) as shard:
        running = RunningShard(shard, tenure, RunningPace(linger_seconds=linger_seconds))
        try:
            tenure.hold()
            await eventually(lambda: _running(watch, sweep) == {watch, sweep})
            tenure.lose()
            left = {watch} if linger_seconds else set()
            await eventually(lambda: _running(watch, sweep) == left)
            assert shard.objects.only_last_copies
            tenure.hold()
            await eventually(lambda: _running(watch, sweep) == {watch, sweep})
            assert not shard.objects.only_last_copies
        finally:
            await end_tasks(running.tasks)


async def test_a_missing_definition_or_right_keeps_it_from_being_ready(replica: Replica) -> None:
    async with open_shard(replica, Selection(), on_watch_started=lambda: None) as shard:
        shard.monitor.undefined(AUDIT_RECORD)
        shard.monitor.failed(TRACES, "API server (403): forbidden", refused=True)
        said = await Checks(replica, [shard], asyncio.Event()).ready()["watch"]() or ""
    assert AUDIT_RECORD.crd_name in said
    assert "forbidden" in said


async def test_a_problem_of_one_shard_is_reported_and_equal_problems_once(replica: Replica) -> None:
    """Each has watches of its own."""
    async with (
        open_shard(replica, Selection(shard=0, shards=2), on_watch_started=lambda: None) as first,
        open_shard(replica, Selection(shard=1, shards=2), on_watch_started=lambda: None) as second,
    ):
        ready = Checks(replica, [first, second], asyncio.Event()).ready()["watch"]
        for path in (RECORDS, TRACES):
            first.monitor.opened(path)
        assert await ready() == "2 of 2 watches are not open yet"
        first.monitor.undefined(AUDIT_RECORD)
        second.monitor.undefined(AUDIT_RECORD)
        assert (await ready() or "").count(AUDIT_RECORD.crd_name) == 1 + 1, "the second one has more to say"
        for path in (RECORDS, TRACES):
            second.monitor.opened(path)
        assert (await ready() or "").count(AUDIT_RECORD.crd_name) == 1
        first.monitor.defined(AUDIT_RECORD)
        second.monitor.defined(AUDIT_RECORD)
        assert await ready() is None


async def test_a_recovered_server_brings_a_sweep_of_every_shard(replica: Replica) -> None:
    async with (
        open_shard(replica, Selection(shard=0, shards=2), on_watch_started=lambda: None) as first,
        open_shard(replica, Selection(shard=1, shards=2), on_watch_started=lambda: None) as second,
    ):
        replica.shards.sweep()
        for shard in (first, second):
            assert await shard.sweep_requests.signal.wait(DEADLINE_SECONDS)
            assert shard.sweep_requests.take() == list(KINDS)


async def test_a_watch_that_recovers_starts_the_patience_again(bench: Bench) -> None:
    bench.monitor.failed(RECORDS, "refused")
    await bench.alive()
    bench.monitor.opened(RECORDS)
    bench.monitor.opened(TRACES)
    bench.now += 1000
    assert await bench.alive() is None
    bench.monitor.failed(TRACES, "refused")
    bench.listed = bench.now + 1
    bench.now += 2
    assert await bench.alive() is None


async def _refuses() -> None:
    raise TransientError("PostgreSQL at db is a read-only standby, and the primary is needed")


async def _hangs() -> None:
    await asyncio.Event().wait()


async def _works() -> None:
    pass


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (_works, None),
        (_refuses, "is a read-only standby"),
        (_hangs, "PostgreSQL: no answer in 0.01 s"),
    ],
)
async def test_a_probe_says_what_is_wrong(probe: Callable[[], Awaitable[None]], expected: str | None) -> None:
    said = await trouble_of(probe, "PostgreSQL", 0.01)
    assert (said is None) is (expected is None)
    assert (expected or "") in (said or "")


async def test_ready_means_that_writes_would_succeed(replica: Replica) -> None:
    """It is not enough that nothing has failed so far: the servers are probed."""
    checks = Checks(replica, [], asyncio.Event())
    assert "can't be reached" in (await checks.ready()["postgres"]() or "")
    assert "can't be reached" in (await checks.notes()["vector_store"]() or "")


async def test_ready_says_that_nobody_holds_the_lease(replica: Replica) -> None:
    lease = Lease(_LeaseOfNobodyElse(), "shard-0", "a")
    leases = Checks(replica, [], asyncio.Event(), leases=[lease]).notes()["leases"]
    assert "no process is known to hold the Lease shard-0" in (await leases() or "")
    await lease.attempt()
    assert await leases() is None


@pytest.mark.parametrize("page", ["installation", "upgrade"])
async def test_the_pages_show_every_check_of_ready(replica: Replica, page: str) -> None:
    lease = Lease(_LeaseOfNobodyElse(), "shard-0", "a")
    checks = Checks(replica, [], asyncio.Event(), leases=[lease])
    shown = re.findall(r'^ *(\{"status":"ok",.*\})$', (OPERATIONS / f"{page}.md").read_text(), re.MULTILINE)
    assert shown
    for answer in shown:
        assert list(json.loads(answer)["checks"]) == [*checks.ready(), *checks.notes()]


async def test_a_bug_in_a_component_is_logged_with_its_place_and_without_the_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def component() -> None:
        raise KeyError("x\nDETAIL: a row")

    task = asyncio.create_task(component(), name="coordinator-0")
    await asyncio.gather(task, return_exceptions=True)
    error = ended_unexpectedly(task)
    assert str(error).startswith("coordinator-0 ended unexpectedly: KeyError: ")
    [record] = caplog.records
    assert "test_runtime.py" in record.getMessage()
    assert "in component" in record.getMessage()


_LOOKS_UP = """
import asyncio, pathlib
from datastorage.runtime import run as runtime
from datastorage.cli import operator

async def run(settings):
    await asyncio.get_running_loop().getaddrinfo("localhost", 1)
    print(len(list(pathlib.Path("/proc/self/task").iterdir())))

runtime.run = run
operator._run(None)
"""


def test_lookups_that_hang_take_no_threads_from_the_others() -> None:
    """A lookup of one dependency's name may take half a minute, and is repeated every few seconds."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOKS_UP],
        capture_output=True, text=True, check=True, timeout=60,
        env={name: value for name, value in os.environ.items() if name != "UV_THREADPOOL_SIZE"},
    )  # fmt: skip
    # The loop makes all its threads at the first lookup.
    assert int(done.stdout) > 100
