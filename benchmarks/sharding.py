"""Measures what shards cost and bring (m): the same drain by three replicas with one shard and with three."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import say
from benchmarks.results import Result
from datastorage.runtime.runningshard import Pace as RunningPace
from harness.installed import NAMESPACE
from harness.leases import are_shared_evenly, changed_hands
from harness.polling import until

_REPLICAS: Final = 3
_DRAINS: Final = (1, _REPLICAS, _REPLICAS, 1)
"""The number of shards of each drain. An API server gets slower with every object that it has had."""
_SHARED_SECONDS: Final = 60.0
_FEWER: Final = "measure fewer objects, or on a quiet machine: the pause is shorter then"


@dataclass(frozen=True)
class _Drain:
    rate: float
    """Objects per second."""
    busiest_cpu_ms: float
    """CPU time of the replica that used most, in milliseconds for each of all objects."""
    all_cpu_ms: float
    peak_rss_mib: float


async def measure_sharding(bench: Bench, count: int) -> list[Result]:
    """Drain ``count`` objects with one shard and with three, twice each."""
    drains: dict[int, list[_Drain]] = {1: [], _REPLICAS: []}
    for number, shards in enumerate(_DRAINS):
        drains[shards].append(await _drain(bench, f"shards-{number}", count, shards))
    rate = {shards: len(each) / sum(1 / drain.rate for drain in each) for shards, each in drains.items()}
    busiest = {shards: sum(drain.busiest_cpu_ms for drain in each) for shards, each in drains.items()}
    total = {shards: sum(drain.all_cpu_ms for drain in each) / len(each) for shards, each in drains.items()}
    return [
        Result(
            "m", f"drain, {_REPLICAS} replicas, {_REPLICAS} shards", count,
            {"drain": round(rate[_REPLICAS], 1)},
            figures={
                "of the drain with one shard": round(rate[_REPLICAS] / rate[1], 3),
                "CPU of the busiest replica, of one shard's": round(busiest[_REPLICAS] / busiest[1], 3),
                "CPU ms per object, all replicas": round(total[_REPLICAS], 2),
                "the same with one shard": round(total[1], 2),
                "peak RSS MiB": round(max(d.peak_rss_mib for each in drains.values() for d in each), 1),
            },
        )
    ]  # fmt: skip


async def _drain(bench: Bench, name: str, count: int, shards: int) -> _Drain:
    say(f"    {_REPLICAS} replicas, {shards} shards")
    namespace, archive = await bench.namespace(name), await bench.archives.archive()
    async with AsyncExitStack() as stack:
        operators = [
            await stack.enter_async_context(
                bench.operator(archive, NAMESPACES=namespace, LEASE_NAMESPACE=NAMESPACE, SHARDS=shards)
            )
            for _ in range(_REPLICAS)
        ]
        for operator in operators:
            await operator.until_ready()
        held = await _shared(operators, shards)
        # Whoever has just handed a Lease over still takes in last copies of what the new holder stores.
        await asyncio.sleep(RunningPace().linger_seconds)
        # The objects wait for all replicas at the same time; the pause is shorter than the Leases.
        for operator in operators:
            operator.pause()
        try:
            created = await bench.create(namespace, count)
        finally:
            for operator in operators:
                operator.resume()
        before = [operator.cpu_seconds for operator in operators]
        ended = await bench.until_gone(namespace, count, operators[0])
        used = [operator.cpu_seconds - at_first for operator, at_first in zip(operators, before, strict=True)]
        if moved := changed_hands(held, [operator.held_leases for operator in operators]):
            leases = ", ".join(sorted(moved))
            raise BenchmarkError(f"{leases} changed hands; {_FEWER}")
        # A replica that saw no renewal for too long may have taken a Lease, and have handed it back since.
        if (committed := sum(operator.committed for operator in operators)) > count:
            raise BenchmarkError(f"{committed - count} objects were processed by two replicas; {_FEWER}")
        rss = max(operator.peak_rss_mib for operator in operators)
    await bench.verify(namespace, archive, created)
    seconds = ended - await archive.first_commit()
    return _Drain(count / seconds, 1000 * max(used) / count, 1000 * sum(used) / count, rss)


async def _shared(operators: list[MeasuredOperator], shards: int) -> list[set[str]]:
    """Wait until the operators share the Leases evenly; return those of each."""

    async def shared() -> list[set[str]] | None:
        held = [operator.held_leases for operator in operators]
        return held if are_shared_evenly(held, shards) else None

    return await until(shared, seconds=_SHARED_SECONDS, what=f"the replicas share {shards} Leases")
