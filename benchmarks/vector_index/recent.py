"""Compares writing into the index with writing beside it: incremental, and a recent part with a mover."""

from statistics import median
from typing import Any, Final

from benchmarks.vector_index.bench import AMPLE_MEMORY, INDEXED, RECENT, Bench
from benchmarks.vector_index.corpus import Truth
from benchmarks.vector_index.results import Value
from benchmarks.vector_index.searching import (
    EF_SEARCH,
    measure,
    measure_for,
    part,
    search_values,
    searcher,
    union,
)
from benchmarks.vector_index.writing import (
    SteadyWriter,
    insert,
    insert_unless_in,
    measure_moves,
    measure_writes,
    move,
)  # fmt: skip

_MOVED_AT_ONCE: Final = (50, 100, 500)
# Batch, writers, share of a round's rows.
_WRITES: Final = ((500, 1, 0.5), (20, 1, 0.1), (500, 2, 0.4))
_EF_SEARCH_UNDER_LOAD: Final = 200
_INSERT_RECENT: Final = insert_unless_in(RECENT, INDEXED)
_MOVE: Final = move(RECENT, INDEXED)


async def prepare(bench: Bench) -> None:
    """Make the indexed table with its rows, and the empty recent one."""
    await bench.create(INDEXED)
    await bench.create(RECENT)
    await bench.server.fill(INDEXED, bench.corpus, 0, bench.sizes.rows)
    cost = await bench.build(INDEXED, memory=AMPLE_MEMORY, helpers=1)
    bench.add("build", f"all rows, {AMPLE_MEMORY}, 1 helper", cost | await bench.index_sizes(INDEXED))
    await bench.server.execute("CHECKPOINT")


async def measure_search(bench: Bench) -> None:
    """Search the index alone, and exactly."""
    truth = bench.corpus.truth(bench.sizes.rows)
    for ef_search in EF_SEARCH:
        async with searcher(bench.server, hnsw__ef_search=ef_search) as connection:
            values = await search_values(connection, part(INDEXED), bench.corpus, truth)
        bench.add("search", f"one index, ef_search {ef_search}", values)
    async with searcher(bench.server, enable_indexscan="off") as connection:
        values = await _exact(connection, bench, truth)
    bench.add("search", "exact over the whole table", values)


async def _exact(connection: Any, bench: Bench, truth: Truth) -> dict[str, Value]:
    latency, found = await measure(connection, part(INDEXED), bench.corpus, passes=1, queries=40)
    return latency.values() | {"recall@10": bench.corpus.recall(truth, found)}


async def measure_recent_scans(bench: Bench, start: int) -> None:
    """Search a recent part of growing size, alone and beside the index."""
    await bench.server.execute(f"TRUNCATE {RECENT}")
    at = start
    for size in bench.sizes.recent:
        await bench.server.fill(RECENT, bench.corpus, at, start + size)
        at = start + size
        async with searcher(bench.server, hnsw__ef_search=_EF_SEARCH_UNDER_LOAD) as connection:
            alone, _ = await measure(connection, part(RECENT), bench.corpus)
            both, _ = await measure(connection, union([INDEXED, RECENT]), bench.corpus)
        bench.add(
            "recent part", f"{size} rows", {
                "exact p50 ms": alone.p50_ms, "exact p95 ms": alone.p95_ms, "exact CPU ms": alone.cpu_ms,
                "both p50 ms": both.p50_ms, "both p95 ms": both.p95_ms, "both CPU ms": both.cpu_ms,
            },
        )  # fmt: skip
    await bench.server.execute(f"DELETE FROM {RECENT}")
    async with searcher(bench.server) as connection:
        latency, _ = await measure(connection, part(RECENT), bench.corpus)
    bench.add(
        "recent part", "all deleted, no vacuum yet",
        {"exact p50 ms": latency.p50_ms, "exact p95 ms": latency.p95_ms},
    )  # fmt: skip
    await bench.server.execute(f"TRUNCATE {RECENT}")


async def measure_all_writes(bench: Bench, start: int) -> int:
    """Write by both strategies in turn; return the place of the first row that is left."""
    cases: dict[str, list[dict[str, Value]]] = {}
    at = start
    for number in range(bench.sizes.rounds):
        for batch, writers, share in _WRITES:
            rows = max(batch, int(bench.sizes.round_rows * share) // batch * batch)
            for name, statement in (("into the index", insert(INDEXED)), ("into recent", _INSERT_RECENT)):
                values = await measure_writes(
                    bench.server, statement, bench.corpus, range(at, at + rows), batch=batch, writers=writers
                )
                cases.setdefault(f"{name}, {batch} a batch, {writers} writers", []).append(values)
                at += rows
        batch = _MOVED_AT_ONCE[number % len(_MOVED_AT_ONCE)]
        moved = int(await _count_recent(bench))
        bench.add(
            "background", f"move to the index, {batch} at a time",
            await measure_moves(bench.server, _MOVE, moved, batch),
        )  # fmt: skip
    for name, several in cases.items():
        bench.add("writes", name, _medians(several))
    bench.add("writes", "sizes afterwards", await bench.index_sizes(INDEXED))
    return at


async def _count_recent(bench: Bench) -> int:
    async with bench.server.connect() as connection:
        return int(await connection.fetchval(f"SELECT count(*) FROM {RECENT}"))


async def measure_under_load(bench: Bench, start: int) -> int:
    """Search while rows come in steadily; return the place of the first row that is left."""
    at = start
    cases = (
        ("no writes", None, None, part(INDEXED)),
        ("into the index", insert(INDEXED), None, part(INDEXED)),
        ("into recent, moved", _INSERT_RECENT, _MOVE, union([INDEXED, RECENT])),
        ("into recent, not moved", _INSERT_RECENT, None, union([INDEXED, RECENT])),
    )
    for _ in range(2):  # a machine has slower and faster minutes
        for name, write, moves, search in cases:
            values, at = await _search_while_writing(bench, at, write, moves, search)
            bench.add("search under 200 rows/s", name, values)
    return at


async def _search_while_writing(
    bench: Bench, at: int, write: str | None, moves: str | None, search: str
) -> tuple[dict[str, Value], int]:
    seconds = bench.sizes.load_seconds
    async with searcher(bench.server, hnsw__ef_search=_EF_SEARCH_UNDER_LOAD) as connection:
        if write is None:
            return (await measure_for(seconds, connection, search, bench.corpus)).values(), at
        writer = SteadyWriter(bench.server, write, bench.corpus, at)
        async with bench.server.meter() as usage, writer.running(moves):
            latency = await measure_for(seconds, connection, search, bench.corpus)
    written = _latency_of_writes(writer)
    return latency.values() | written | {"others": usage.others}, writer.written + 20


def _latency_of_writes(writer: SteadyWriter) -> dict[str, Value]:
    ordered = sorted(writer.seconds)
    return {
        "batches of 20": len(ordered),
        "write p50 ms": 1000 * median(ordered),
        "write p95 ms": 1000 * ordered[int(0.95 * len(ordered))],
    }


def _medians(several: list[dict[str, Value]]) -> dict[str, Value]:
    return {name: median(float(values[name] or 0) for values in several) for name in several[0]}
