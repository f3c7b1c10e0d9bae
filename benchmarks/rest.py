"""Measures the REST API (j): how many requests a second, and how soon, with tokens and vectors."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from benchmarks.archives import Archive
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, LossError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import say
from benchmarks.records import audit_record
from benchmarks.results import Latency, Result, latency_of
from datastorage.resources.reading.requestrecord import record_of_request
from datastorage.storage import rows
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.schema import ARCHIVE

_CONNECTIONS: Final = 32
_BATCH: Final = 500
_PACE: Final = 200
"""Requests per second where the latency is measured."""
_TEXTS: Final = 500
_ACCOUNT: Final = ("datastorage-system", "benchmark-producer")
_READER: Final = "datastorage-archive-reader"

_Send = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class _Client:
    session: aiohttp.ClientSession
    url: str
    namespace: str

    async def post(self, body: Any, wanted: int) -> Any:
        async with self.session.post(f"{self.url}/api/v1/store/remediation", json=body) as response:
            return await _checked(response, wanted)

    async def get(self, path: str, **query: str) -> Any:
        params = {"namespace": self.namespace, **query}
        async with self.session.get(f"{self.url}/api/v1{path}", params=params) as response:
            return await _checked(response, 200)


async def _checked(response: aiohttp.ClientResponse, wanted: int) -> Any:
    body = await response.read()
    if response.status != wanted:
        raise BenchmarkError(f"{response.method} {response.url.path}: {response.status} {body[:300]!r}")
    return json.loads(body)


async def measure_rest(bench: Bench, count: int) -> list[Result]:
    """Store ``count`` records by single requests, as many by batches, and read them."""
    namespace, archive = await bench.namespace("rest"), await bench.archives.archive()
    token = await asyncio.to_thread(_token, bench)
    bare = await _bare_insert(await bench.archives.archive(), count)
    results: list[Result] = []
    # Other scenarios may have left objects in the cluster.
    async with bench.operator(archive, NAMESPACES=namespace) as operator:
        await operator.until_ready()
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            client = _Client(session, operator.api_url, namespace)
            uids: list[str] = []
            results += [
                await _single(client, operator, count, uids),
                await _paced("j2", f"store, {_PACE} requests/s", client, count, _store(client, uids)),
                await _batches(client, operator, count, uids, bare),
            ]
            results += await _reads(client, operator, count, uids)
    await archive.verify(set(uids))
    if len(uids) != len(set(uids)):
        raise LossError("two requests have the same uid")
    return results


def _token(bench: Bench) -> str:
    namespace, name = _ACCOUNT
    kubectl = bench.control_plane.kubectl
    kubectl(
        "create", "clusterrolebinding", "benchmark-reader", f"--clusterrole={_READER}",
        f"--serviceaccount={namespace}:{name}",
    )  # fmt: skip
    made = kubectl("create", "token", name, "-n", namespace, "--audience", "datastorage")
    return str(made.stdout).strip()


def _body(namespace: str, number: int) -> dict[str, Any]:
    made = audit_record(f"record-{number:06d}", number, texts=_TEXTS)
    return {"metadata": {"namespace": namespace}, "spec": {**made["spec"], "type": "Remediation"}}


def _store(client: _Client, uids: list[str]) -> _Send:
    async def send(number: int) -> None:
        uids.append((await client.post(_body(client.namespace, number), 201))["uid"])

    return send


async def _single(client: _Client, operator: MeasuredOperator, count: int, uids: list[str]) -> Result:
    say(f"    {count} single requests over {_CONNECTIONS} connections")
    rate, cpu_ms = await _at_once(operator, count, _store(client, uids))
    return Result(
        "j1", f"store, {_CONNECTIONS} connections", count, {"requests": rate},
        figures={"operator CPU ms": cpu_ms, "peak RSS MiB": round(operator.peak_rss_mib, 1)},
    )  # fmt: skip


async def _batches(
    client: _Client, operator: MeasuredOperator, count: int, uids: list[str], bare: float
) -> Result:
    say(f"    {count} records in batches of {_BATCH}")

    async def send(number: int) -> None:
        batch = [_body(client.namespace, number * _BATCH + place) for place in range(_BATCH)]
        answer = await client.post(batch, 207)
        if answer["failed"]:
            raise BenchmarkError(f"{answer['failed']} records of a batch were refused")
        uids.extend(item["record"]["uid"] for item in answer["items"])

    batches = max(1, count // _BATCH)
    rate, cpu_ms = await _at_once(operator, batches, send)
    rows_rate = round(rate * _BATCH, 1)
    return Result(
        "j3", f"store, batches of {_BATCH}", batches * _BATCH, {"rows": rows_rate},
        figures={
            "of a bare insert": round(rows_rate / bare, 3), "operator CPU ms": round(cpu_ms / _BATCH, 2),
        },
    )  # fmt: skip


async def _reads(
    client: _Client, operator: MeasuredOperator, count: int, uids: Sequence[str]
) -> list[Result]:
    async def get(number: int) -> None:
        await client.get(f"/query/remediation/{uids[number * 7 % len(uids)]}")

    async def list_(number: int) -> None:
        await client.get("/query/records", pageSize="50", phase=("Completed", "Failed")[number % 2])

    async def search(number: int) -> None:
        await client.get("/query/semantic", q=f"why was the deployment restarted {number % 50}")

    say(f"    {count} records read over {_CONNECTIONS} connections")
    rate, cpu_ms = await _at_once(operator, count, get)
    return [
        Result("j4", "get", count, {"requests": rate}, figures={"operator CPU ms": cpu_ms}),
        await _paced("j5", f"get, {_PACE} requests/s", client, count, get),
        await _paced("j6", "list of 50, 20 requests/s", client, count // 10, list_, pace=20),
        await _paced("j7", "semantic, 20 requests/s", client, count // 10, search, pace=20),
    ]


async def _at_once(operator: MeasuredOperator, count: int, send: _Send) -> tuple[float, float]:
    """Send ``count`` requests, always as many at a time; return requests/s and CPU ms for each."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await send(number)

    started, cpu = time.monotonic(), operator.cpu_seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(min(_CONNECTIONS, count)):
            group.create_task(work())
    seconds = time.monotonic() - started
    return round(count / seconds, 1), round(1000 * (operator.cpu_seconds - cpu) / count, 2)


async def _paced(
    scenario: str, title: str, client: _Client, count: int, send: _Send, *, pace: int = _PACE
) -> Result:
    """Send requests at a fixed pace, and measure each from the time at which it was due."""
    del client
    say(f"    {title}")
    count = max(1, count)
    latencies: list[float] = []
    begin = time.monotonic() + 0.1

    async def one(number: int) -> None:
        due = begin + number / pace
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await send(number)
        latencies.append(time.monotonic() - due)

    await asyncio.gather(*(one(number) for number in range(count)))
    latency: Latency = latency_of(latencies)
    return Result(scenario, title, count, {}, latency=latency)


async def _bare_insert(archive: Archive, count: int) -> float:
    """Return how many rows a second the bare statement adds in transactions of a batch."""
    records = [
        record_of_request(_body("rest", number), recorded_by=str(uuid.uuid4()), with_text=False)
        for number in range(max(_BATCH, count))
    ]
    database = Database(archive.service_url, pool_size=5, chain=ARCHIVE)
    try:
        async with database.connection() as connection:
            await connection.execute("SELECT datastorage.ensure_partitions(now())")
            started = time.monotonic()
            for start in range(0, len(records), _BATCH):
                async with transaction(connection):
                    batch = records[start : start + _BATCH]
                    await rows.insert(connection, batch[0].table, batch, texts={}, writes={}, model=None)
            return len(records) / (time.monotonic() - started)
    finally:
        await database.close()
