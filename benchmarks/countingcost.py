"""Measures what the metrics cost (n): the CPU of drains with them and without them, in pairs."""

from pathlib import Path
from statistics import mean, median
from typing import Final

from benchmarks.bench import Bench
from benchmarks.progress import say
from benchmarks.results import Result

SHARE: Final = "metrics' share of the operator's CPU"
_PAIRS: Final = 5
_COUNTED: Final = ("-m", "datastorage")
_UNCOUNTED: Final = (str(Path(__file__).with_name("uncounted.py")),)


async def measure_counting_cost(bench: Bench, count: int) -> list[Result]:
    """Drain ``count`` objects in each of the pairs, with metrics and without.

    CPU times vary by some percent from run to run, so the share is the median of the pairs.
    """
    shares: list[float] = []
    counted: list[float] = []
    uncounted: list[float] = []
    for number in range(_PAIRS):
        # An API server gets slower with every object that it has had: each half comes first as often.
        for with_metrics in (True, False) if number % 2 == 0 else (False, True):
            cpu = await _drain(
                bench, f"counting-{number}-{with_metrics}".lower(), count, with_metrics=with_metrics
            )
            (counted if with_metrics else uncounted).append(cpu)
        shares.append(1 - uncounted[-1] / counted[-1])
        say(f"    {counted[-1]:.3f} ms of CPU per object with metrics, {uncounted[-1]:.3f} without")
    return [
        Result(
            "n", "drain with and without metrics", count, {},
            figures={
                SHARE: round(median(shares), 4),
                "ms per object with metrics": round(mean(counted), 3),
                "without": round(mean(uncounted), 3),
                "lowest share of a pair": round(min(shares), 4),
                "highest": round(max(shares), 4),
            },
        )
    ]  # fmt: skip


async def _drain(bench: Bench, name: str, count: int, *, with_metrics: bool) -> float:
    namespace, archive = await bench.namespace(name), await bench.archives.archive()
    created = await bench.create(namespace, count)
    program = _COUNTED if with_metrics else _UNCOUNTED
    async with bench.operator(archive, program, NAMESPACES=namespace) as operator:
        await bench.until_gone(namespace, count, operator)
        cpu = 1000 * operator.cpu_seconds / count
    await bench.verify(namespace, archive, created)
    return cpu
