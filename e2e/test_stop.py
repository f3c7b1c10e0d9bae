"""A stop ends in time, whatever is under way, and loses nothing."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from e2e.workbench import MakeWorkbench, Workbench, answers, cluster_proxy, has_ended
from harness.apiserver import FakeApiServer
from harness.archive import rows
from harness.bulk import BulkClient
from harness.controlplane.cluster import kubeconfig
from harness.manifests import action_trace, audit_record
from harness.polling import until
from harness.proxy import FreezableProxy

SHUTDOWN_SECONDS = 2
# Longer than a test waits for the end of an operator: a stop that waits for the flush until then fails it.
LONG_FLUSH: dict[str, Any] = {"SHUTDOWN_SECONDS": 600}
# Less than the headers of an answer may take: that limit would end a stop that waits for them.
REST_SECONDS = 20
# Before the operator handles the signal itself, there is nothing to flush.
STOPPED = {0, 128 + signal.SIGTERM, -signal.SIGTERM}
# Seconds from a start to the stop: from "has not begun" to "in the middle of everything".
EARLIEST_STOP, LATEST_STOP = 0.2, 4.0
STOPS = 3
MANY_STOPS = 50
LARGE_BYTES = 300_000


@dataclass
class Trial:
    """One load with its own namespace, database and operators."""

    bench: Workbench
    client: BulkClient
    accepted: dict[str, int] = field(default_factory=dict)
    """The generation that each object has come to, by uid."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no more is to be created."""

    async def create(self, kind: ResourceKind, body: dict[str, Any]) -> None:
        self._note(await self.client.create(kind, self.bench.namespace, body))

    async def change(self, kind: ResourceKind, name: str, body: dict[str, Any]) -> None:
        self._note(await self.client.patch(kind, self.bench.namespace, name, body))

    def _note(self, body: dict[str, Any]) -> None:
        self.accepted[body["metadata"]["uid"]] = body["metadata"]["generation"]

    async def is_archived(self) -> bool:
        found: dict[str, int] = {}
        for table in Table:
            for row in await rows(self.bench.database_url, self.bench.namespace, table):
                uid = str(row["uid"])
                found[uid] = max(row["generation"], found.get(uid, 0))
        assert found.keys() <= self.accepted.keys(), "nothing is invented"
        return found == self.accepted


async def small_records(trial: Trial) -> None:
    n = 0
    while not trial.over.is_set():
        n += 1
        await trial.create(AUDIT_RECORD, audit_record(f"small-{n}"))
        await asyncio.sleep(0.03)


async def large_records(trial: Trial) -> None:
    n = 0
    while not trial.over.is_set():
        n += 1
        # A random text: nothing is compressed on its way.
        text = random.randbytes(LARGE_BYTES // 2).hex()
        await trial.create(AUDIT_RECORD, audit_record(f"large-{n}", details={"text": text}))
        await asyncio.sleep(0.1)


async def changing_traces(trial: Trial) -> None:
    n = 0
    while not trial.over.is_set():
        n += 1
        name = f"trace-{n % 10}"
        if n <= 10:
            await trial.create(ACTION_TRACE, action_trace(f"trace-{n % 10}"))
        else:
            await trial.change(ACTION_TRACE, name, {"spec": {"parameters": {"step": str(n)}}})
        await asyncio.sleep(0.03)


@dataclass(frozen=True)
class Case:
    """A load, and the name of the connection that is frozen before the stop."""

    load: Callable[[Trial], Coroutine[Any, Any, None]]
    silent: str = ""


CASES = {
    "small records": Case(small_records),
    "large records": Case(large_records),
    "changing traces": Case(changing_traces),
    "PostgreSQL silent": Case(small_records, "postgres"),
    "API server silent": Case(changing_traces, "cluster"),
}


async def stop_at_random_moments(trial: Trial, case: Case, stops: int) -> None:
    """Stop operators under the load, then let one more store the rest."""
    bench = trial.bench
    settings: dict[str, Any] = {"SHUTDOWN_SECONDS": SHUTDOWN_SECONDS, "SWEEP_INTERVAL_SECONDS": 3600}
    async with FreezableProxy(bench.database_url) as postgres, cluster_proxy(bench) as (cluster, config):
        proxies = {"postgres": postgres, "cluster": cluster}
        operator = bench.start_operator(wait=False, kubeconfig=config, database_url=postgres.url, **settings)
        load = asyncio.create_task(case.load(trial))
        try:
            for n in range(stops):
                await asyncio.sleep(random.uniform(EARLIEST_STOP, LATEST_STOP))  # the random moment
                silent = proxies.get(case.silent)
                if silent is not None:
                    silent.freeze()
                    await asyncio.sleep(random.uniform(0, 1))
                # One that takes too long ends itself, with another exit code.
                code = await asyncio.to_thread(operator.terminate)
                assert code in STOPPED, f"stop {n}: {code}{operator.log_tail()}"
                if silent is not None:
                    silent.thaw()
                operator.start()
        finally:
            trial.over.set()
            await load
        await asyncio.to_thread(operator.terminate)
        assert "Exception in callback" not in operator.log(), operator.log_tail()
        assert "never retrieved" not in operator.log(), operator.log_tail()
    bench.start_operator(wait=False, **settings)
    await until(trial.is_archived, what="everything that was accepted is in the archive")


@pytest.mark.parametrize(
    "stops", [STOPS, pytest.param(MANY_STOPS, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
async def test_stopped_at_random_moments(
    make_workbench: MakeWorkbench, client: BulkClient, stops: int
) -> None:
    """All loads run at once, each with operators of its own, so that the machine is as busy as possible."""
    trials = [Trial(await make_workbench(), client) for _ in CASES]
    async with asyncio.TaskGroup() as group:
        for trial, case in zip(trials, CASES.values(), strict=True):
            group.create_task(stop_at_random_moments(trial, case, stops))
    assert all(trial.accepted for trial in trials)


async def test_a_stop_waits_for_no_client(workbench: Workbench) -> None:
    """It waits neither for an idle connection nor for a request that never ends."""
    operator = workbench.start_operator(**LONG_FLUSH)
    ports = [operator.api_url, operator.metrics_url]
    with contextlib.ExitStack() as stack:
        for url in ports:
            port = int(url.split(":")[2].partition("/")[0])
            for sent in (b"", b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /ready HTTP/1.1\r\nHost:"):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.sendall(sent)
        assert await asyncio.to_thread(operator.terminate) == 0


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]])
async def test_any_number_of_signals_stops_it(workbench: Workbench, signals: list[int]) -> None:
    operator = workbench.start_operator()
    assert operator.pid is not None
    for number in signals:
        os.kill(operator.pid, number)
    await until(lambda: has_ended(operator), what="it ends")
    assert operator.exit_code == 0


async def test_a_stop_before_postgresql_is_there(workbench: Workbench) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    operator = workbench.start_operator(wait=False, database_url=away, **LONG_FLUSH)
    await until(lambda: answers(operator), what="/health")
    assert await asyncio.to_thread(operator.terminate) == 0


async def test_a_stop_while_the_kubeconfigs_program_does_not_end(
    workbench: Workbench, tmp_path: Path
) -> None:
    config = json.loads(workbench.kubeconfig.read_text())
    began = tmp_path / "began"
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": "sh", "args": ["-c", f"touch {began}; exec sleep 60"],
        }
    }  # fmt: skip
    path = tmp_path / "hanging.kubeconfig"
    path.write_text(json.dumps(config))
    operator = workbench.start_operator(wait=False, kubeconfig=path)

    async def has_begun() -> bool:
        return began.exists()

    await until(has_begun, what="the program runs")
    assert await asyncio.to_thread(operator.terminate, REST_SECONDS) == 0


async def test_a_stop_while_watches_get_no_answer(workbench: Workbench, tmp_path: Path) -> None:
    """The API server takes the requests and stays silent: there are no headers yet, and nothing to close."""
    async with FakeApiServer(silent=True).serve() as server:
        path = tmp_path / "silent.kubeconfig"
        path.write_text(kubeconfig("anyone", {"server": server.url}, {"token": "any"}))
        operator = workbench.start_operator(wait=False, kubeconfig=path, NAMESPACES="a,b")

        async def asked() -> bool:
            return len(server.watches) == 4

        await until(asked, what="all watches are asked for")
        assert await asyncio.to_thread(operator.terminate, REST_SECONDS) == 0
    assert "Traceback" not in operator.log(), operator.log_tail()
