"""The scenarios (a) to (e). Each starts with an empty cluster and database, and leaves the cluster empty."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from benchmarks.archives import Archive
from benchmarks.bench import Bench, cost_of
from benchmarks.client import Created, for_each
from benchmarks.errors import LossError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import Progress, say
from benchmarks.records import audit_record
from benchmarks.results import Result, latency_of

_CONCURRENCIES: Final = (8, 16, 32)
_TRIAL_OBJECTS: Final = 300
_LATENCY_RATE: Final = 50
_LATENCY_PATIENCE_SECONDS: Final = 60.0
_ROWS_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Limit:
    """The rates that the API server reaches with a bare client, in objects per second."""

    create: float
    status: float
    delete: float

    @property
    def drain(self) -> float:
        """Status write and deletion of each object, one after the other."""
        return 1 / (1 / self.status + 1 / self.delete)

    def mean(self, other: "Limit") -> "Limit":
        """Return the rates of both measurements together."""
        return Limit(
            2 / (1 / self.create + 1 / other.create),
            2 / (1 / self.status + 1 / other.status),
            2 / (1 / self.delete + 1 / other.delete),
        )


Concurrency = tuple[int, int, int]
"""How many creates, status writes and deletions are under way at once."""


async def find_concurrency(bench: Bench) -> Concurrency:
    """Return the numbers of requests at a time with which the bare client is fastest."""
    namespace = await bench.namespace("trial")
    trials = [
        (concurrency, await _bare_run(bench, namespace, _TRIAL_OBJECTS, (concurrency,) * 3))
        for concurrency in _CONCURRENCIES
    ]
    best = (
        max(trials, key=lambda trial: trial[1].create)[0],
        max(trials, key=lambda trial: trial[1].status)[0],
        max(trials, key=lambda trial: trial[1].delete)[0],
    )
    bench.create_concurrency = best[0]
    say(f"    best of {_CONCURRENCIES} at a time: create {best[0]}, status {best[1]}, delete {best[2]}")
    return best


async def measure_limit(bench: Bench, name: str, count: int, concurrency: Concurrency) -> Limit:
    """Measure (a): the bare client alone."""
    namespace = await bench.namespace(name)
    limit = await _bare_run(bench, namespace, count, concurrency)
    left = await bench.producer.count(namespace)
    if left:
        raise LossError(f"{left} objects are left that the bare client has deleted")
    return limit


def limit_result(limit: Limit, count: int) -> Result:
    """Return the result of (a)."""
    rates = {
        "create": limit.create, "status": limit.status, "delete": limit.delete, "drain": limit.drain,
    }  # fmt: skip
    return Result("a", "API server alone", count, _rounded(rates))


async def _bare_run(bench: Bench, namespace: str, count: int, concurrency: Concurrency) -> Limit:
    bodies = [audit_record(f"record-{number:06d}", number) for number in range(count)]

    async def timed(what: str, action: Any, items: Any, at_a_time: int) -> tuple[float, list[Any]]:
        started = time.monotonic()
        done = await for_each(items, action, concurrency=at_a_time, progress=Progress(what, count))
        return count / (time.monotonic() - started), done

    create, created = await timed(
        "created", lambda body: bench.producer.create(namespace, body), bodies, concurrency[0]
    )
    status, written = await timed(
        "status written", lambda each: bench.writer.write_stored(namespace, each), created, concurrency[1]
    )
    delete, _ = await timed(
        "deleted", lambda each: bench.writer.delete(namespace, each), written, concurrency[2]
    )
    return Limit(create, status, delete)


async def measure_drain(bench: Bench, count: int) -> Result:
    """Measure (b): waiting objects stored, their status written, and deleted a second later."""
    rate, cost = await _drain(bench, "drain", count, ttl_seconds=None)
    return Result("b", "drain: stored, status, deleted", count, {"drain": rate}, cost=cost)


async def measure_drain_at_once(bench: Bench, count: int) -> Result:
    """Measure (c): waiting objects that say ttl 0: stored and deleted, no status."""
    rate, cost = await _drain(bench, "drain-ttl0", count, ttl_seconds=0)
    return Result("c", "drain at ttl 0: stored, deleted", count, {"drain": rate}, cost=cost)


async def _drain(bench: Bench, name: str, count: int, *, ttl_seconds: int | None) -> tuple[float, Any]:
    namespace, archive = await bench.namespace(name), await bench.archives.archive()
    created = await bench.create(namespace, count, ttl_seconds=ttl_seconds)
    async with bench.metered() as meter, bench.operator(archive) as operator:
        say(f"    operator started, process {operator.pid}")
        ended = await bench.until_gone(namespace, count, operator)
        cost = cost_of(operator, count)
    await bench.verify(namespace, archive, created)
    return round(count / (ended - await archive.first_commit()), 1), cost(meter)


async def measure_latency(bench: Bench, seconds: int) -> Result:
    """Measure (d): from created to Stored, as a client sees it that creates at a fixed pace and watches."""
    count = _LATENCY_RATE * seconds
    namespace, archive = await bench.namespace("latency"), await bench.archives.archive()
    async with bench.metered() as meter, bench.operator(archive) as operator:
        await operator.until_ready()
        say(f"    operator ready, process {operator.pid}; creating {_LATENCY_RATE}/s for {seconds} s")
        created, latencies = await _pace_and_watch(bench, namespace, count)
        await bench.until_gone(namespace, count, operator)
        cost = cost_of(operator, count)
    await bench.verify(namespace, archive, created)
    return Result(
        "d", f"created to Stored at {_LATENCY_RATE}/s", count, {"create": float(_LATENCY_RATE)},
        cost=cost(meter), latency=latency_of(latencies),
    )  # fmt: skip


async def _pace_and_watch(bench: Bench, namespace: str, count: int) -> tuple[list[Created], list[float]]:
    answered: dict[str, float] = {}
    stored: dict[str, float] = {}
    opened, complete = asyncio.Event(), asyncio.Event()

    async def watch() -> None:
        async for body in bench.producer.watch(namespace, opened):
            if body.get("status", {}).get("phase") == "Stored":
                stored.setdefault(body["metadata"]["uid"], time.monotonic())
                if len(stored) == count:
                    complete.set()

    async def create(number: int) -> Created:
        created = await bench.producer.create(namespace, audit_record(f"record-{number:06d}", number))
        answered[created.uid] = time.monotonic()
        return created

    watching = asyncio.create_task(watch())
    await opened.wait()
    started, tasks = time.monotonic(), []
    for number in range(count):
        await asyncio.sleep(started + number / _LATENCY_RATE - time.monotonic())
        tasks.append(asyncio.create_task(create(number)))
    created = await asyncio.gather(*tasks)
    try:
        async with asyncio.timeout(_LATENCY_PATIENCE_SECONDS):
            await complete.wait()
    except TimeoutError:
        raise LossError(f"{count - len(stored)} of {count} objects were never seen Stored") from None
    finally:
        watching.cancel()
    # The event may overtake the answer.
    return created, [max(0.0, stored[uid] - answered[uid]) for uid in answered]


async def measure_backlog(bench: Bench, count: int) -> Result:
    """Measure (e): how fast rows of a large backlog commit and drain, and how much memory that takes."""
    namespace, archive = await bench.namespace("backlog"), await bench.archives.archive()
    created = await bench.create(namespace, count)
    async with bench.metered() as meter, bench.operator(archive) as operator:
        say(f"    operator started, process {operator.pid}")
        committed = asyncio.create_task(_until_committed(archive, count, operator))
        ended = await bench.until_gone(namespace, count, operator)
        all_rows = await committed
        cost = cost_of(operator, count)
        started = operator.started
    await bench.verify(namespace, archive, created)
    drain = count / (ended - await archive.first_commit())
    rates = _rounded({"rows": count / (all_rows - started), "drain": drain})
    return Result("e", "backlog waiting at the start", count, rates, cost=cost(meter))


async def _until_committed(archive: Archive, count: int, operator: MeasuredOperator) -> float:
    """Return when all rows were there (Unix seconds)."""
    progress = Progress("rows committed", count)
    connection = await asyncpg.connect(archive.owner_url)
    try:
        while True:
            rows, now = await archive.count_by(connection), time.time()
            if rows >= count:
                return now
            operator.check()
            progress.update(rows)
            await asyncio.sleep(_ROWS_POLL_SECONDS)
    finally:
        await connection.close()


def with_ratio(result: Result, limit: Limit) -> Result:
    """Return the result with its drain as a share of what the API server does for a bare client."""
    if "drain" not in result.rates or result.scenario == "a":
        return result
    bare = limit.delete if result.scenario == "c" else limit.drain
    return replace(result, ratio_to_limit=round(result.rates["drain"] / bare, 3))


def _rounded(rates: dict[str, float]) -> dict[str, float]:
    return {name: round(rate, 1) for name, rate in rates.items()}
