"""Texts and the rows without one: they are read in pages by an index, and each row gets its text once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from datastorage.errors import RecordRefusedError
from datastorage.records.record import Table, Text
from datastorage.storage import texts as texts_module
from datastorage.storage.connection.database import Database
from datastorage.storage.texts import FIRST_ROW, FIRST_TEXT, RowWithoutText, Texts
from datastorage.storage.write import Archive
from tests.storage.reembedding import (
    audits,
    expected_texts,
    store,
    texts_of,
    traces,
)


@pytest.mark.oldest_postgres
async def test_a_text_is_given_once(archive: Archive, database: Database, owner: Any) -> None:
    linked, unlinked = audits(1), audits(1, start=1)
    await store(archive, linked, with_texts=True)
    await store(archive, unlinked)
    other = Text(b"h" * 32, "something else")
    for _ in range(2):
        await Texts(database).add_texts(
            Table.AUDIT_RECORDS, [(linked[0].key, other), (unlinked[0].key, unlinked[0].text or other)]
        )
        assert await texts_of(owner, [*linked, *unlinked]) == expected_texts([*linked, *unlinked])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _scans(owner: Any, query: str, *arguments: Any) -> set[str]:
    """Return the kinds of scan with which the plan of a query reads tables."""
    answer = json.loads(await owner.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments))
    return {node["Node Type"] for node in _nodes(answer[0]["Plan"]) if "Relation Name" in node}


_FILL = """
    INSERT INTO datastorage.audit_records (
        uid, generation, created_at, namespace, name, content, content_hash, text_hash)
    SELECT gen_random_uuid(), 1, month + n * interval '1 minute', 'payments', 'object-' || n,
        convert_to(repeat(md5(n::text), 20), 'UTF8'), sha256('x'),
        CASE WHEN n % 100 = 0 THEN NULL ELSE sha256(convert_to(n::text, 'UTF8')) END
    FROM generate_series('2026-01-01Z'::timestamptz, '2026-03-01Z', '1 month') AS month,
        generate_series(1, 4000) AS n
"""
_FILL_TEXTS = """
    INSERT INTO datastorage.embedding_texts
    SELECT sha256(convert_to(n::text, 'UTF8')), repeat('word ', 40) FROM generate_series(1, 20000) AS n
"""


@pytest.mark.oldest_postgres
async def test_reads_use_an_index(owner: Any) -> None:
    await owner.execute("SET TIME ZONE 'UTC'")
    for month in (1, 2, 3):
        await owner.execute("SELECT datastorage.ensure_partitions($1)", datetime(2026, month, 1, tzinfo=UTC))
    await owner.execute(_FILL)
    await owner.execute(_FILL_TEXTS)
    await owner.execute("VACUUM ANALYZE datastorage.audit_records")
    await owner.execute("VACUUM ANALYZE datastorage.embedding_texts")
    after = FIRST_ROW
    keys = [r["uid"] for r in await owner.fetch("SELECT uid FROM datastorage.audit_records LIMIT 50")]
    # Few against the size of the table, as in a large archive: PostgreSQL 16 finds it cheaper to read all
    # 20,000 rows than to look 500 of them up.
    some = [
        r["text_hash"]
        for r in await owner.fetch("SELECT text_hash FROM datastorage.embedding_texts LIMIT 100")
    ]
    table = Table.AUDIT_RECORDS
    at = (after.created_at, after.uid, after.generation, after.spec_hash)
    for query, arguments in (
        (texts_module._WITHOUT_TEXT[table], (*at, 100)),
        (
            texts_module._CONTENTS[table],
            (keys, [1] * 50, [datetime(2026, 1, 1, tzinfo=UTC)] * 50, [b"h"] * 50),
        ),
        (texts_module._COUNT_WITHOUT_TEXT.replace("action_traces", "audit_records"), ()),
        (texts_module._HASHES, (b"", 1000)),
        (texts_module._TEXTS, (some,)),
    ):
        assert "Seq Scan" not in await _scans(owner, query, *arguments), query


async def test_pages_have_every_row_once(archive: Archive, database: Database) -> None:
    texts = Texts(database)
    records = [*audits(7), *traces(3)]
    await store(archive, records)
    await store(archive, audits(3, start=50), with_texts=True)
    assert await texts.count_without_text() == 10
    found: list[RowWithoutText] = []
    for table in Table:
        after = FIRST_ROW
        while page := await texts.without_text(table, after, 2):
            found += page
            after = page[-1].key
    assert sorted((row.key.uid, row.size) for row in found) == sorted(
        (r.key.uid, len(r.content)) for r in records
    )
    assert await texts.count() == 3
    hashes: list[bytes] = []
    while rest := await texts.hashes(hashes[-1] if hashes else FIRST_TEXT, 2):
        hashes += rest
    linked = expected_texts(audits(3, start=50))
    assert list((await texts.texts([*hashes, b"absent"])).items()) == sorted(linked)


async def test_contents_are_those_of_the_keys(archive: Archive, database: Database) -> None:
    records = traces(4)
    await store(archive, records)
    keys = [record.key for record in records[:3]]
    gone = replace(keys[0], generation=99)
    found = await Texts(database).contents(Table.ACTION_TRACES, [*keys, gone])
    assert found == {record.key: record.content for record in records[:3]}


async def test_text_and_hash_come_together_or_not_at_all(
    archive: Archive, database: Database, owner: Any
) -> None:
    records = audits(2)
    await store(archive, records)
    rows = [(record.key, record.text) for record in records if record.text is not None]
    with pytest.raises(RecordRefusedError):
        await Texts(database).add_texts(
            Table.AUDIT_RECORDS, [rows[0], (replace(rows[1][0], uid="x"), rows[1][1])]
        )
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_texts") == 0
    assert await texts_of(owner, records) == [(None, None)] * 2
