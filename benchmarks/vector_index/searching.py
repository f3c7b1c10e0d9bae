"""Searches: their statements, and how long they take and how much of the truth they find."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psutil

from benchmarks.vector_index.corpus import TOP, Corpus, Truth
from benchmarks.vector_index.results import Value
from benchmarks.vector_index.server import Server

EF_SEARCH: Final = (40, 100, 200)
_PAUSE_SECONDS: Final = 0.01

Arguments = Callable[[int], Sequence[Any]]
"""The statement's arguments after the query's vector, by the number of the query."""


@dataclass(frozen=True)
class Latency:
    """How long the answers took, and how long the server computed for one, whoever else had the processor."""

    p50_ms: float
    p95_ms: float
    cpu_ms: float | None = None

    def values(self) -> dict[str, Value]:
        """Return it for a table."""
        values: dict[str, Value] = {"p50 ms": self.p50_ms, "p95 ms": self.p95_ms}
        return values if self.cpu_ms is None else values | {"CPU ms": self.cpu_ms}


def part(table: str) -> str:
    """Return the statement that finds the nearest in one table: $1 is the query."""
    return f"SELECT key, embedding <=> $1 AS distance FROM {table} ORDER BY embedding <=> $1 LIMIT {TOP}"


def union(tables: Sequence[str]) -> str:
    """Return the statement that finds the nearest over several tables."""
    parts = " UNION ALL ".join(f"({part(table)})" for table in tables)
    return f"SELECT key, distance FROM ({parts}) AS found ORDER BY distance LIMIT {TOP}"


@asynccontextmanager
async def searcher(server: Server, **settings: str | int) -> AsyncIterator[Any]:
    """Open a connection as a search has it: without helpers, whose start costs more than they save."""
    async with server.connect(max_parallel_workers_per_gather=0, **settings) as connection:
        yield connection


def percentiles(seconds: Sequence[float]) -> Latency:
    """Return median and 95th percentile."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Latency(1000 * median(ordered), 1000 * p95)


async def measure(
    connection: Any,
    statement: str,
    corpus: Corpus,
    arguments: Arguments = lambda _: (),
    *,
    passes: int = 3,
    queries: int | None = None,
) -> tuple[Latency, list[list[bytes]]]:
    """Run the queries once to warm up, then some times; return the medians, and what was found."""
    prepared = await connection.prepare(statement)
    chosen = corpus.queries[:queries]
    found: list[list[bytes]] = []
    for number, query in enumerate(chosen):
        found.append([row["key"] for row in await prepared.fetch(query, *arguments(number))])
    latencies = []
    cpu = _cpu_seconds(connection)
    for _ in range(passes):
        seconds = []
        for number, query in enumerate(chosen):
            started = time.perf_counter()
            await prepared.fetch(query, *arguments(number))
            seconds.append(time.perf_counter() - started)
        latencies.append(percentiles(seconds))
    latency = Latency(
        median(latency.p50_ms for latency in latencies),
        median(latency.p95_ms for latency in latencies),
        1000 * (_cpu_seconds(connection) - cpu) / (passes * len(chosen)),
    )
    return latency, found


def _cpu_seconds(connection: Any) -> float:
    """Return what the server's process behind the connection has used so far."""
    return float(sum(psutil.Process(connection.get_server_pid()).cpu_times()[:2]))


async def measure_for(seconds: float, connection: Any, statement: str, corpus: Corpus) -> Latency:
    """Search for that long, one after the other with a short pause."""
    prepared = await connection.prepare(statement)
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        query = corpus.queries[len(taken) % len(corpus.queries)]
        started = time.perf_counter()
        await prepared.fetch(query)
        taken.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE_SECONDS)
    return percentiles(taken)


async def search_values(
    connection: Any, statement: str, corpus: Corpus, truth: Truth, arguments: Arguments = lambda _: ()
) -> dict[str, Value]:
    """Return latency and recall for a table."""
    latency, found = await measure(connection, statement, corpus, arguments)
    return latency.values() | {"recall@10": corpus.recall(truth, found)}
