"""What the sections share: sizes, tables, indexes."""

from dataclasses import dataclass
from typing import Final

from benchmarks.vector_index.corpus import Corpus
from benchmarks.vector_index.results import Results, Value, spent
from benchmarks.vector_index.server import Server

INDEXED: Final = "indexed"
RECENT: Final = "recent"
# A build that runs over its memory goes on many times slower: enough for a million rows of 256 dimensions.
AMPLE_MEMORY: Final = "3GB"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int
    """In the indexed table before anything is written."""
    rounds: int
    round_rows: int
    """Written in each round for each strategy; half of it at most in one case."""
    load_seconds: float
    recent: tuple[int, ...]
    """Sizes of the recent part at which searching it is measured."""
    part_rows: tuple[int, ...]
    built: int
    """Rows of the builds with different memory."""
    candidates: tuple[int, ...]


@dataclass(frozen=True)
class Bench:
    """The parts of a run for one size."""

    server: Server
    corpus: Corpus
    results: Results
    sizes: Sizes
    dimensions: int

    def add(self, section: str, case: str, values: dict[str, Value]) -> None:
        """Keep a measurement."""
        self.results.add(section, self.sizes.rows, case, values)

    async def create(self, table: str) -> None:
        """Make an empty table, in place of the one that may be there."""
        await self.server.execute(
            f"DROP TABLE IF EXISTS {table} CASCADE",
            f"CREATE TABLE {table} (key bytea PRIMARY KEY, embedding vector({self.dimensions}) NOT NULL)",
        )

    async def build(
        self,
        table: str,
        *,
        memory: str,
        helpers: int = 0,
        graph: tuple[int, int] = (16, 64),
        expression: str = "embedding vector_cosine_ops",
    ) -> dict[str, Value]:
        """Build the index of a table that has its rows; return the cost."""
        m, ef_construction = graph
        settings: dict[str, str | int] = {
            "maintenance_work_mem": memory,
            "max_parallel_maintenance_workers": helpers,
        }
        async with self.server.connect(**settings) as connection:
            rows = await connection.fetchval(f"SELECT count(*) FROM {table}")
            async with self.server.meter() as usage:
                await connection.execute(
                    f"CREATE INDEX {table}_hnsw ON {table} USING hnsw ({expression}) "
                    f"WITH (m = {m}, ef_construction = {ef_construction})"
                )
        return {"seconds": usage.seconds} | spent(usage, rows)

    async def index_sizes(self, table: str) -> dict[str, Value]:
        """Return the sizes of a table, its key's index, and its vectors' index."""
        return {
            "table MiB": await self.server.mebibytes(table),
            "key MiB": await self.server.mebibytes(f"{table}_pkey"),
            "HNSW MiB": await self.server.mebibytes(f"{table}_hnsw"),
        }
