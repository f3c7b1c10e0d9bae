"""An operator under load, from which one thing after the other is taken away while a Prometheus reads it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from harness.apiclient import ApiClient
from harness.bulk import BulkClient
from harness.controlplane import ControlPlane
from harness.controlplane.progress import say
from harness.embeddings import OpenAIService, hashed_vector
from harness.installed import NAMESPACE
from harness.operatorprocess import OperatorProcess
from harness.postgres import PostgresServer, TestDatabases
from harness.prometheus.programs import ensure_prometheus_alone
from harness.prometheus.servers import Prometheus, Reading
from harness.redis import RedisServer
from harness.rules.rendering import Rendering, yaml_text
from harness.traffic import Traffic

SHORTENED: Final = 10
"""So many times shorter than shipped are the times of the rules: each outage lasts for about a minute."""
_RULES: Final = Rendering(factor=1 / SHORTENED, shortest_range=15, shortest_wait=2, share=0.2)
_READING: Final = Reading(scrape="2s", evaluation="2s")
_RECORDS: Final = "shop"
_DIMENSIONS: Final = 64
_REPLICAS: Final = 2
_SETTINGS: Final = {
    "LEASE_NAMESPACE": NAMESPACE,
    "SHARDS": _REPLICAS,
    "NAMESPACES": _RECORDS,
    "TTL_SECONDS_AFTER_STORED": 45,
    "LOG_FORMAT": "text",
}
_BETWEEN_SECONDS: Final = 60.0
_OUTAGE_SECONDS: Final = 75.0
_END_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Parts:
    """Everything that runs."""

    postgres: PostgresServer
    redis: RedisServer
    embedder: OpenAIService
    replicas: list[OperatorProcess]
    prometheus: Prometheus
    traffic: Traffic


@dataclass(frozen=True)
class Fault:
    """What is away, in words, with what takes it away and what brings it back."""

    what: str
    take: Callable[[], None]
    give: Callable[[], None]


async def play(running: Parts) -> float:
    """Take one thing after the other away and bring it back; return the begin in seconds since 1970."""
    began = time.time()
    traffic, numbers = running.traffic, count()

    async def create_another() -> None:
        await traffic.create("another", message=f"event {next(numbers)} of another kind")

    async with (
        traffic.flowing(),
        traffic.searching(at_once=1, pause=0.3),
        traffic.often(create_another, 0.3),
        traffic.often(partial(traffic.post, phase="Nonsense"), 3.0),
    ):
        for fault in _faults(running):
            await _pass("everything runs", _BETWEEN_SECONDS)
            await asyncio.to_thread(fault.take)
            await _pass(fault.what, _OUTAGE_SECONDS)
            await asyncio.to_thread(fault.give)
        await _pass("everything runs", _BETWEEN_SECONDS + _END_SECONDS)
    return began


def _faults(running: Parts) -> list[Fault]:
    leave, last = partial(_leave, running.embedder), running.replicas[-1]
    return [
        Fault("the embedder is away", partial(leave, away=True), partial(leave, away=False)),
        Fault("Redis is away", running.redis.stop, running.redis.start),
        Fault("PostgreSQL is away", running.postgres.stop, running.postgres.start),
        Fault("one replica is killed", last.kill, last.start),
    ]


def _leave(embedder: OpenAIService, *, away: bool) -> None:
    embedder.is_away = away


async def _pass(what: str, seconds: float) -> None:
    say(f"{seconds:.0f} s: {what}")
    await asyncio.sleep(seconds)


@asynccontextmanager
async def parts(directory: Path) -> AsyncIterator[Parts]:
    """Run everything until the context ends."""
    async with AsyncExitStack() as stack:
        program = await asyncio.to_thread(ensure_prometheus_alone)
        say("Starting the control plane, PostgreSQL, Redis, an embedder, the operators and Prometheus")
        cluster = stack.enter_context(ControlPlane(directory / "cluster", fsync=False))
        await asyncio.to_thread(cluster.apply_product)
        cluster.kubectl("create", "namespace", _RECORDS)
        postgres, redis = stack.enter_context(PostgresServer()), stack.enter_context(RedisServer())
        embedder = OpenAIService(_DIMENSIONS, vector=hashed_vector)
        await embedder.start()
        stack.push_async_callback(embedder.stop)
        databases = TestDatabases(postgres.owner_url)
        await asyncio.to_thread(databases.prepare)
        url = (await databases.clone()).service_url
        settings = embedder.settings(REDIS_URL=redis.url, **_SETTINGS)
        replicas = [
            stack.enter_context(_operator(cluster, url, directory / f"operator-{number}", settings))
            for number in range(_REPLICAS)
        ]
        for each in replicas:
            await asyncio.to_thread(each.wait_ready)
        rules = yaml_text({"groups": _RULES.groups()})
        prometheus = stack.enter_context(Prometheus(program, directory / "prometheus", rules, _READING))
        prometheus.read(
            {
                each.metrics_target: {"namespace": NAMESPACE, "pod": f"datastorage-{number}"}
                for number, each in enumerate(replicas)
            }
        )
        client = await stack.enter_async_context(BulkClient.connect(cluster.admin_kubeconfig))
        traffic = Traffic(_RECORDS, client, ApiClient(replicas[0].api_url, _token(cluster)))
        yield Parts(postgres, redis, embedder, replicas, prometheus, traffic)


def _operator(
    cluster: ControlPlane, url: str, directory: Path, settings: dict[str, object]
) -> OperatorProcess:
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, "datastorage")
    named = {f"DATASTORAGE_{name}": str(value) for name, value in settings.items()}
    return OperatorProcess(kubeconfig, url, directory, named)


def _token(cluster: ControlPlane) -> str:
    """Make a ServiceAccount that may store and ask, and return a token of it."""
    name, own = "recorder", ("-n", _RECORDS)
    cluster.kubectl("create", "serviceaccount", name, *own)
    for role in ("datastorage-writer", "datastorage-archive-reader"):
        account = f"--serviceaccount={_RECORDS}:{name}"
        cluster.kubectl("create", "rolebinding", f"{name}-{role}", f"--clusterrole={role}", account, *own)
    return str(cluster.kubectl("create", "token", name, *own, "--audience", "datastorage").stdout).strip()
