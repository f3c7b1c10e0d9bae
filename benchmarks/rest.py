"""Measures the REST API (j): how many requests a second, and how soon, with tokens and vectors."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import apimetrics
from benchmarks.archives import Archive
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, LossError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import say
from benchmarks.records import audit_record
from benchmarks.restclient import CONNECTIONS, PACE, RestClient, Send, at_once, paced, rest_client
from benchmarks.restexport import measure_export
from benchmarks.results import Result
from datastorage.resources.reading.requestrecord import record_of_request
from datastorage.storage import rows
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.schema import ARCHIVE

_BATCH: Final = 500
_TEXTS: Final = 500
_CACHED_SECONDS: Final = 10
"""For so long the API server is not asked again about the same caller and right."""
_VERBS: Final = ("create", "get", "list", "export")


async def measure_rest(bench: Bench, count: int) -> list[Result]:
    """Store ``count`` records by single requests, as many by batches, and read them."""
    namespace, archive = await bench.namespace("rest"), await bench.archives.archive()
    bare = await _bare_insert(await bench.archives.archive(), count)
    # Other scenarios may have left objects in the cluster.
    async with bench.operator(archive, NAMESPACES=namespace) as operator:
        await operator.until_ready()
        async with bench.metered() as meter, rest_client(bench, operator) as client:
            started, uids = time.monotonic(), list[str]()
            store = _store(client, namespace, uids)
            results = [
                await _single(operator, count, store),
                await paced("j2", f"store, {PACE} requests/s", count, store),
                await _batches(client, operator, count, namespace, uids),
                *await _reads(client, operator, archive, count, namespace, uids),
                await measure_export("j8", client, operator, len(uids)),
            ]
            seconds = time.monotonic() - started
    results[2].figures["of a bare insert"] = round(results[2].rates["rows"] / bare, 3)
    for review, asked in apimetrics.reviews(meter.requests).items():
        # Each verb may begin with a question, and ask once more every ten seconds.
        allowed = seconds // _CACHED_SECONDS + (1 if review == "tokenreviews" else len(_VERBS))
        results[0].figures[f"{review} too many"] = max(0, asked - allowed)
    await archive.verify(set(uids))
    if len(uids) != len(set(uids)):
        raise LossError("two requests have the same uid")
    return results


def _body(namespace: str, number: int) -> dict[str, Any]:
    made = audit_record(f"record-{number:06d}", number, texts=_TEXTS)
    return {"metadata": {"namespace": namespace}, "spec": {**made["spec"], "type": "Remediation"}}


def _store(client: RestClient, namespace: str, uids: list[str]) -> Send:
    async def send(number: int) -> None:
        uids.append((await client.post(_body(namespace, number), 201))["uid"])

    return send


async def _single(operator: MeasuredOperator, count: int, store: Send) -> Result:
    say(f"    {count} single requests over {CONNECTIONS} connections")
    rate, cpu_ms = await at_once(operator, count, store)
    return Result(
        "j1", f"store, {CONNECTIONS} connections", count, {"requests": rate},
        figures={"operator CPU ms": cpu_ms, "peak RSS MiB": round(operator.peak_rss_mib, 1)},
    )  # fmt: skip


async def _batches(
    client: RestClient, operator: MeasuredOperator, count: int, namespace: str, uids: list[str]
) -> Result:
    say(f"    {count} records in batches of {_BATCH}")

    async def send(number: int) -> None:
        batch = [_body(namespace, number * _BATCH + place) for place in range(_BATCH)]
        answer = await client.post(batch, 207)
        if answer["failed"]:
            raise BenchmarkError(f"{answer['failed']} records of a batch were refused")
        uids.extend(item["record"]["uid"] for item in answer["items"])

    batches = max(1, count // _BATCH)
    rate, cpu_ms = await at_once(operator, batches, send)
    return Result(
        "j3", f"store, batches of {_BATCH}", batches * _BATCH, {"rows": round(rate * _BATCH, 1)},
        figures={"operator CPU ms": round(cpu_ms / _BATCH, 2)},
    )  # fmt: skip


async def _reads(
    client: RestClient,
    operator: MeasuredOperator,
    archive: Archive,
    count: int,
    namespace: str,
    uids: Sequence[str],
) -> list[Result]:
    async def get(number: int) -> None:
        await client.get(f"/query/remediation/{uids[number * 7 % len(uids)]}", namespace=namespace)

    async def list_(number: int) -> None:
        phase = ("Completed", "Failed")[number % 2]
        await client.get("/query/records", namespace=namespace, pageSize="50", phase=phase)

    async def search(number: int) -> None:
        question = f"why was the deployment restarted {number % 50}"
        await client.get("/query/semantic", namespace=namespace, q=question)

    await archive.analyze()
    say(f"    {count} records read over {CONNECTIONS} connections")
    rate, cpu_ms = await at_once(operator, count, get)
    return [
        Result("j4", "get", count, {"requests": rate}, figures={"operator CPU ms": cpu_ms}),
        await paced("j5", f"get, {PACE} requests/s", count, get),
        await paced("j6", "list of 50, 20 requests/s", count // 10, list_, pace=20),
        await paced("j7", "semantic, 20 requests/s", count // 10, search, pace=20),
    ]


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
