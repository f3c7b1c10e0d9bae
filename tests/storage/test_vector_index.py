"""Indexing: partitions are sealed, indexed and merged during searches and writes, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from datastorage.errors import TransientError
from datastorage.storage.connection.database import Database
from datastorage.storage.schema import VECTORS
from datastorage.storage.vectors import VectorTables
from harness.polling import eventually
from harness.postgres import TestDatabase, connect
from tests.storage.test_vectors import hash_of, some_vectors, tables_of

ROWS: Final = 10
_WAITING: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1
"""
_INDEXES: Final = """
    SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'datastorage' AND indexdef LIKE '%hnsw%'
"""
_INDEXING: Final = "%index_embeddings%"


@pytest.fixture
def vectors(database: Database) -> VectorTables:
    return tables_of(database)


async def step(vectors: VectorTables, *, memory_mib: int = 64, grace_seconds: float = 0) -> bool:
    return await vectors.index(
        memory_mib=memory_mib, full_rows=ROWS, grace_seconds=grace_seconds, merged_partitions=2
    )


async def index_all(vectors: VectorTables) -> None:
    while await step(vectors):
        pass


async def fill(vectors: VectorTables, parts: int, *, start: int = 0) -> None:
    """Write this many full partitions."""
    for part in range(start, start + parts):
        await vectors.insert(some_vectors(range(part * ROWS, (part + 1) * ROWS)))
        assert await vectors.seal(full_rows=ROWS)


async def parts_of(owner: Any) -> list[tuple[str, int, int]]:
    rows = await owner.fetch(
        "SELECT state, level, row_count FROM datastorage.embedding_parts ORDER BY state, level, part"
    )
    return [tuple(row) for row in rows]


async def hashes_of(owner: Any) -> list[bytes]:
    rows = await owner.fetch("SELECT text_hash FROM datastorage.embeddings_1 ORDER BY text_hash")
    return [row["text_hash"] for row in rows]


def all_of(numbers: range) -> list[bytes]:
    return sorted(map(hash_of, numbers))


async def waits(owner: Any, query: str) -> None:
    async def waiting() -> bool:
        return bool(await owner.fetchval(_WAITING, query))

    await eventually(waiting)


@asynccontextmanager
async def held(database: TestDatabase, lock: str) -> AsyncIterator[None]:
    """Hold a lock in another session."""
    holder = await connect(database.owner_url)
    await holder.execute(f"BEGIN; LOCK TABLE datastorage.{lock}")
    try:
        yield
    finally:
        await holder.close()


async def hurry(owner: Any) -> None:
    """Shorten the waits of the swap of tables before it gives way and tries again."""
    definition = await owner.fetchval(
        "SELECT pg_get_functiondef('datastorage.drop_embedding_parts'::regproc)"
    )
    for long, short in (("'2s'", "'100ms'"), ("pg_sleep(5)", "pg_sleep(0.05)")):
        assert long in definition
        definition = definition.replace(long, short)
    await owner.execute(definition)


async def test_a_part_that_is_not_full_stays_open(vectors: VectorTables, owner: Any) -> None:
    await vectors.insert(some_vectors(range(ROWS - 1)))
    assert not await step(vectors)
    assert await parts_of(owner) == [("open", 0, 0)]


@pytest.mark.oldest_postgres
async def test_a_full_part_is_sealed_and_another_one_opened(vectors: VectorTables, owner: Any) -> None:
    await vectors.insert(some_vectors(range(ROWS)))
    assert await vectors.seal(full_rows=ROWS)
    assert not await vectors.seal(full_rows=ROWS)
    await vectors.insert(some_vectors(range(ROWS, ROWS + 2)))
    counts = await owner.fetch(
        "SELECT part, count(*) AS n FROM datastorage.embeddings_1 GROUP BY 1 ORDER BY 1"
    )
    assert [row["n"] for row in counts] == [ROWS, 2]
    assert await parts_of(owner) == [("open", 0, 0), ("sealed", 0, ROWS)]


@pytest.mark.oldest_postgres
async def test_a_sealed_part_gets_its_index_after_the_grace(vectors: VectorTables, owner: Any) -> None:
    await fill(vectors, 1)
    assert not await step(vectors, grace_seconds=3600)
    assert await owner.fetch(_INDEXES) == []
    assert await step(vectors)
    [index] = await owner.fetch(_INDEXES)
    assert index["tablename"] == "embeddings_1_1"
    assert "vector_cosine_ops" in index["indexdef"]
    assert await parts_of(owner) == [("indexed", 0, ROWS), ("open", 0, 0)]


@pytest.mark.oldest_postgres
async def test_parts_of_one_level_are_merged(vectors: VectorTables, owner: Any) -> None:
    await fill(vectors, 5)
    await index_all(vectors)
    assert await parts_of(owner) == [("indexed", 0, ROWS), ("indexed", 2, 4 * ROWS), ("open", 0, 0)]
    assert len(await owner.fetch(_INDEXES)) == 2
    assert await hashes_of(owner) == all_of(range(5 * ROWS))
    attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'datastorage.embeddings_1'::regclass"
    made = r"SELECT count(*) FROM pg_class WHERE relname ~ '^embeddings_1_\d+$' AND relkind = 'r'"
    assert await owner.fetchval(attached) == await owner.fetchval(made) == 3


async def test_a_merge_keeps_one_vector_per_text(vectors: VectorTables, owner: Any) -> None:
    await fill(vectors, 2)
    await index_all(vectors)
    await vectors.insert(some_vectors(range(2 * ROWS), seed=1))
    assert await hashes_of(owner) == all_of(range(2 * ROWS))


async def test_a_text_in_two_parts_is_merged_into_one(vectors: VectorTables, owner: Any) -> None:
    await fill(vectors, 2)
    # Two transactions that do not see each other leave this state while the part changes.
    await owner.execute(
        "INSERT INTO datastorage.embeddings_1 "
        "SELECT 2, text_hash, embedding FROM datastorage.embeddings_1_1 LIMIT 3"
    )
    assert len(await hashes_of(owner)) == 2 * ROWS + 3
    assert await vectors.existing(all_of(range(2 * ROWS))) == set(all_of(range(2 * ROWS)))
    await index_all(vectors)
    assert await hashes_of(owner) == all_of(range(2 * ROWS))
    assert await parts_of(owner) == [("indexed", 1, 2 * ROWS), ("open", 0, 0)]


async def test_partitions_that_would_not_fit_into_memory_are_not_merged(
    vectors: VectorTables, owner: Any
) -> None:
    await fill(vectors, 2)
    for _ in range(2):
        assert await step(vectors)
    most = vectors.max_rows(64)
    set_rows = "UPDATE datastorage.embedding_parts SET row_count = $1 WHERE state = 'indexed'"
    await owner.execute(set_rows, most // 2 + 1)
    assert not await step(vectors, memory_mib=64)
    await owner.execute(set_rows, most // 2)
    assert await step(vectors, memory_mib=64)


async def test_a_partition_that_is_large_from_the_start_does_no_harm(
    vectors: VectorTables, owner: Any
) -> None:
    await fill(vectors, 3)
    for _ in range(3):
        assert await step(vectors)
    await owner.execute(
        "UPDATE datastorage.embedding_parts SET row_count = $1 WHERE part = 1", vectors.max_rows(64)
    )
    assert await step(vectors)
    assert await parts_of(owner) == [
        ("indexed", 0, vectors.max_rows(64)), ("indexed", 1, 2 * ROWS), ("open", 0, 0),
    ]  # fmt: skip
    assert await hashes_of(owner) == all_of(range(3 * ROWS))


async def test_writes_searches_and_seals_go_on_while_an_index_is_built(
    vectors: VectorTables, cloned: TestDatabase, owner: Any
) -> None:
    await fill(vectors, 1)
    async with held(cloned, "embeddings_1_1 IN ROW EXCLUSIVE MODE"):
        building = asyncio.create_task(step(vectors))
        await waits(owner, _INDEXING)
        await vectors.insert(some_vectors(range(2 * ROWS), seed=1))
        assert await hashes_of(owner) == all_of(range(2 * ROWS))
        assert await vectors.seal(full_rows=ROWS)
        await vectors.insert(some_vectors(range(3 * ROWS)))
        assert not building.done()
    assert await building
    assert await hashes_of(owner) == all_of(range(3 * ROWS))


async def test_a_merge_gives_way_to_a_long_search_and_goes_on_after_it(
    vectors: VectorTables, cloned: TestDatabase, owner: Any
) -> None:
    await hurry(owner)
    await fill(vectors, 2)
    for _ in range(2):
        assert await step(vectors)
    async with held(cloned, "embeddings_1 IN ACCESS SHARE MODE"):
        merging = asyncio.create_task(step(vectors))
        await waits(owner, _INDEXING)
        await vectors.insert(some_vectors(range(3 * ROWS)))  # waits until the merge gives way, no longer
        assert not merging.done()
    assert await merging
    assert await parts_of(owner) == [("indexed", 1, 2 * ROWS), ("open", 0, 0)]
    assert await hashes_of(owner) == all_of(range(3 * ROWS))


async def test_a_merge_that_never_gets_the_tables_changes_nothing(
    vectors: VectorTables, cloned: TestDatabase, owner: Any
) -> None:
    await hurry(owner)
    await fill(vectors, 2)
    for _ in range(2):
        assert await step(vectors)
    before = await parts_of(owner)
    async with held(cloned, "embeddings_1 IN ACCESS SHARE MODE"):
        with pytest.raises(TransientError, match="have held the tables"):
            await step(vectors)
    assert await parts_of(owner) == before
    assert await hashes_of(owner) == all_of(range(2 * ROWS))
    await index_all(vectors)
    assert await hashes_of(owner) == all_of(range(2 * ROWS))


@pytest.mark.parametrize(
    ("steps_before", "lock"),
    [(0, "embeddings_1_1 IN ROW EXCLUSIVE MODE"), (2, "embeddings_1 IN ACCESS SHARE MODE")],
    ids=["index", "merge"],
)
async def test_a_crash_in_the_middle_changes_nothing(
    vectors: VectorTables, cloned: TestDatabase, owner: Any, steps_before: int, lock: str
) -> None:
    await fill(vectors, 2)
    for _ in range(steps_before):
        assert await step(vectors)
    before = await parts_of(owner)
    async with held(cloned, lock):
        working = asyncio.create_task(step(vectors))
        await waits(owner, _INDEXING)
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        with pytest.raises(TransientError):
            await working
    assert await parts_of(owner) == before
    assert await hashes_of(owner) == all_of(range(2 * ROWS))
    await index_all(vectors)
    assert await parts_of(owner) == [("indexed", 1, 2 * ROWS), ("open", 0, 0)]
    assert await hashes_of(owner) == all_of(range(2 * ROWS))


async def test_a_cancelled_step_changes_nothing(
    vectors: VectorTables, cloned: TestDatabase, owner: Any
) -> None:
    await fill(vectors, 1)
    async with held(cloned, "embeddings_1_1 IN ROW EXCLUSIVE MODE"):
        working = asyncio.create_task(step(vectors))
        await waits(owner, _INDEXING)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert await parts_of(owner) == [("open", 0, 0), ("sealed", 0, ROWS)]
    assert await step(vectors)


@pytest.mark.oldest_postgres
async def test_replicas_take_turns(cloned: TestDatabase, owner: Any) -> None:
    pools = [Database(cloned.service_url, pool_size=4, chain=VECTORS) for _ in range(3)]
    replicas = [tables_of(pool) for pool in pools]
    await fill(replicas[0], 2)
    async with held(cloned, "embeddings_1_1 IN ROW EXCLUSIVE MODE"):
        first = asyncio.create_task(step(replicas[0]))
        await waits(owner, _INDEXING)
        # The others do not wait for it, and do not index the other part meanwhile.
        assert [await step(replica) for replica in replicas[1:]] == [False, False]
    assert await first
    while any(await asyncio.gather(*(step(replica) for replica in replicas))):
        pass
    assert await parts_of(owner) == [("indexed", 1, 2 * ROWS), ("open", 0, 0)]
    for pool in pools:
        await pool.close()


async def _written(replica: VectorTables, numbers: range, seed: int) -> bool:
    try:
        await replica.insert(some_vectors(numbers, seed=seed))
    except TransientError:
        return False
    return True


async def test_nothing_gets_lost_while_all_write_and_index(cloned: TestDatabase, owner: Any) -> None:
    pools = [Database(cloned.service_url, pool_size=4, chain=VECTORS) for _ in range(3)]
    replicas = [tables_of(pool) for pool in pools]
    written: list[int] = []
    stepped = asyncio.Event()

    async def write(replica: VectorTables, turn: int) -> None:
        # Each text comes from two writers.
        for start in range(0, 300, 5):
            numbers = range(start + turn * 100, start + turn * 100 + 5)
            # Without a grace period a part may be gone before a write that uses it, which has to be repeated.
            while not await _written(replica, numbers, turn):
                pass
            written.extend(numbers)
            # Otherwise all might be written before much is indexed, on a busy machine.
            if len(written) < 900:
                stepped.clear()
                await stepped.wait()

    async def index(replica: VectorTables) -> None:
        while len(written) < 900:
            await step(replica)
            stepped.set()
            await asyncio.sleep(0)
        stepped.set()

    await replicas[0].model_id()
    await asyncio.gather(
        *(write(replica, turn) for turn, replica in enumerate(replicas)), *map(index, replicas)
    )
    await index_all(replicas[0])
    assert sorted(set(await hashes_of(owner))) == all_of(range(500))
    assert await owner.fetchval("SELECT max(level) FROM datastorage.embedding_parts") >= 2
    for pool in pools:
        await pool.close()


async def test_a_belated_write_into_a_part_that_is_merged_is_not_lost(
    vectors: VectorTables, cloned: TestDatabase, owner: Any
) -> None:
    await fill(vectors, 2)
    for _ in range(2):
        assert await step(vectors)
    belated = await connect(cloned.owner_url)
    await belated.execute("BEGIN")
    await belated.execute(
        "INSERT INTO datastorage.embeddings_1 VALUES (1, $1, $2::text::vector)", hash_of(99), "[1,2,3]"
    )
    merging = asyncio.create_task(step(vectors))
    await waits(owner, _INDEXING)
    await belated.execute("COMMIT")
    await belated.close()
    assert await merging
    assert await hashes_of(owner) == sorted([*all_of(range(2 * ROWS)), hash_of(99)])


async def test_a_missing_partition_rejects_no_record(
    vectors: VectorTables, database: Database, owner: Any
) -> None:
    await fill(vectors, 1)
    await owner.execute("UPDATE datastorage.embedding_models SET open_part = 99")
    with pytest.raises(TransientError, match="no partition"):
        await vectors.insert(some_vectors(range(50, 60)))
    async with database.connection() as connection, connection.transaction():
        with pytest.raises(TransientError, match="no partition"):
            await vectors.insert_in(connection, some_vectors(range(50, 60)))


async def test_each_model_has_parts_of_its_own(database: Database, owner: Any) -> None:
    first, second = tables_of(database), tables_of(database, "other")
    for vectors in (first, second, first):
        await fill(vectors, 1, start=int(vectors is second))
        await vectors.insert(some_vectors(range(40, 40 + ROWS)))
    await index_all(first)
    sealed = await owner.fetch("SELECT model_id, state FROM datastorage.embedding_parts ORDER BY 1, 2")
    assert (
        "sealed" in {row["state"] for row in sealed if row["model_id"] == await first.model_id()}
    ) is False
    assert [row["state"] for row in sealed if row["model_id"] == await second.model_id()] == [
        "open",
        "sealed",
    ]
