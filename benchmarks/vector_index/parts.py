"""Measures an archive of many parts, each with an index that was built at once when the part was full."""

import asyncio
from statistics import median
from typing import Final

from benchmarks.vector_index.bench import RECENT, Bench
from benchmarks.vector_index.results import Value
from benchmarks.vector_index.searching import measure_for, search_values, searcher, union
from benchmarks.vector_index.writing import SteadyWriter, insert_unless_in, measure_writes

_ALL: Final = "all_parts"
# Of small graphs fewer candidates are enough, and each part costs them again.
_EF_SEARCH: Final = (10, 20, 40)
_MEMORY: Final = "256MB"


async def measure_parts(bench: Bench) -> None:
    """Measure for each size of a part."""
    for part_rows in bench.sizes.part_rows:
        await _measure(bench, part_rows)


async def _measure(bench: Bench, part_rows: int) -> None:
    await bench.create(RECENT)
    tables = await _build(bench, part_rows)
    steps = sorted({1, 2, 5, 10, 25, len(tables)} & set(range(1, len(tables) + 1)))
    for count in steps:
        truth = bench.corpus.truth(count * part_rows)
        for ef_search in _EF_SEARCH:
            if count != len(tables) and ef_search != _EF_SEARCH[1]:
                continue
            async with searcher(bench.server, hnsw__ef_search=ef_search) as connection:
                values = await search_values(connection, union(tables[:count]), bench.corpus, truth)
            bench.add("parts", f"{count} parts of {part_rows}, ef_search {ef_search}", values)
    at = await _write(bench, part_rows, len(tables) * part_rows)
    await _search_during_build(bench, tables, at)
    await bench.server.execute(f"DROP TABLE {_ALL} CASCADE", f"DROP TABLE {RECENT}")


async def _build(bench: Bench, part_rows: int) -> list[str]:
    await bench.create(_ALL)
    tables = [f"part_{number}" for number in range(bench.sizes.rows // part_rows)]
    total = {"seconds": 0.0, "CPU ms/row": 0.0, "WAL KB/row": 0.0, "HNSW MiB": 0.0}
    for number, table in enumerate(tables):
        await bench.create(table)
        await bench.server.execute(f"ALTER TABLE {table} INHERIT {_ALL}")
        await bench.server.fill(table, bench.corpus, number * part_rows, (number + 1) * part_rows)
        cost: dict[str, Value] = await bench.build(table, memory=_MEMORY)
        cost |= await bench.index_sizes(table)
        for name in total:
            total[name] += float(cost[name] or 0)
    mean: dict[str, Value] = {
        f"{name} of a part" if name in ("seconds", "HNSW MiB") else name: value / len(tables)
        for name, value in total.items()
    }
    bench.add("parts", f"build of {len(tables)} parts of {part_rows}, {_MEMORY}", mean)
    return tables


async def _write(bench: Bench, part_rows: int, at: int) -> int:
    """Write beside the parts: every part must be asked whether it has the text already."""
    rows = range(at, at + 5000)
    values = await measure_writes(
        bench.server, insert_unless_in(RECENT, _ALL), bench.corpus, rows, batch=500, writers=1
    )
    bench.add("parts", f"write beside parts of {part_rows}, 500 a batch", values)
    return rows.stop


async def _search_during_build(bench: Bench, tables: list[str], at: int) -> None:
    """Search and write while the youngest part gets its index."""
    sealed = tables[-1]
    await bench.server.execute(f"DROP INDEX {sealed}_hnsw", f"TRUNCATE {RECENT}")
    writer = SteadyWriter(bench.server, insert_unless_in(RECENT, _ALL), bench.corpus, at)
    taken = []
    async with searcher(bench.server, hnsw__ef_search=_EF_SEARCH[1]) as connection, writer.running():
        build = asyncio.create_task(bench.build(sealed, memory=_MEMORY))
        while not build.done():
            taken.append(await measure_for(1.0, connection, union([*tables, RECENT]), bench.corpus))
        cost = await build
    values: dict[str, Value] = {
        "p50 ms": median(latency.p50_ms for latency in taken),
        "p95 ms": max(latency.p95_ms for latency in taken),
        "seconds": cost["seconds"],
    }
    bench.add("parts", f"search with {len(tables)} parts while the last is built, 200 rows/s", values)
