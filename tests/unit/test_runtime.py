"""The running operator's own judgement: what /health calls a reason to be restarted."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from datastorage.errors import TransientError
from datastorage.kube.accessmonitor import AccessMonitor
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.resources.kinds import AUDIT_RECORD, KINDS
from datastorage.runtime import run as runtime_module
from datastorage.runtime.run import Operator

RECORDS, TRACES = (f"/apis/datastorage.kubernaut.io/v1alpha1/{kind.plural}" for kind in KINDS)


class Bench:
    """An operator of which only the parts that the checks look at are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(runtime_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.monitor = WatchMonitor(KINDS)
        self.access = AccessMonitor()
        self.sweep = SimpleNamespace(last_success=None)
        parts: Any = SimpleNamespace(
            monitor=self.monitor, sweep=self.sweep, transport=SimpleNamespace(monitor=self.access)
        )
        self.operator = Operator(parts, asyncio.Event())

    async def alive(self) -> str | None:
        return await self.operator._check_watch_alive()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_open_watches_are_healthy_however_silent(bench: Bench) -> None:
    bench.monitor.opened(RECORDS)
    bench.monitor.opened(TRACES)
    bench.now += 100_000
    bench.sweep.last_success = bench.now
    assert await bench.alive() is None


async def test_an_absent_api_server_is_no_reason_to_restart(bench: Bench) -> None:
    bench.sweep.last_success = bench.now
    bench.monitor.failed(RECORDS, "refused")
    assert await bench.alive() is None
    bench.now += 100_000
    assert await bench.alive() is None


async def test_watches_that_fail_while_lists_succeed_are(bench: Bench) -> None:
    bench.monitor.failed(RECORDS, "refused")
    assert await bench.alive() is None
    bench.now += runtime_module._WATCH_PATIENCE_SECONDS + 1
    bench.sweep.last_success = bench.now
    assert RECORDS in (await bench.alive() or "")


async def test_a_missing_definition_or_right_is_no_reason_to_restart(bench: Bench) -> None:
    bench.monitor.undefined(AUDIT_RECORD)
    bench.monitor.failed(TRACES, "API server (403): forbidden", refused=True)
    bench.access.forbidden(f"watch {TRACES}", "no")
    assert await bench.alive() is None
    bench.now += runtime_module._WATCH_PATIENCE_SECONDS + 1
    bench.sweep.last_success = bench.now
    assert await bench.alive() is None
    told = await bench.operator._check_watch() or ""
    assert AUDIT_RECORD.crd_name in told
    assert "forbidden" in told


async def test_a_watch_that_recovers_starts_the_patience_anew(bench: Bench) -> None:
    bench.monitor.failed(RECORDS, "refused")
    await bench.alive()
    bench.monitor.opened(RECORDS)
    bench.monitor.opened(TRACES)
    bench.now += 1000
    assert await bench.alive() is None
    bench.monitor.failed(TRACES, "refused")
    bench.sweep.last_success = bench.now + 1
    bench.now += 2
    assert await bench.alive() is None


async def test_the_start_checks_the_schema_loads_the_model_and_connects_to_redis() -> None:
    done: list[str] = []

    async def ready(name: str, *_: Any) -> None:
        done.append(name)

    vectors: Any = SimpleNamespace(
        cache=SimpleNamespace(connect=partial(ready, "redis")),
        database=SimpleNamespace(check_state=partial(ready, "schema")),
        embedder=SimpleNamespace(probe=partial(ready, "model")),
    )
    await runtime_module._prepare_vectors(vectors)
    assert sorted(done) == ["model", "redis", "schema"]


async def _refuses() -> None:
    raise TransientError("PostgreSQL at db is a read-only standby, and the primary is needed")


async def _hangs() -> None:
    await asyncio.Event().wait()


async def _works() -> None:
    pass


@pytest.mark.parametrize(
    ("probe", "of_records", "of_vectors"),
    [
        (_works, None, None),
        (_refuses, "is a read-only standby", "is a read-only standby"),
        (_hangs, "PostgreSQL: no answer in 0.01 s", "the vectors' tables: no answer in 0.01 s"),
    ],
)
async def test_ready_means_that_writes_would_succeed(
    monkeypatch: pytest.MonkeyPatch,
    probe: Callable[[], Awaitable[None]],
    of_records: str | None,
    of_vectors: str | None,
) -> None:
    """That a server answers is not enough, nor that nothing has failed so far."""
    monkeypatch.setattr(runtime_module, "_PROBE_SECONDS", 0.01)
    breaker = SimpleNamespace(reason=None)
    vectors = SimpleNamespace(
        breaker=breaker, embedder_breaker=breaker, tables=SimpleNamespace(probe=probe),
        cache=SimpleNamespace(check=_works),
    )  # fmt: skip
    store: Any = SimpleNamespace(archive=SimpleNamespace(probe=probe), vectors=vectors)
    parts: Any = SimpleNamespace(store=store, breaker=breaker)
    said = await Operator(parts, asyncio.Event())._check_postgres()
    noted = await runtime_module._vector_notes(store)["vector_store"]()
    for words, expected in ((said, of_records), (noted, of_vectors)):
        assert (words is None) is (expected is None)
        assert (expected or "") in (words or "")


async def test_a_bug_in_a_part_is_told_with_its_place_and_without_the_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def part() -> None:
        raise KeyError("x\nDETAIL: a row")

    task = asyncio.create_task(part(), name="coordinator-0")
    await asyncio.gather(task, return_exceptions=True)
    error = runtime_module._ended_unexpectedly(task)
    assert str(error).startswith("coordinator-0 ended unexpectedly: KeyError: ")
    [record] = caplog.records
    assert "test_runtime.py" in record.getMessage()
    assert "in part" in record.getMessage()


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
    """Lookups of one dependency's name may take half a minute each, and are tried every few seconds."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOKS_UP],
        capture_output=True, text=True, check=True, timeout=60,
        env={name: value for name, value in os.environ.items() if name != "UV_THREADPOOL_SIZE"},
    )  # fmt: skip
    # The loop makes all its threads at the first lookup.
    assert int(done.stdout) > 100
