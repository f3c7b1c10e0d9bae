"""Reembedding continues after a kill, after an outage and beside other runs, and leaves an index."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from datastorage.errors import EmbedderUnavailableError
from datastorage.records.vector import Matrix
from datastorage.storage.connection.database import Database
from datastorage.storage.write import Archive
from datastorage.vectors.reembed import Pace
from harness.polling import eventually
from harness.postgres import TestDatabase
from tests.storage.reembedding import (
    FULL,
    Run,
    audits,
    expected_texts,
    expected_vectors,
    store,
    texts_of,
    traces,
    vectors_in,
)
from tests.support.embedding import FakeProvider


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def run(database: Database, provider: FakeProvider) -> Run:
    return Run(database, database, provider)


async def test_an_embedder_that_is_away_is_waited_for(
    run: Run, archive: Archive, owner: Any, provider: FakeProvider
) -> None:
    records = audits(5)
    await store(archive, records)
    provider.failure = EmbedderUnavailableError("the model is asleep")
    running = asyncio.create_task(run.run())
    await eventually(lambda: run.reembed.away() == {"the embedder": "the model is asleep"})
    assert await texts_of(owner, records) == expected_texts(records)  # what can be done is done
    provider.failure = None
    progress = (await running).progress
    assert run.reembed.away() == {}
    assert (progress.embedded, progress.refused) == (5, 0)
    assert await vectors_in(owner) == expected_vectors(records)


async def test_a_vector_store_that_is_away_is_waited_for(run: Run, archive: Archive, owner: Any) -> None:
    records = audits(5)
    await store(archive, records)
    await run.vectors.model_id()
    await owner.execute("REVOKE INSERT ON datastorage.embeddings_1 FROM datastorage_service")
    running = asyncio.create_task(run.run())
    await eventually(lambda: "the vector store" in run.reembed.away())
    assert await vectors_in(owner) == {}
    await owner.execute("GRANT INSERT ON datastorage.embeddings_1 TO datastorage_service")
    assert (await running).progress.embedded == 5
    assert await vectors_in(owner) == expected_vectors(records)


async def test_a_postgres_that_is_away_is_waited_for(run: Run, archive: Archive, owner: Any) -> None:
    records = audits(5)
    await store(archive, records)
    await owner.execute("ALTER TABLE datastorage.embedding_texts RENAME TO gone")
    running = asyncio.create_task(run.run())
    await eventually(lambda: "PostgreSQL" in run.reembed.away())
    await owner.execute("ALTER TABLE datastorage.gone RENAME TO embedding_texts")
    assert (await running).progress.embedded == 5
    assert await vectors_in(owner) == expected_vectors(records)


class Fragile(FakeProvider):
    """Answers "internal error" for each call with a bad text in it, for ever."""

    bad: frozenset[str] = frozenset()

    async def embed(self, texts: Sequence[str]) -> Matrix:
        rows = await super().embed(texts)
        if self.bad.intersection(texts):
            raise EmbedderUnavailableError("The service answered with status 500")
        return rows


@pytest.mark.parametrize(("good", "bad"), [(0, 1), (5, 1), (40, 40)])
async def test_texts_that_the_embedder_fails_with_for_ever_are_named_in_the_end(
    database: Database, archive: Archive, owner: Any, good: int, bad: int
) -> None:
    records = audits(good + bad)
    await store(archive, records)
    provider = Fragile()
    provider.bad = frozenset(r.text.text for r in records[good:] if r.text is not None)
    run = Run(database, database, provider, pace=Pace(away_seconds=0.0))
    async with asyncio.timeout(60):  # it never ended
        progress = (await run.run()).progress
    assert (progress.embedded, progress.refused) == (good, bad)
    assert await vectors_in(owner) == expected_vectors(records[:good])
    for record in records[good:]:
        assert record.text is not None
        assert any(
            named.startswith(record.text.hash.hex()) and "status 500" in named
            for named in progress.refused_named
        )
    assert run.reembed.away() == {}


class KilledError(Exception):
    """Stands for the end of the process."""


def dying(run: Run, steps: int) -> None:
    """Make the run end after that many of its steps."""
    left = steps

    def guard(owner: object, name: str) -> None:
        method: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def guarded(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return await method(*arguments, **options)

        setattr(owner, name, guarded)

    for name in ("without_text", "contents", "add_texts", "count", "hashes", "texts"):
        guard(run.texts, name)
    for name in ("existing", "insert", "seal", "index", "sealed"):
        guard(run.vectors, name)


@pytest.mark.parametrize("steps", [3, 4, 5, 7, 11])
async def test_a_run_that_is_killed_anywhere_can_be_continued(
    archive: Archive, database: Database, owner: Any, steps: int
) -> None:
    small = Pace(page_rows=2, page_texts=4, page_hashes=6, seal_every=4)
    records = [*audits(13), *traces(5)]
    await store(archive, records)
    embedded, runs = 0, 0
    while True:
        run = Run(database, database, FakeProvider(), pace=small)
        # Each run gets a little further, and none gets to the end.
        dying(run, steps + runs)
        runs += 1
        with contextlib.suppress(KilledError):
            await run.run()
            embedded += run.reembed.progress.embedded
            break
        embedded += run.reembed.progress.embedded
    assert runs > 3
    assert embedded == len(expected_vectors(records))  # nothing was made twice
    assert await texts_of(owner, records) == expected_texts(records)
    assert await vectors_in(owner) == expected_vectors(records)


async def test_two_runs_and_writers_at_once(
    archive: Archive, database: Database, cloned: TestDatabase, owner: Any
) -> None:
    small = Pace(page_rows=3, page_texts=5, page_hashes=11, seal_every=5)
    records = [*audits(60), *traces(20)]
    await store(archive, records)
    pools = [Database(cloned.service_url, pool_size=4) for _ in range(2)]
    runs = [Run(pool, pool, FakeProvider(), pace=small) for pool in pools]
    late = audits(30, start=100)

    async def write() -> None:
        for record in late:
            await store(archive, [record], with_texts=True)

    await asyncio.gather(*(run.run() for run in runs), write())
    # Another run gives texts and vectors to the records that came meanwhile.
    await Run(database, database, FakeProvider(), pace=small).run()
    assert await texts_of(owner, [*records, *late]) == expected_texts([*records, *late])
    found = await owner.fetch("SELECT DISTINCT text_hash FROM datastorage.embeddings_1")
    assert {row["text_hash"] for row in found} == set(expected_vectors([*records, *late]))
    for pool in pools:
        await pool.close()


async def test_it_indexes_what_it_writes(database: Database, archive: Archive, owner: Any) -> None:
    run = Run(database, database, FakeProvider(), pace=Pace(page_texts=FULL, seal_every=FULL))
    await store(archive, audits(8 * FULL), with_texts=True)
    await run.run()
    parts = await owner.fetch("SELECT state, level, row_count FROM datastorage.embedding_parts ORDER BY part")
    assert sorted({row["state"] for row in parts}) == ["indexed", "open"]
    assert sum(row["row_count"] for row in parts) == 8 * FULL
    # How many partitions one merge takes in depends on how far the writing is ahead.
    assert max(row["level"] for row in parts) >= 1, "small partitions were merged"


async def test_it_waits_at_the_end_for_partitions_that_were_just_sealed(
    database: Database, archive: Archive, owner: Any
) -> None:
    run = Run(database, database, FakeProvider(), pace=Pace(index_pause_seconds=0.05))
    run.vectors.grace_seconds = 1.0
    await store(archive, audits(FULL), with_texts=True)
    await run.run()
    assert (
        await owner.fetchval("SELECT count(*) FROM datastorage.embedding_parts WHERE state = 'indexed'") == 1
    )


async def test_vectors_without_an_index_are_written_too(
    database: Database, archive: Archive, owner: Any
) -> None:
    run = Run(database, database, FakeProvider(), pace=Pace(index_pause_seconds=0.0))
    await store(archive, audits(FULL), with_texts=True)
    await owner.execute("REVOKE EXECUTE ON FUNCTION datastorage.index_embeddings FROM datastorage_service")
    progress = (await run.run()).progress
    assert progress.embedded == FULL
    assert progress.index_error is not None
    assert "permission denied" in progress.index_error
