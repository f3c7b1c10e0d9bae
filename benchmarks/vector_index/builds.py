"""Measures builds by their memory, and other formats and graphs than the usual."""

from statistics import median
from typing import Final

from benchmarks.vector_index.bench import AMPLE_MEMORY, Bench
from benchmarks.vector_index.corpus import TOP
from benchmarks.vector_index.results import Value
from benchmarks.vector_index.searching import EF_SEARCH, measure, searcher
from benchmarks.vector_index.writing import measure_writes

_MEMORY: Final = ("64MB", "256MB", "1GB")
_TABLE: Final = "built"
_HALF: Final = "(embedding::halfvec({dimensions}))"
# Name, column, indexed expression with its operators, (m, ef_construction).
_FORMATS: Final = (
    ("vector, m 16/64", "vector", "embedding", "vector_cosine_ops", (16, 64)),
    ("vector, halfvec index, 16/64", "vector", _HALF, "halfvec_cosine_ops", (16, 64)),
    ("halfvec, m 16/64", "halfvec", "embedding", "halfvec_cosine_ops", (16, 64)),
    ("vector, m 16/32", "vector", "embedding", "vector_cosine_ops", (16, 32)),
    ("vector, m 12/40", "vector", "embedding", "vector_cosine_ops", (12, 40)),
    ("vector, m 8/32", "vector", "embedding", "vector_cosine_ops", (8, 32)),
)
_INSERTED: Final = 2000


async def measure_builds(bench: Bench) -> None:
    """Build the same index with different memory."""
    await bench.create(_TABLE)
    await bench.server.fill(_TABLE, bench.corpus, 0, bench.sizes.built)
    for memory in _MEMORY:
        for helpers in (0, 1):
            cost = await bench.build(_TABLE, memory=memory, helpers=helpers)
            bench.add("build", f"{bench.sizes.built} rows, {memory}, {helpers} helpers", cost)
            await bench.server.execute(f"DROP INDEX {_TABLE}_hnsw")
    await bench.server.execute(f"DROP TABLE {_TABLE}")


async def measure_formats(bench: Bench) -> None:
    """Compare 32 and 16 bits, and smaller graphs."""
    rows = min(bench.sizes.rows, 100_000)
    truth = bench.corpus.truth(rows)
    for name, column, indexed, operators, graph in _FORMATS:
        expression = indexed.format(dimensions=bench.dimensions)
        query = "$1::vector::" + ("halfvec" if "half" in operators else "vector")
        await bench.create(_TABLE)
        await bench.server.fill(_TABLE, bench.corpus, 0, rows)
        await bench.server.execute(
            f"ALTER TABLE {_TABLE} ALTER COLUMN embedding TYPE {column}({bench.dimensions})",
            f"VACUUM ANALYZE {_TABLE}",
        )
        values: dict[str, Value] = {}
        cost = await bench.build(
            _TABLE, memory=AMPLE_MEMORY, helpers=1, graph=graph, expression=f"{expression} {operators}"
        )
        values |= {"build CPU ms/row": cost["CPU ms/row"]} | await bench.index_sizes(_TABLE)
        order = f"{expression} <=> {query}"
        statement = f"SELECT key FROM {_TABLE} ORDER BY {order} LIMIT {TOP}"
        for ef_search in EF_SEARCH:
            async with searcher(bench.server, hnsw__ef_search=ef_search) as connection:
                latency, found = await measure(connection, statement, bench.corpus)
            values[f"p50 ms {ef_search}"] = latency.p50_ms
            values[f"recall {ef_search}"] = bench.corpus.recall(truth, found)
        inserted = await _insert(bench, column, rows)
        bench.add("format", name, values | {"insert CPU ms/row": inserted})
    await bench.server.execute(f"DROP TABLE {_TABLE}")


async def _insert(bench: Bench, column: str, start: int) -> float:
    statement = (
        f"INSERT INTO {_TABLE} SELECT key, embedding::{column} "
        "FROM unnest($1::bytea[], $2::vector[]) AS new (key, embedding) ON CONFLICT DO NOTHING"
    )
    costs = []
    for number in range(3):
        first = start + number * _INSERTED
        rows = range(first, first + _INSERTED)
        values = await measure_writes(bench.server, statement, bench.corpus, rows, batch=500, writers=1)
        costs.append(float(values["CPU ms/row"] or 0))
    return median(costs)
