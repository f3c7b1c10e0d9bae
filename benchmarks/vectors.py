"""Measures what vectors cost the write path, with all that they need and with some of it away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import search_speed
from benchmarks.archives import Archive
from benchmarks.bench import Bench, cost_of
from benchmarks.client import Created
from benchmarks.errors import LossError
from benchmarks.progress import say
from benchmarks.records import audit_record
from benchmarks.results import Result
from harness.archive import fetch
from harness.embeddings import OpenAIService, hashed_vector
from harness.postgres import PostgresServer, TestDatabases
from harness.redis import RedisServer

_LOAD_RATE: Final = 50
_LEAD_SECONDS: Final = 5
_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_TENTH: Final = 10
_DIMENSIONS: Final = 256
_WITHOUT_VECTOR: Final = """
    SELECT count(*) FROM unnest($1::bytea[]) AS t (text_hash)
    WHERE NOT EXISTS (SELECT FROM datastorage.embeddings_1 e WHERE e.text_hash = t.text_hash)
"""
_HASHES: Final = "SELECT DISTINCT text_hash FROM datastorage.audit_records WHERE text_hash IS NOT NULL"
_PENDING: Final = "SELECT count(*) FROM datastorage.vector_outbox"

Switch = Callable[[], Awaitable[None]]


async def measure_drains(bench: Bench, count: int) -> list[Result]:
    """Measure (f): the drain without vectors, with a tenth of the texts distinct, and with all of them.

    The drain without vectors is measured before and after the others; both count.
    """
    with RedisServer() as redis:
        every = {"EMBEDDING_PROVIDER": "wordllama", "REDIS_URL": redis.url}
        none = {"EMBEDDING_PROVIDER": "none"}
        before = await _drain(bench, "f", "none-before", count, texts=count, settings=none)
        some = await _drain(bench, "f10", "tenth", count, texts=count // _TENTH, settings=every)
        all_texts = await _drain(bench, "f100", "all", count, texts=count, settings=every)
        after = await _drain(bench, "f", "none-after", count, texts=count, settings=none)
    rate = 2 / (1 / before.rates["drain"] + 1 / after.rates["drain"])
    return [
        _retitled(before, "drain without vectors", {"drain": round(rate, 1)}),
        _retitled(some, "drain, a tenth of the texts distinct", some.rates, rate),
        _retitled(all_texts, "drain, all texts distinct", all_texts.rates, rate),
    ]


async def measure_drains_degraded(bench: Bench, count: int) -> list[Result]:
    """Measure (g): the drain with an embedder over HTTP and Redis, and with the one or the other away."""
    results: list[Result] = []
    async with _embedder() as embedder:
        with RedisServer() as redis:
            settings = embedder.settings(REDIS_URL=redis.url)
            normal = await _drain(bench, "g", "normal", count, texts=count, settings=settings)
            results.append(_retitled(normal, "drain, embedder over HTTP", normal.rates))
            redis.pause()
            result = await _drain(bench, "g-redis", "redis-away", count, texts=count, settings=settings)
            results.append(
                _retitled(result, "drain, Redis does not answer", result.rates, normal.rates["drain"])
            )
            redis.resume()
            embedder.is_away = True
            result = await _drain(
                bench,
                "g-embedder",
                "embedder-away",
                count,
                texts=count,
                settings=settings,
                pending=True,
            )
            results.append(_retitled(result, "drain, embedder away", result.rates, normal.rates["drain"]))
    return results


@asynccontextmanager
async def _embedder() -> AsyncIterator[OpenAIService]:
    """Run an embedding service that costs next to nothing: the operator is measured, not the model."""
    service = OpenAIService(_DIMENSIONS, vector=hashed_vector)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def _retitled(result: Result, title: str, rates: dict[str, float], reference: float | None = None) -> Result:
    figures = {"ratio": round(rates["drain"] / reference, 3)} if reference is not None else {}
    return Result(result.scenario, title, result.objects, rates, cost=result.cost, figures=figures)


async def _drain(
    bench: Bench,
    scenario: str,
    name: str,
    count: int,
    *,
    texts: int,
    settings: Mapping[str, Any],
    pending: bool = False,
) -> Result:
    say(f"    {name}")
    namespace, archive = await bench.namespace(f"f-{name}"), await bench.archives.archive()
    created = await bench.create(namespace, count, texts=texts)
    async with bench.metered() as meter, bench.operator(archive, **settings) as operator:
        ended = await bench.until_gone(namespace, count, operator)
        cost = cost_of(operator, count)
    await bench.verify(namespace, archive, created)
    if not pending:
        await _verify_vectors(archive, archive.owner_url)
    rate = round(count / (ended - await archive.first_commit()), 1)
    return Result(scenario, name, count, {"drain": rate}, cost=cost(meter))


@dataclass(frozen=True)
class Outage:
    """Something that goes away for a while under load, and comes back."""

    name: str
    begin: Switch
    end: Switch


async def measure_outages(bench: Bench, seconds: int) -> list[Result]:
    """Measure (h): the time after an outage until all objects are Stored again. Nothing may be lost."""
    with RedisServer() as redis, PostgresServer() as server:
        databases = TestDatabases(server.owner_url)
        await asyncio.to_thread(databases.prepare)
        async with _embedder() as embedder:
            results = []
            for outage in _outages(embedder, redis, server):
                vectors = await databases.clone()
                settings = embedder.settings(
                    REDIS_URL=redis.url, VECTOR_DATABASE_URL=vectors.service_url,
                    TTL_SECONDS_AFTER_STORED=3600,
                )  # fmt: skip
                results.append(await _outage(bench, settings, vectors.owner_url, outage, seconds))
            return results


def _outages(embedder: OpenAIService, redis: RedisServer, server: PostgresServer) -> list[Outage]:
    async def redis_goes() -> None:
        redis.stop()

    async def redis_comes() -> None:
        await asyncio.to_thread(redis.start)

    async def embedder_goes() -> None:
        embedder.is_away = True

    async def embedder_comes() -> None:
        embedder.is_away = False

    async def server_goes() -> None:
        await asyncio.to_thread(server.stop, "immediate")

    async def server_comes() -> None:
        await asyncio.to_thread(server.start)

    async def both_go() -> None:
        await embedder_goes()
        await server_goes()

    async def both_come() -> None:
        await server_comes()
        await embedder_comes()

    return [
        Outage("Redis", redis_goes, redis_comes),
        Outage("embedder", embedder_goes, embedder_comes),
        Outage("vector server", server_goes, server_comes),
        Outage("embedder and vector server", both_go, both_come),
    ]


async def _outage(
    bench: Bench, settings: Mapping[str, Any], vectors_url: str, outage: Outage, seconds: int
) -> Result:
    say(f"    {outage.name} away for {seconds} s")
    name = outage.name.lower().replace(" ", "-")
    namespace, archive = await bench.namespace(f"h-{name}"), await bench.archives.archive()
    # The operator serves only its own namespace. Objects of earlier outages are still in the cluster, and
    # this archive does not have their rows, so that they would be stored again.
    async with bench.operator(archive, NAMESPACES=namespace, **settings) as operator:
        await operator.until_ready()
        stop = asyncio.Event()
        created: list[Created] = []
        load = asyncio.create_task(_load(bench, namespace, stop, created))
        await asyncio.sleep(_LEAD_SECONDS)
        await outage.begin()
        before = await archive.count()
        await asyncio.sleep(seconds)
        during = await archive.count() - before
        await outage.end()
        back = time.monotonic()
        stop.set()
        await load
        await _until_stored(bench, namespace, len(created))
        caught_up = time.monotonic() - back
    await archive.verify({each.uid for each in created})
    await _verify_vectors(archive, vectors_url)
    rate = during / seconds
    figures = {"caught up after, s": round(caught_up, 1), "of the load": round(rate / _LOAD_RATE, 2)}
    title = f"{outage.name} away for {seconds} s"
    return Result(f"h-{name}", title, len(created), {"rows": round(rate, 1)}, figures=figures)


async def _load(bench: Bench, namespace: str, stop: asyncio.Event, created: list[Created]) -> None:
    started, number = time.monotonic(), 0
    while not stop.is_set():
        await asyncio.sleep(started + number / _LOAD_RATE - time.monotonic())
        body = audit_record(f"record-{number:06d}", number, texts=1_000_000)
        created.append(await bench.producer.create(namespace, body))
        number += 1


async def _until_stored(bench: Bench, namespace: str, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (stored := await bench.producer.count(namespace, phase="Stored")) < count:
        if time.monotonic() > deadline:
            raise LossError(
                f"{count - stored} of {count} objects are not Stored {_PATIENCE_SECONDS:.0f} s later"
            )
        await asyncio.sleep(_POLL_SECONDS)


async def measure_search(bench: Bench, texts: int) -> list[Result]:
    """Measure (i): how fast and how complete searches of distinct texts are, compared with pgvector alone."""
    archive = await bench.archives.archive()
    lines = await search_speed.measure(archive.owner_url, archive.service_url, texts=texts)
    return [_searched(number, line) for number, line in enumerate(lines)]


def _searched(number: int, line: search_speed.SearchSpeed) -> Result:
    figures = {"p50 ms": round(line.p50_ms, 1), "p95 ms": round(line.p95_ms, 1)}
    if line.recall is not None:
        figures["recall@10"] = round(line.recall, 3)
    if line.ratio is not None:
        figures["times pgvector alone"] = round(line.ratio, 2)
    return Result(f"i{number}", line.case, line.records, {}, figures=figures)


async def _verify_vectors(archive: Archive, vectors_url: str) -> None:
    """Raise LossError unless every record that has words has its vector, and none is pending."""
    hashes = [row["text_hash"] for row in await fetch(archive.owner_url, _HASHES)]
    pending = (await fetch(archive.owner_url, _PENDING))[0][0]
    missing = (await fetch(vectors_url, _WITHOUT_VECTOR, hashes))[0][0] if hashes else 0
    if pending or missing:
        raise LossError(f"{missing} of {len(hashes)} texts have no vector, {pending} are pending")
