"""The backfill on a real database: a pending vector is written, refused or left pending, never forgotten."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from datastorage import metrics
from datastorage.embedding import Embedder, VectorCache
from datastorage.embedding.provider import probe
from datastorage.errors import EmbedderUnavailableError
from datastorage.metrics import Dependency
from datastorage.pipeline.batchwriter import EmbeddingWriter
from datastorage.records.reasons import Reason
from datastorage.records.record import Record
from datastorage.records.vectorwrite import OutboxState, VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.signal import Signal
from datastorage.storage.connection.database import Database
from datastorage.storage.outbox import Claim, Outbox, OutboxDepth
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive, VectorTarget, distinct_texts
from datastorage.vectors.backfill import Backfill, Dependencies, Pace
from datastorage.vectors.outboxcount import OutboxCount
from datastorage.vectors.outboxcount import Pace as CountPace
from harness.objects import AUDIT_SPEC, audit_record, record_of
from harness.polling import DEADLINE_SECONDS, eventually
from tests.support.embedding import DIMENSIONS, FakeProvider
from tests.support.pace import SOON
from tests.support.ping import ping
from tests.support.tasks import Spawn

PENDING = VectorWrite(WriteState.PENDING, Reason.IN_OUTBOX)

_FULL_DISK = """
    CREATE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON datastorage.embeddings_1_1 FOR EACH ROW
        EXECUTE FUNCTION public.full_disk()
"""

PACE = Pace(interval=0.02, away=0.02)
AWAY = EmbedderUnavailableError("The embedder does not answer")


def records(count: int) -> list[Record]:
    """Return records whose texts differ."""
    return [record_of(audit_record({**AUDIT_SPEC, "message": f"event {'x' * n}"})) for n in range(count)]


class CountedOutbox(Outbox):
    """Counts the claims, and keeps how many vectors the last one asked for."""

    claims = 0
    limit = 0

    @asynccontextmanager
    async def claim(self, limit: int) -> AsyncIterator[Claim]:
        self.claims += 1
        self.limit = limit
        async with super().claim(limit) as claim:
            yield claim


class Stage:
    """The components between a batch and the archive, with a provider whose answers the test chooses."""

    def __init__(self, database: Database, pace: Pace = PACE) -> None:
        self.database = database
        self.provider = FakeProvider()
        self.promotion = Signal()
        model = self.provider.model
        embedder_breaker = Breaker(Dependency.EMBEDDER, partial(probe, self.provider), pace=SOON)
        self.embedder = Embedder(self.provider, VectorCache(model), embedder_breaker)
        self.tables = VectorTables(database, model)
        self.outbox = CountedOutbox(database)
        self.dependencies = Dependencies(
            Breaker(Dependency.POSTGRES, partial(ping, database), pace=SOON),
            embedder_breaker,
            Breaker(Dependency.VECTOR_STORE, self.tables.probe, pace=SOON),
        )
        self.archive = Archive(
            database,
            model=model,
            target=VectorTarget(self.tables, self.dependencies.vector_store, same_server=True),
        )
        self.backfill = Backfill(
            outbox=self.outbox,
            embedder=self.embedder,
            vectors=self.tables,
            dependencies=self.dependencies,
            on_progress=self.promotion.set,
            pace=pace,
        )
        self.count = OutboxCount(
            self.outbox,
            self.dependencies.postgres,
            on_progress=self.promotion.set,
            pace=CountPace(interval=0.02),
        )
        self.writer = EmbeddingWriter(
            archive=self.archive, embedder=self.embedder, on_pending=self.backfill.request
        )

    async def store_pending(self, count: int) -> list[Record]:
        """Store records whose vectors are pending, because the embedder was away meanwhile."""
        self.provider.failure = AWAY
        batch = records(count)
        await self.writer.store(batch)
        self.provider.failure = None
        return batch

    async def depth(self, state: OutboxState = OutboxState.PENDING) -> int:
        return (await self.outbox.depths()).get(state, OutboxDepth()).depth

    async def missing(self, batch: list[Record]) -> set[bytes]:
        texts = distinct_texts(batch)
        return set(texts) - await self.tables.existing(list(texts))

    async def states(self, batch: list[Record]) -> set[WriteState]:
        found = await self.archive.find(batch[0].table, [record.key for record in batch])
        assert len(found) == len(batch)
        return {row.vector.state for row in found.values()}

    async def reasons(self, batch: list[Record]) -> set[Reason]:
        found = await self.archive.find(batch[0].table, [record.key for record in batch])
        return {row.vector.reason for row in found.values()}

    async def rounds_are_over(self) -> None:
        """Wait until a round of the running backfill has begun and ended; it has up to three claims."""
        enough = self.outbox.claims + 4
        await eventually(lambda: self.outbox.claims >= enough)

    async def close(self) -> None:
        for each in (self.dependencies.postgres, self.dependencies.embedder, self.dependencies.vector_store):
            await each.close()


@pytest_asyncio.fixture
async def stage(database: Database) -> AsyncIterator[Stage]:
    """The components, without waiting."""
    made = Stage(database)
    yield made
    await made.close()


async def test_an_absent_embedder_costs_no_row_and_all_vectors_are_written_on_its_return(
    stage: Stage, spawn: Spawn
) -> None:
    stage.provider.failure = AWAY
    batch = records(700)  # more than one batch of the backfill
    stored = await stage.writer.store(batch)
    assert {row.vector.state for row in stored} == {WriteState.PENDING}
    assert {row.vector.message for row in stored} == {str(AWAY)}
    assert await stage.depth() == 700
    spawn(stage.backfill.run())
    calls = len(stage.provider.calls)
    await eventually(lambda: len(stage.provider.calls) > calls)  # the breaker's probe alone asks
    assert await stage.depth() == 700
    stage.provider.failure = None
    await until_depth(stage, 0)
    assert await stage.missing(batch) == set()
    assert await stage.states(batch) == {WriteState.WRITTEN}


async def test_vectors_of_the_background_are_written_after_their_rows(stage: Stage, spawn: Spawn) -> None:
    stage.embedder.in_background = True
    batch = records(3)
    stored = await stage.writer.store(batch)
    assert {(row.vector.state, row.vector.reason) for row in stored} == {(WriteState.PENDING, Reason.QUEUED)}
    assert await stage.reasons(batch) == {Reason.QUEUED}
    assert stage.provider.calls == []
    stage.provider.failure = AWAY
    spawn(stage.backfill.run())
    assert await stage.promotion.wait(DEADLINE_SECONDS), "statuses have to say that they are held up"
    assert stage.dependencies.trouble == (Reason.EMBEDDER_UNAVAILABLE, str(AWAY))
    assert await stage.reasons(batch) == {Reason.IN_OUTBOX}
    stage.provider.failure = None
    await until_depth(stage, 0)
    assert await stage.reasons(batch) == {Reason.WRITTEN}
    await eventually(lambda: stage.dependencies.trouble is None)


async def test_batches_of_a_slow_model_become_smaller(database: Database, spawn: Spawn) -> None:
    """Otherwise their claims would expire, and other replicas make the same vectors."""
    stage = Stage(database, replace(PACE, batch=0.0))  # every batch takes longer
    stage.embedder.in_background = True
    await stage.writer.store(records(120))
    spawn(stage.backfill.run())
    await until_depth(stage, 0)
    assert stage.outbox.limit == 1
    await stage.close()


async def test_only_objects_whose_vectors_were_written_are_looked_at(stage: Stage, spawn: Spawn) -> None:
    spawn(stage.backfill.run())
    await stage.store_pending(3)
    await until_depth(stage, 0)
    assert await stage.promotion.wait(DEADLINE_SECONDS)
    await stage.rounds_are_over()
    await stage.promotion.wait(0.0)  # a later round may have set it once more
    await stage.writer.store([record_of(audit_record({**AUDIT_SPEC, "message": "one that has its vector"}))])
    stage.backfill.request()
    await stage.rounds_are_over()
    assert not await stage.promotion.wait(0.0)


async def test_objects_whose_vectors_a_person_has_dropped_are_looked_at_too(
    stage: Stage, spawn: Spawn
) -> None:
    stage.provider.failure = AWAY
    batch = records(3)
    await stage.writer.store(batch)
    spawn(stage.count.run())
    await eventually(lambda: depth_in_metrics() == 3)
    await stage.outbox.drop(state=OutboxState.PENDING, uid=None, reason="of a test")
    assert await stage.promotion.wait(DEADLINE_SECONDS)
    [found] = (await stage.archive.find(batch[0].table, [batch[0].key])).values()
    assert found.vector.state is WriteState.FAILED
    assert (found.vector.reason, found.vector.message) == ("Dropped", "of a test")


async def test_a_poison_text_ends_in_a_visible_state_and_blocks_nothing(stage: Stage, spawn: Spawn) -> None:
    batch = records(20)
    poison = batch[7]
    assert poison.text is not None
    stage.provider.refused = {poison.text.text}
    stored = await stage.writer.store(batch)
    # The others of its batch get their vectors in the write path already.
    assert [row.vector.state is WriteState.WRITTEN for row in stored].count(False) == 1
    spawn(stage.backfill.run())
    await until_depth(stage, 1, OutboxState.FAILED)
    assert await stage.depth() == 0
    [row] = await stage.outbox.list(state=OutboxState.FAILED, uid=None, limit=10)
    assert (row.uid, row.attempts) == (poison.key.uid, 1)
    assert row.last_error is not None
    assert "refuses" in row.last_error
    assert await stage.states([poison]) == {WriteState.FAILED}
    assert await stage.missing(batch) == {poison.text.hash}


async def test_a_retried_text_is_asked_for_again(stage: Stage, spawn: Spawn) -> None:
    [record] = records(1)
    assert record.text is not None
    stage.provider.refused = {record.text.text}
    await stage.writer.store([record])
    spawn(stage.backfill.run())
    await until_depth(stage, 1, OutboxState.FAILED)
    stage.provider.refused = set()
    assert await stage.outbox.retry(state=OutboxState.FAILED, uid=None) == 1
    await until_depth(stage, 0, OutboxState.FAILED)
    await until_depth(stage, 0)
    assert await stage.states([record]) == {WriteState.WRITTEN}


@pytest.mark.parametrize(
    "row", [np.full(DIMENSIONS, np.nan), np.zeros(DIMENSIONS), np.full(DIMENSIONS, np.inf)], ids=str
)
async def test_a_value_that_is_not_a_vector_is_never_stored(stage: Stage, spawn: Spawn, row: Any) -> None:
    batch = records(4)
    assert batch[2].text is not None
    stage.provider.rows = {batch[2].text.text: row.astype(np.float32)}
    await stage.writer.store(batch)
    spawn(stage.backfill.run())
    await until_depth(stage, 1, OutboxState.FAILED)
    assert await stage.missing(batch) == {batch[2].text.hash}


async def test_vectors_that_are_there_already_are_not_made_again(stage: Stage, spawn: Spawn) -> None:
    batch = records(5)
    await stage.writer.store(batch)
    calls = len(stage.provider.calls)
    # The same texts in other records, stored while the embedder was away and this process was another.
    pending = [record_of(audit_record({**AUDIT_SPEC, "message": f"event {'x' * n}"})) for n in range(5)]
    stage.embedder = Embedder(stage.provider, VectorCache(stage.provider.model), stage.dependencies.embedder)
    async with stage.database.connection() as connection, connection.transaction():
        await Outbox.add(connection, pending, dict.fromkeys(distinct_texts(pending), PENDING), due_seconds=0)
    spawn(stage.backfill.run())
    await until_depth(stage, 0)
    assert len(stage.provider.calls) == calls


async def test_two_replicas_share_the_work_and_write_everything_once(
    stage: Stage, database: Database, spawn: Spawn
) -> None:
    batch = await stage.store_pending(1200)
    second = Stage(database)
    spawn(stage.backfill.run())
    spawn(second.backfill.run())
    await until_depth(stage, 0)
    assert await stage.missing(batch) == set()
    for each in (
        second.dependencies.embedder,
        second.dependencies.vector_store,
        second.dependencies.postgres,
    ):
        await each.close()


async def test_damaged_tables_leave_all_vectors_pending_until_they_are_mended(
    stage: Stage, spawn: Spawn, owner: Any
) -> None:
    batch = await stage.store_pending(3)
    await stage.tables.model_id()
    await owner.execute("ALTER TABLE datastorage.embeddings_1 RENAME TO hidden")
    spawn(stage.backfill.run())
    await eventually(lambda: not stage.dependencies.vector_store.serving)
    assert await stage.depth() == 3
    await owner.execute("ALTER TABLE datastorage.hidden RENAME TO embeddings_1")
    await until_depth(stage, 0)
    assert await stage.missing(batch) == set()


async def test_a_full_disk_of_the_vectors_is_one_outage(
    stage: Stage, spawn: Spawn, owner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What is read there meanwhile proves nothing."""
    batch = await stage.store_pending(3)
    await stage.tables.model_id()
    await owner.execute(_FULL_DISK)
    caplog.clear()
    spawn(stage.backfill.run())
    for _ in range(3):
        await owner.execute("UPDATE datastorage.vector_outbox SET due_at = now(), attempts = 0")
        await eventually(partial(_all_were_tried, owner))
    said = [line for line in caplog.messages if line.startswith("vector_store ")]
    assert said == ["vector_store does not serve"]
    await owner.execute("DROP TRIGGER full_disk ON datastorage.embeddings_1_1")
    await until_depth(stage, 0)
    assert await stage.missing(batch) == set()


async def _all_were_tried(owner: Any) -> bool:
    return bool(await owner.fetchval("SELECT min(attempts) > 0 FROM datastorage.vector_outbox"))


def depth_in_metrics() -> float | None:
    return metrics.REGISTRY.get_sample_value("datastorage_outbox_depth", {"state": "pending"})


async def until_depth(stage: Stage, wanted: int, state: OutboxState = OutboxState.PENDING) -> None:
    async def reached() -> bool:
        return await stage.depth(state) == wanted

    await eventually(reached)
