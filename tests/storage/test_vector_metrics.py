"""Each metric about vectors and queries changes when it should, on a real database and a real Redis."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from datastorage import metrics
from datastorage.embedding import Embedder, VectorCache
from datastorage.embedding.rediscache import Limits, RedisStore
from datastorage.errors import EmbedderUnavailableError
from datastorage.query.filters import SearchMode
from datastorage.query.meaning import NearestInMeaning
from datastorage.query.questions import ArchiveQueries
from datastorage.query.search import Searcher
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.records.vectorwrite import OutboxState
from datastorage.storage.connection.database import Database
from datastorage.storage.fulltext import FullText
from datastorage.storage.hits import HitReader
from datastorage.storage.nearest import Nearest
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.summaries import Summaries
from datastorage.vectors.indexer import Indexer, Pace
from harness.objects import AUDIT_SPEC, audit_record, record_of
from harness.polling import DEADLINE_SECONDS, eventually
from harness.redis import RedisServer
from tests.storage.reembedding import FULL, SmallPartitions
from tests.storage.test_backfill import Stage, records, until_depth
from tests.support.embedding import vector_of
from tests.support.tasks import Spawn


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture
async def stage(database: Database) -> AsyncIterator[Stage]:
    made = Stage(database)
    yield made
    await made.close()


class Moves:
    """The changes of metrics since this was created."""

    def __init__(self) -> None:
        self._before = self._now()

    def by(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return self._now().get(key, 0.0) - self._before.get(key, 0.0)

    @staticmethod
    def _now() -> dict[tuple[str, frozenset[Any]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for metric in metrics.REGISTRY.collect()
            for sample in metric.samples
        }


async def test_a_record_with_its_vector(stage: Stage) -> None:
    moved = Moves()
    await stage.writer.store(records(3))
    assert moved.by("datastorage_dualwrite_success_total") == 3
    assert moved.by("datastorage_embedding_generation_duration_seconds_count") == 1
    assert moved.by("datastorage_embedding_texts_total", outcome="success") == 3
    assert moved.by("datastorage_cache_misses_total") == 3
    await stage.writer.store(records(3))
    assert moved.by("datastorage_cache_hits_total", tier="memory") == 3
    assert moved.by("datastorage_dualwrite_success_total") == 6
    assert moved.by("datastorage_fallback_mode_total") == 0


async def test_a_repeat_counts_once(stage: Stage) -> None:
    moved, batch = Moves(), records(2)
    await stage.writer.store(batch)
    await stage.writer.store(batch)
    assert moved.by("datastorage_dualwrite_success_total") == 2


async def test_an_absent_embedder_and_the_backfill(stage: Stage, spawn: Spawn) -> None:
    moved = Moves()
    stage.provider.failure = EmbedderUnavailableError("away")
    await stage.writer.store(records(4))
    assert moved.by("datastorage_fallback_mode_total") == 4
    assert moved.by("datastorage_dualwrite_failure_total", reason="embedder_unavailable") == 4
    assert moved.by("datastorage_dependency_errors_total", dependency="embedder") == 1
    assert metrics.REGISTRY.get_sample_value("datastorage_dependency_up", {"dependency": "embedder"}) == 0
    task = spawn(stage.backfill.run())
    spawn(stage.count.run())
    await eventually(lambda: _depth("pending") == 4)
    assert (metrics.REGISTRY.get_sample_value("datastorage_outbox_oldest_seconds") or 0) > 0
    stage.provider.failure = None
    await until_depth(stage, 0)
    await eventually(lambda: _depth("pending") == 0)
    assert moved.by("datastorage_outbox_settled_total", outcome="written") == 4
    assert metrics.REGISTRY.get_sample_value("datastorage_dependency_up", {"dependency": "embedder"}) == 1
    assert not task.done()


async def test_a_refused_text(stage: Stage, spawn: Spawn) -> None:
    moved, [record] = Moves(), records(1)
    assert record.text is not None
    stage.provider.refused = {record.text.text}
    await stage.writer.store([record])
    assert moved.by("datastorage_dualwrite_failure_total", reason="embedding_refused") == 1
    assert moved.by("datastorage_embedding_texts_total", outcome="refused") >= 1
    spawn(stage.backfill.run())
    spawn(stage.count.run())
    await until_depth(stage, 1, OutboxState.FAILED)
    await eventually(lambda: _depth("failed") == 1)
    assert moved.by("datastorage_fallback_mode_total") == 0  # nothing is pending
    await stage.outbox.retry(state=OutboxState.FAILED, uid=None)
    await eventually(lambda: moved.by("datastorage_outbox_settled_total", outcome="failed") > 0)
    assert moved.by("datastorage_outbox_settled_total", outcome="failed") == 1


async def test_a_damaged_vector_table(stage: Stage, owner: Any) -> None:
    moved = Moves()
    await stage.tables.model_id()
    await owner.execute("DROP TABLE datastorage.embeddings_1")
    await stage.writer.store(records(2))
    assert moved.by("datastorage_dualwrite_failure_total", reason="vector_store_unavailable") == 2
    assert moved.by("datastorage_dependency_errors_total", dependency="vector_store") == 1


def cache_on(redis: RedisServer, model: EmbeddingModel) -> VectorCache:
    """Return a cache that is as patient as a busy machine needs."""
    return VectorCache(model, RedisStore(redis.url, 300, limits=Limits(use_seconds=5.0)))


async def test_redis_hits_and_what_it_cannot_do(stage: Stage, redis: RedisServer) -> None:
    model, key, vector = stage.provider.model, b"k" * 32, stage.provider.rows
    assert vector == {}
    first = cache_on(redis, model)
    await stage.writer.store(records(1))
    text = next(iter(_texts(1)))
    made = await Embedder(stage.provider, first, stage.dependencies.embedder).embed(
        _texts(1), timeout_seconds=None
    )
    assert text in made.vectors
    moved, second = Moves(), cache_on(redis, model)
    assert text in await second.get([text])
    assert moved.by("datastorage_cache_hits_total", tier="redis") == 1
    with redis.client() as client:
        [name] = client.keys("datastorage:vector:*")
        client.set(name, b"garbage")
    third = cache_on(redis, model)
    assert await third.get([text, key]) == {}
    assert moved.by("datastorage_cache_errors_total", reason="garbage") == 1
    assert moved.by("datastorage_cache_misses_total") == 2
    redis.stop()
    assert await third.get([text]) == {}
    assert moved.by("datastorage_cache_errors_total", reason="unavailable") == 1
    assert moved.by("datastorage_dependency_errors_total", dependency="redis") == 1
    for each in (first, second, third):
        await each.close()


async def test_index_steps(stage: Stage, database: Database, owner: Any, spawn: Spawn) -> None:
    tables, moved = SmallPartitions(database, stage.provider.model), Moves()
    await tables.insert(_vectors(0, FULL))
    spawn(Indexer(tables, memory_mib=64, pace=Pace(interval=0.02, first_retry=0.02)).run())
    await eventually(lambda: moved.by("datastorage_vector_index_steps_total", outcome="success") > 0)
    await owner.execute("REVOKE EXECUTE ON FUNCTION datastorage.index_embeddings FROM datastorage_service")
    await tables.insert(_vectors(FULL, 2 * FULL))
    await eventually(lambda: moved.by("datastorage_vector_index_steps_total", outcome="failed") > 0)


@pytest.mark.parametrize("mode", list(SearchMode))
async def test_searches(stage: Stage, database: Database, mode: SearchMode) -> None:
    await stage.writer.store([record_of(audit_record({**AUDIT_SPEC, "message": "memory ran out"}))])
    ask, moved = _queries(stage, database), Moves()
    await ask.search("memory", mode=mode)
    with pytest.raises(Exception, match="empty"):
        await ask.search("", mode=mode)
    operation = f"search_{mode.value}"
    assert moved.by("datastorage_query_total", operation=operation, status="success") == 1
    assert moved.by("datastorage_query_total", operation=operation, status="invalid") == 1
    assert moved.by("datastorage_query_duration_seconds_count", operation=operation) == 2


async def test_reads(stage: Stage, database: Database) -> None:
    [record] = records(1)
    await stage.writer.store([record])
    ask, moved = _queries(stage, database), Moves()
    await ask.list()
    await ask.get(record.key.uid)
    await ask.timeline("rr-2026-0042")
    for operation in ("list", "get", "timeline"):
        assert moved.by("datastorage_query_total", operation=operation, status="success") == 1
    await database.close()
    with pytest.raises(Exception, match="PostgreSQL"):
        await ask.list()
    assert moved.by("datastorage_query_total", operation="list", status="error") == 1


def _queries(stage: Stage, database: Database) -> ArchiveQueries:
    nearest = Nearest(database, database, model=stage.provider.model, same_server=True)
    meaning = NearestInMeaning(stage.embedder, nearest)
    searcher = Searcher(HitReader(database), FullText(database), meaning, embedding_seconds=DEADLINE_SECONDS)
    return ArchiveQueries(ArchiveReader(database), searcher, Summaries(database))


def _texts(count: int) -> dict[bytes, str]:
    return {r.text.hash: r.text.text for r in records(count) if r.text is not None}


def _depth(state: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("datastorage_outbox_depth", {"state": state})


def _vectors(first: int, end: int) -> dict[bytes, Vector]:
    return {number.to_bytes(32, "big"): vector_of(str(number)) for number in range(first, end)}
