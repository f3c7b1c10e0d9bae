"""The write on a real database: rows do not depend on vectors, and a vector that fails is pending."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from datastorage.errors import TransientError, WorkRefusedError
from datastorage.metrics import Dependency
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord, Text
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.records.vectorwrite import OutboxState, VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.storage.connection.database import Database, Pace
from datastorage.storage.outbox import Outbox
from datastorage.storage.schema import VECTORS
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive, TextVectors, VectorTarget, distinct_texts
from harness.objects import AUDIT_SPEC, action_trace, audit_record, record_of
from harness.polling import DEADLINE_SECONDS
from harness.postgres import TestDatabase, TestDatabases
from harness.proxy import FreezableProxy

DIMENSIONS = 8
MODEL = EmbeddingModel("fake", "tiny", DIMENSIONS)
AWAY = VectorWrite(WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, "does not answer", "fake/tiny")
NONE_MISSING: Mapping[bytes, VectorWrite] = {}
_VECTORS = "SELECT text_hash FROM datastorage.embeddings_1 ORDER BY text_hash"
_OUTBOX = "SELECT uid::text, generation, text_hash, last_error FROM datastorage.vector_outbox"


def records(count: int, *, distinct: int | None = None) -> list[Record]:
    """Return records whose texts differ, or of which only some do."""
    return [
        record_of(audit_record({**AUDIT_SPEC, "message": f"event {'x' * (n % (distinct or count) + 1)}"}))
        for n in range(count)
    ]


def vectors_of(*parts: Sequence[Record]) -> dict[bytes, Vector]:
    texts = {key for part in parts for key in distinct_texts(part)}
    return {key: np.frombuffer(key[:DIMENSIONS], np.uint8).astype(np.float32) + 1 for key in texts}


def keys(stored: Sequence[Record]) -> set[tuple[str, int]]:
    return {(record.key.uid, record.key.generation) for record in stored}


def states(stored: Sequence[StoredRecord]) -> list[WriteState]:
    return [row.vector.state for row in stored]


class Stage:
    """The components, with one database or with two."""

    def __init__(
        self,
        database: Database,
        vectors: Database,
        *,
        write_seconds: float = DEADLINE_SECONDS,
        timeout_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self.tables = VectorTables(vectors, MODEL, write_seconds=write_seconds)
        self.outbox = Outbox(database)
        self.breaker = Breaker(Dependency.VECTOR_STORE, self.tables.probe, on_recovery=lambda: None)
        target = VectorTarget(
            self.tables, self.breaker, same_server=vectors is database, timeout_seconds=timeout_seconds
        )
        self.archive = Archive(database, model=MODEL, target=target)

    async def write(
        self,
        batch: Sequence[Record],
        vectors: Mapping[bytes, Vector],
        missing: Mapping[bytes, VectorWrite] = NONE_MISSING,
    ) -> list[StoredRecord]:
        """Write a batch of which the vectors are given, or the reasons why they are missing."""
        return await self.archive.write(batch, TextVectors(distinct_texts(batch), vectors, missing))

    async def pending(self) -> int:
        return (await self.outbox.depths())[OutboxState.PENDING].depth


@pytest_asyncio.fixture
async def one(database: Database) -> AsyncIterator[Stage]:
    """Rows and vectors on the same server."""
    stage = Stage(database, database)
    yield stage
    await stage.breaker.close()


@pytest_asyncio.fixture
async def other_server(databases: TestDatabases) -> AsyncIterator[TestDatabase]:
    """A second database, for the vectors alone."""
    made = await databases.clone()
    yield made
    await databases.drop(made)


@pytest_asyncio.fixture
async def two(database: Database, other_server: TestDatabase) -> AsyncIterator[Stage]:
    """Rows here, vectors there."""
    vectors = Database(other_server.service_url, pool_size=3, chain=VECTORS)
    stage = Stage(database, vectors)
    yield stage
    await stage.breaker.close()
    await vectors.close()


@pytest.mark.oldest_postgres
async def test_rows_and_vectors_are_there_together(one: Stage, owner: Any) -> None:
    batch = [*records(20, distinct=4), record_of(action_trace())]
    stored = await one.write(batch, vectors_of(batch))
    assert set(states(stored)) == {WriteState.WRITTEN}
    assert {row.vector.model for row in stored} == {"fake/tiny"}
    # One vector for each distinct text, one row for each record, and each row leads to its vector.
    assert [row["text_hash"] for row in await owner.fetch(_VECTORS)] == list(distinct_texts(batch))
    linked = await owner.fetchval(
        "SELECT count(*) FROM datastorage.audit_records JOIN datastorage.embeddings_1 USING (text_hash)"
    )
    assert linked == 20
    assert await one.pending() == 0


async def test_the_vector_of_a_text_is_what_was_given(one: Stage, owner: Any) -> None:
    batch = records(3)
    given = vectors_of(batch)
    await one.write(batch, given)
    rows = await owner.fetch("SELECT text_hash, embedding::text FROM datastorage.embeddings_1")
    found = {row["text_hash"]: np.array(eval(row["embedding"]), np.float32) for row in rows}
    assert found.keys() == given.keys()
    for key, vector in given.items():
        np.testing.assert_array_equal(found[key], vector)


@pytest.mark.oldest_postgres
async def test_storing_again_changes_nothing(one: Stage, owner: Any) -> None:
    batch = records(5)
    first = await one.write(batch, vectors_of(batch))
    again = await one.write(batch, vectors_of(batch))
    assert again == first
    assert [row.is_new for row in (*first, *again)] == [True] * 5 + [False] * 5
    assert len(await owner.fetch(_VECTORS)) == 5


async def test_missing_vectors_are_in_the_outbox_and_the_others_written(one: Stage, owner: Any) -> None:
    fine, late = records(3), records(2)
    late = [record_of(audit_record({**AUDIT_SPEC, "message": f"late {'y' * (n + 1)}"})) for n in range(2)]
    stored = await one.write([*fine, *late], vectors_of(fine), dict.fromkeys(distinct_texts(late), AWAY))
    assert states(stored) == [WriteState.WRITTEN] * 3 + [WriteState.PENDING] * 2
    rows = await owner.fetch(_OUTBOX)
    assert {(row["uid"], row["generation"]) for row in rows} == keys(late)
    assert {row["last_error"] for row in rows} == {"does not answer"}
    # The text is kept, so that the vector can be made without the object.
    texts = await owner.fetch("SELECT text_hash, text FROM datastorage.embedding_texts")
    assert {row["text_hash"]: row["text"] for row in texts} == distinct_texts([*fine, *late])
    found = await one.archive.find(late[0].table, [record.key for record in late])
    assert {row.vector.state for row in found.values()} == {WriteState.PENDING}


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE datastorage.embeddings_1",
        "REVOKE INSERT ON datastorage.embeddings_1 FROM datastorage_service",
        "ALTER TABLE datastorage.embeddings_1_1 ADD CONSTRAINT never CHECK (false) NOT VALID",
        "DROP EXTENSION vector CASCADE",
    ],
)
async def test_a_damaged_vector_table_costs_no_row(one: Stage, owner: Any, damage: str) -> None:
    await one.tables.model_id()
    await owner.execute(damage)
    batch = records(6)
    stored = await one.write(batch, vectors_of(batch))
    assert states(stored) == [WriteState.PENDING] * 6
    assert {row.vector.reason for row in stored} == {"VectorStoreUnavailable"}
    assert all(row.is_new for row in stored)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == 6
    assert await one.pending() == 6


async def test_a_locked_vector_table_holds_nothing_up_for_long(database: Database, owner: Any) -> None:
    await Stage(database, database).tables.model_id()  # with time enough to make the tables
    one = Stage(database, database, write_seconds=0.2)
    async with owner.transaction():
        await owner.execute("LOCK TABLE datastorage.embeddings_1 IN ACCESS EXCLUSIVE MODE")
        first, second = records(2), records(3)
        assert set(states(await one.write(first, vectors_of(first)))) == {WriteState.PENDING}
        # The second batch does not even try.
        assert not one.breaker.serving
        assert set(states(await one.write(second, vectors_of(second)))) == {WriteState.PENDING}
    assert await one.pending() == 5
    await one.breaker.close()


async def test_a_vector_of_another_width_is_refused_by_the_table(one: Stage, owner: Any) -> None:
    batch = records(1)
    wrong = {key: np.ones(DIMENSIONS + 1, np.float32) for key in distinct_texts(batch)}
    assert states(await one.write(batch, wrong)) == [WriteState.PENDING]
    assert await owner.fetch(_VECTORS) == []


async def test_a_bad_row_takes_its_vectors_back(one: Stage, owner: Any) -> None:
    await owner.execute("ALTER TABLE datastorage.audit_records ADD CONSTRAINT bad CHECK (name <> 'bad')")
    batch = [*records(2), record_of(audit_record(name="bad"))]
    with pytest.raises(WorkRefusedError):
        await one.write(batch, vectors_of(batch), dict.fromkeys(distinct_texts(batch), AWAY))
    for table in ("audit_records", "embeddings_1", "embedding_texts", "vector_outbox"):
        assert await owner.fetchval(f"SELECT count(*) FROM datastorage.{table}") == 0


async def test_a_record_without_words_has_no_vector_and_none_pending(one: Stage, owner: Any) -> None:
    record = replace(record_of(audit_record()), text=Text(hashlib.sha256(b"").digest(), ""))
    [stored] = await one.write([record], {})
    assert (stored.vector.state, stored.vector.reason) == (WriteState.SKIPPED, "NoText")
    assert await one.pending() == 0
    found = await one.archive.find(record.table, [record.key])
    assert next(iter(found.values())).vector == stored.vector
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_texts") == 0


@pytest.mark.oldest_postgres
async def test_on_another_server_vectors_follow_and_nothing_stays_pending(two: Stage, owner: Any) -> None:
    batch = records(10, distinct=3)
    stored = await two.write(batch, vectors_of(batch))
    assert set(states(stored)) == {WriteState.WRITTEN}
    assert await two.pending() == 0
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_models") == 0  # not here
    assert await two.tables.existing(list(distinct_texts(batch))) == set(distinct_texts(batch))


async def test_with_the_other_server_away_rows_are_stored_and_vectors_pending(
    two: Stage, databases: TestDatabases, other_server: TestDatabase, owner: Any
) -> None:
    await databases.close_connections(other_server, allow_new=False)
    batch = records(4)
    stored = await two.write(batch, vectors_of(batch))
    assert set(states(stored)) == {WriteState.PENDING}
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == 4
    assert {(row["uid"], row["generation"]) for row in await owner.fetch(_OUTBOX)} == keys(batch)
    await databases.close_connections(other_server, allow_new=True)


async def test_a_crash_between_row_and_vector_leaves_the_vector_pending(
    two: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row's own transaction adds the pending vector; only the committed vector removes it."""

    async def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(two.tables, "insert", crash)
    batch = records(3)
    with pytest.raises(KeyboardInterrupt):
        await two.write(batch, vectors_of(batch))
    assert await two.pending() == 3


async def test_an_absent_archive_is_not_reported_as_absent_vectors(
    one: Stage, databases: TestDatabases, cloned: TestDatabase
) -> None:
    await databases.close_connections(cloned, allow_new=False)
    with pytest.raises(TransientError):
        await one.write(records(1), {})
    await databases.close_connections(cloned, allow_new=True)


async def test_an_existing_row_hides_no_reason(one: Stage) -> None:
    old, new = records(1), [record_of(audit_record({**AUDIT_SPEC, "message": "new"}))]
    await one.write(old, vectors_of(old))
    both = [*old, *new]
    stored = await one.write(both, vectors_of(old), dict.fromkeys(distinct_texts(new), AWAY))
    assert [row.is_new for row in stored] == [False, True]
    assert stored[1].vector == AWAY


async def test_a_refused_text_is_noted_as_failed_at_once(one: Stage) -> None:
    batch = records(1)
    refused = VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, "not finite", "fake/tiny")
    [stored] = await one.write(batch, {}, dict.fromkeys(distinct_texts(batch), refused))
    assert stored.vector == refused
    [row] = await one.outbox.list(state=OutboxState.FAILED, uid=None, limit=10)
    assert (row.last_error, row.attempts) == ("not finite", 1)
    found = await one.archive.find(batch[0].table, [batch[0].key])
    assert {each.vector.state for each in found.values()} == {WriteState.FAILED}


async def test_a_server_that_has_fallen_silent_holds_nothing_up_for_long(
    database: Database, other_server: TestDatabase
) -> None:
    proxy = FreezableProxy(other_server.service_url)
    async with proxy:
        pace = Pace(command_seconds=10 * DEADLINE_SECONDS)
        vectors = Database(proxy.url, pool_size=3, chain=VECTORS, pace=pace)
        patient, stage = Stage(database, vectors), Stage(database, vectors, timeout_seconds=0.3)
        first, second = records(1), records(2)
        assert states(await patient.write(first, vectors_of(first))) == [WriteState.WRITTEN]
        proxy.freeze()
        async with asyncio.timeout(DEADLINE_SECONDS):
            stored = await stage.write(second, vectors_of(second))
        assert WriteState.PENDING in states(stored)
        assert not stage.breaker.serving
        await stage.breaker.close()
        await vectors.close()
