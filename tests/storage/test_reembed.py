"""Reembedding: every record gets the vector of its text, and bad records hold up no others."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from datastorage.records.record import RecordKey, Table, Text
from datastorage.resources.reading.registry import reading_of
from datastorage.storage.connection.database import Database
from datastorage.storage.schema import VECTORS
from datastorage.storage.texts import Texts
from datastorage.storage.write import Archive
from datastorage.vectors.progress import Missing, Stage
from datastorage.vectors.reembed import Pace
from harness.objects import AUDIT_SPEC, action_trace, audit_record, kind_of, record_of
from harness.postgres import TestDatabase, TestDatabases, connect
from harness.strategies import action_trace_specs, audit_record_specs
from tests.storage.reembedding import (
    OtherModel,
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


@pytest_asyncio.fixture
async def elsewhere(databases: TestDatabases) -> AsyncIterator[TestDatabase]:
    """Another server for the vectors, as far as the program can tell."""
    made = await databases.clone()
    yield made
    await databases.drop(made)


async def test_rows_without_a_vector_get_one(run: Run, archive: Archive, owner: Any) -> None:
    records = [*audits(7), *traces(5)]
    await store(archive, records)
    progress = (await run.run()).progress
    assert await texts_of(owner, records) == expected_texts(records)
    assert await vectors_in(owner) == expected_vectors(records)
    assert (progress.given_text, progress.embedded, progress.skipped, progress.refused) == (12, 12, 0, 0)
    assert (progress.stage, progress.index_error) == (Stage.INDEX, None)


async def test_every_generation_and_every_month(run: Run, archive: Archive, owner: Any) -> None:
    records = [
        replace(record, key=replace(record.key, generation=generation, created_at=created_at))
        for record in traces(2)
        for generation in (1, 2)
        for created_at in (record.key.created_at, record.key.created_at.replace(month=7))
    ]
    await store(
        archive, [replace(record, key=replace(record.key, uid=str(uuid.uuid4()))) for record in records]
    )
    assert (await run.run()).progress.given_text == len(records)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.action_traces WHERE text_hash IS NULL") == 0


async def test_equal_events_share_a_text_and_a_call(
    run: Run, archive: Archive, owner: Any, provider: FakeProvider
) -> None:
    await store(archive, [record for _ in range(20) for record in audits(2)])
    await run.run()
    assert len(await vectors_in(owner)) == 2
    assert [sorted(call) for call in provider.calls] == [sorted(r.text.text for r in audits(2) if r.text)]


async def test_a_second_run_finds_nothing_to_do(
    run: Run, archive: Archive, database: Database, owner: Any
) -> None:
    await store(archive, audits(5))
    await run.run()
    before = await owner.fetch("SELECT ctid, * FROM datastorage.audit_records ORDER BY uid")
    again = Run(database, database, FakeProvider())
    progress = (await again.run()).progress
    assert (progress.given_text, progress.embedded) == (0, 0)
    assert again.provider.calls == []
    assert await owner.fetch("SELECT ctid, * FROM datastorage.audit_records ORDER BY uid") == before


async def test_a_record_without_words_has_an_empty_text(run: Run, archive: Archive, owner: Any) -> None:
    record = record_of(audit_record({**AUDIT_SPEC, "action": "--"}))
    assert record.text is not None
    assert record.text.text == ""
    await store(archive, [record])
    progress = (await run.run()).progress
    assert await texts_of(owner, [record]) == [(record.text.hash, None)]
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_texts") == 0
    assert (progress.given_text, progress.embedded) == (1, 0)


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"{", b"[]", b"\xff", b"[" * 100_000 + b"]" * 100_000, b'{"spec":' + b"9" * 5000 + b"}"],
    ids=["NUL", "cut off", "list", "not UTF-8", "deep", "long number"],
)  # fmt: skip
async def test_a_content_that_cannot_be_read_is_named_and_holds_up_nothing(
    run: Run, archive: Archive, owner: Any, content: bytes
) -> None:
    bad, good = audits(1)[0], audits(4, start=1)
    await store(archive, [good[0], replace(bad, content=content), *good[1:]])
    progress = (await run.run()).progress
    assert (progress.skipped, progress.given_text) == (1, 4)
    [named] = progress.skipped_named
    assert bad.key.uid in named
    assert "can't be read" in named
    assert await texts_of(owner, good) == expected_texts(good)
    assert await texts_of(owner, [replace(bad, content=content)]) == [(None, None)]


@pytest.mark.parametrize("spec", [b"null", b"[]", b'"x"', b"7", b'{"message":7}'])
async def test_a_spec_of_any_form_is_read(run: Run, archive: Archive, spec: bytes) -> None:
    await store(archive, [replace(audits(1)[0], content=b'{"spec":' + spec + b"}")])
    progress = (await run.run()).progress
    assert (progress.skipped, progress.given_text) == (0, 1)


class RefusesSome(Texts):
    """An archive that does not accept certain texts."""

    async def add_texts(self, table: Table, rows: Sequence[tuple[RecordKey, Text]]) -> None:
        poisoned = [(key, replace(text, text="\0") if "disk 3" in text.text else text) for key, text in rows]
        await super().add_texts(table, poisoned)


async def test_a_text_that_is_refused_by_the_database_costs_no_other(
    database: Database, archive: Archive, owner: Any
) -> None:
    records = audits(9)
    await store(archive, records)
    progress = (await Run(database, database, FakeProvider(), RefusesSome).run()).progress
    assert (progress.skipped, progress.given_text) == (1, 8)
    assert records[3].key.uid in progress.skipped_named[0]
    good = [record for record in records if record is not records[3]]
    assert await texts_of(owner, good) == expected_texts(good)


async def test_refused_texts_are_named_and_asked_again_the_next_time(
    run: Run, archive: Archive, database: Database, owner: Any, provider: FakeProvider
) -> None:
    records = audits(6)
    await store(archive, records)
    texts = {r.text for r in records[:2] if r.text is not None}
    provider.refused = {text.text for text in texts}
    progress = (await run.run()).progress
    assert (progress.refused, progress.embedded) == (2, 4)
    for text in texts:
        assert any(
            named.startswith(text.hash.hex()) and text.text[:60] in named and "refuses" in named
            for named in progress.refused_named
        )
    provider.refused = set()
    assert (await Run(database, database, provider).run()).progress.embedded == 2
    assert await vectors_in(owner) == expected_vectors(records)


async def test_only_the_first_refused_are_named(run: Run, archive: Archive, provider: FakeProvider) -> None:
    records = audits(60)
    provider.refused = {r.text.text for r in records if r.text is not None}
    await store(archive, records, with_texts=True)
    progress = (await run.run()).progress
    assert progress.refused == 60
    assert len(progress.refused_named) == 50


async def test_models_side_by_side(run: Run, archive: Archive, database: Database, owner: Any) -> None:
    records = audits(15)
    await store(archive, records)
    await run.run()
    other = Run(database, database, OtherModel())
    assert await other.reembed.missing() == Missing(0, 15, 15)
    assert (await other.run()).progress.embedded == 15
    assert await vectors_in(owner, await run.vectors.model_id()) == expected_vectors(records)
    assert await vectors_in(owner, await other.vectors.model_id()) == expected_vectors(records, sign=-1)


async def test_missing_vectors_are_counted_and_nothing_is_changed(
    archive: Archive, database: Database, owner: Any
) -> None:
    run = Run(database, database, FakeProvider(), pace=Pace(page_hashes=4))
    await store(archive, audits(3))
    await store(archive, audits(10, start=10), with_texts=True)
    assert await run.reembed.missing() == Missing(3, 10, 10)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_models") == 0
    await run.run()
    await store(archive, traces(2))
    await store(archive, audits(3, start=50), with_texts=True)
    assert await Run(database, database, FakeProvider()).reembed.missing() == Missing(2, 16, 3)


async def test_vectors_on_another_server(
    database: Database, archive: Archive, owner: Any, elsewhere: TestDatabase
) -> None:
    records = [*audits(30), *traces(3)]
    await store(archive, records)
    vector_database = Database(elsewhere.service_url, pool_size=4, chain=VECTORS)
    progress = (await Run(database, vector_database, FakeProvider()).run()).progress
    there = await connect(elsewhere.owner_url)
    assert await vectors_in(there) == expected_vectors(records)
    assert await there.fetchval("SELECT count(*) FROM datastorage.embedding_texts") == 0
    assert await texts_of(owner, records) == expected_texts(records)
    assert progress.index_error is None
    await there.close()
    await vector_database.close()


class Watched(Texts):
    """Notes how much is read at once."""

    most = 0

    async def contents(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, bytes]:
        found = await super().contents(table, keys)
        Watched.most = max(Watched.most, sum(map(len, found.values())))
        return found


async def test_large_contents_are_read_a_few_at_a_time(database: Database, archive: Archive) -> None:
    records = [
        record_of(audit_record({**AUDIT_SPEC, "details": {"dump": uuid.uuid4().hex * 40_000}}))
        for _ in range(9)
    ]
    size = len(records[0].content)
    for record in records:
        await store(archive, [record])
    assert (await Run(database, database, FakeProvider(), Watched).run()).progress.given_text == 9
    assert size <= Watched.most <= Pace().page_bytes


@given(st.lists(audit_record_specs() | action_trace_specs(), min_size=1, max_size=5))
def test_every_record_gets_the_text_that_the_operator_gives_it(
    shared: TestDatabase, specs: list[dict[str, Any]]
) -> None:
    bodies = [audit_record(spec) if "phase" in spec else action_trace(spec) for spec in specs]

    async def check() -> None:
        database = Database(shared.service_url, pool_size=4)
        records = [record_of(body) for body in bodies]
        await store(Archive(database), records)
        progress = (await Run(database, database, FakeProvider()).run()).progress
        assert (progress.given_text, progress.skipped) == (len(records), 0)
        owner = await connect(shared.owner_url)
        assert await texts_of(owner, records) == [
            (text.hash, text.text or None)
            for text in (reading_of(kind_of(body)).text(body["spec"]) for body in bodies)
        ]
        await owner.close()
        await database.close()

    asyncio.run(check())


@pytest.fixture(scope="module")
def shared(databases: TestDatabases) -> TestDatabase:
    """One database for many examples, which nobody else adds to."""
    return asyncio.run(databases.clone())
