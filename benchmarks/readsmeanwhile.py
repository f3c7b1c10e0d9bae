"""Measures what questions cost the records (l): the drain of waiting objects without and with reads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from benchmarks.bench import Bench
from benchmarks.progress import say
from benchmarks.restclient import RestClient, rest_client
from benchmarks.results import Result

_READS_A_SECOND: Final = 50
_DRAINS: Final = (False, True, True, False)
"""Whether each drain is one with reads. An API server gets slower with every object that it has had, so those
with reads come as early and as late as those without."""


async def measure_reads_meanwhile(bench: Bench, count: int) -> list[Result]:
    """Drain ``count`` objects, twice without reads and twice with them."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    peak, reads = 0.0, 0
    for number, with_reads in enumerate(_DRAINS):
        rate, rss, sent = await _drain(bench, f"reads-{number}", count, with_reads)
        rates[with_reads].append(rate)
        peak, reads = max(peak, rss), reads + sent
    means = {key: len(each) / sum(1 / rate for rate in each) for key, each in rates.items()}
    return [
        Result(
            "l", f"drain with {_READS_A_SECOND} reads/s", count, {"drain": round(means[True], 1)},
            figures={
                "of the drain without reads": round(means[True] / means[False], 3),
                "reads answered": float(reads), "peak RSS MiB": round(peak, 1),
            },
        )
    ]  # fmt: skip


async def _drain(bench: Bench, name: str, count: int, with_reads: bool) -> tuple[float, float, int]:  # noqa: FBT001
    namespace, archive = await bench.namespace(name), await bench.archives.archive()
    created = await bench.create(namespace, count)
    async with bench.operator(archive, NAMESPACES=namespace) as operator:
        if with_reads:
            async with rest_client(bench, operator) as client, _reading(client, namespace) as answered:
                ended = await bench.until_gone(namespace, count, operator)
            say(f"    {len(answered)} reads were answered meanwhile")
        else:
            answered = []
            ended = await bench.until_gone(namespace, count, operator)
        rss = operator.peak_rss_mib
    await bench.verify(namespace, archive, created)
    return count / (ended - await archive.first_commit()), rss, len(answered)


@asynccontextmanager
async def _reading(client: RestClient, namespace: str) -> AsyncIterator[list[int]]:
    """Ask for lists, records and searches until the context ends; each answer makes the list longer."""
    answered: list[int] = []
    known: list[str] = []

    async def ask(number: int) -> None:
        if number % 10 == 0:
            await client.get("/query/semantic", namespace=namespace, q="why was the deployment restarted?")
        elif number % 10 <= 3 or not known:
            page = await client.get("/query/records", namespace=namespace, pageSize="50")
            known.extend(item["uid"] for item in page["items"])
        else:
            await client.get(f"/query/records/{known[number % len(known)]}", namespace=namespace)
        answered.append(number)

    async def pace() -> None:
        async with asyncio.TaskGroup() as group:
            number = 0
            while True:
                group.create_task(ask(number))
                number += 1
                await asyncio.sleep(1 / _READS_A_SECOND)

    task = asyncio.create_task(pace())
    try:
        yield answered
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task  # raises if a read has failed
