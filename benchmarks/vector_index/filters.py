"""Compares the ways of searching under a filter: walk the index until enough pass, or compute them all."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.vector_index.bench import INDEXED, Bench
from benchmarks.vector_index.corpus import TOP, Truth
from benchmarks.vector_index.results import Value
from benchmarks.vector_index.searching import Arguments, measure, searcher

_RECORDS: Final = "records"
# Order, tuples at most (20,000 is the extension's default), ef_search, rows taken to choose the best of.
_WALKS: Final = (
    ("strict_order", 20_000, 100, TOP),
    ("relaxed_order", 20_000, 100, TOP),
    ("relaxed_order", 20_000, 200, TOP),
    ("relaxed_order", 20_000, 200, 4 * TOP),
    ("relaxed_order", 100_000, 200, 4 * TOP),
)
# A walk may take seconds.
_QUERIES: Final = 25
# The planner is not the question here, the ways are.
_WALK: Final[dict[str, str | int]] = {
    "enable_seqscan": "off", "enable_sort": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
}  # fmt: skip
# "+ 0" makes it sort: a relaxed walk comes out of order, which PostgreSQL does not know.
_WALKING: Final = f"""
WITH near AS MATERIALIZED (
    SELECT key, embedding <=> $1 AS distance FROM {INDEXED} AS e
    WHERE EXISTS (SELECT FROM {_RECORDS} AS r WHERE r.key = e.key AND r.rank < $2)
    ORDER BY embedding <=> $1 LIMIT {{taken}}
)
SELECT key FROM near ORDER BY distance + 0 LIMIT {TOP}"""
# "+ 0" keeps the index of the vectors out: no index knows this expression.
_BY_ARRAY: Final = f"""
SELECT key FROM {INDEXED} WHERE key = ANY ($2::bytea[]) ORDER BY (embedding <=> $1) + 0 LIMIT {TOP}"""
_BY_JOIN: Final = f"""
SELECT e.key FROM unnest($2::bytea[]) AS wanted (key) JOIN {INDEXED} AS e USING (key)
ORDER BY (e.embedding <=> $1) + 0 LIMIT {TOP}"""
_BY_SUBQUERY: Final = f"""
WITH wanted AS MATERIALIZED (SELECT DISTINCT key FROM {_RECORDS} WHERE rank < $2)
SELECT e.key FROM wanted JOIN {INDEXED} AS e USING (key)
ORDER BY (e.embedding <=> $1) + 0 LIMIT {TOP}"""
_PLANNER: Final = f"""
SELECT e.key FROM {INDEXED} AS e JOIN {_RECORDS} AS r USING (key) WHERE r.rank < $2
ORDER BY e.embedding <=> $1 LIMIT {TOP}"""


async def measure_filters(bench: Bench) -> None:
    """Measure for each number of rows that the filter leaves."""
    order = np.random.default_rng(3).permutation(bench.sizes.rows)
    await _fill_records(bench, order)
    for count in bench.sizes.candidates:
        if count < bench.sizes.rows:
            await _measure(bench, count, order[:count])
    await bench.server.execute(f"DROP TABLE {_RECORDS}")


async def _fill_records(bench: Bench, order: NDArray[np.int64]) -> None:
    """Make one record for each vector, with a column to filter by that has nothing to do with its meaning."""
    await bench.server.execute(
        f"DROP TABLE IF EXISTS {_RECORDS}", f"CREATE TABLE {_RECORDS} (key bytea NOT NULL, rank int NOT NULL)"
    )
    async with bench.server.connect() as connection:
        records = ((bench.corpus.keys[place], rank) for rank, place in enumerate(order.tolist()))
        await connection.copy_records_to_table(_RECORDS, records=records)
    await bench.server.execute(
        f"CREATE INDEX ON {_RECORDS} (key)",
        f"CREATE INDEX ON {_RECORDS} (rank)",
        f"VACUUM ANALYZE {_RECORDS}",
    )


async def _measure(bench: Bench, count: int, places: NDArray[np.int64]) -> None:
    truth = bench.corpus.truth_of(places)
    keys = [bench.corpus.keys[place] for place in places.tolist()]

    def all_keys(_: int) -> Sequence[Any]:
        return (keys,)

    def rank(_: int) -> Sequence[Any]:
        return (count,)

    async with searcher(bench.server) as connection:
        for name, statement, arguments in (
            ("exact, key = ANY", _BY_ARRAY, all_keys),
            ("exact, join unnest", _BY_JOIN, all_keys),
            ("exact, join subquery", _BY_SUBQUERY, rank),
        ):
            await _add(bench, connection, truth, f"{count} left: {name}", statement, arguments)
    for way, tuples, ef_search, taken in _WALKS:
        name = f"{count} left: {way}, {tuples} tuples, ef_search {ef_search}, best of {taken}"
        async with searcher(bench.server, **_iterative(way, tuples, ef_search), **_WALK) as connection:
            await _add(bench, connection, truth, name, _WALKING.format(taken=taken), rank)
    async with searcher(bench.server, **_iterative("relaxed_order", 20_000, 200)) as connection:
        await _add(bench, connection, truth, f"{count} left: the planner's choice", _PLANNER, rank)


def _iterative(way: str, tuples: int, ef_search: int) -> dict[str, str | int]:
    return {
        "hnsw__iterative_scan": way,
        "hnsw__max_scan_tuples": tuples,
        "hnsw__ef_search": ef_search,
        # A walk that has used its memory ends before its tuples.
        "hnsw__scan_mem_multiplier": 1 if tuples <= 20_000 else 16,
    }


async def _add(
    bench: Bench, connection: Any, truth: Truth, case: str, statement: str, arguments: Arguments
) -> None:
    latency, found = await measure(connection, statement, bench.corpus, arguments, passes=1, queries=_QUERIES)
    values: dict[str, Value] = latency.values() | {"recall@10": bench.corpus.recall(truth, found)}
    bench.add("filter", case, values)
