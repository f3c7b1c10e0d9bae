"""The hot queries run on indexes, on every partition."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from datastorage.records.record import Table
from datastorage.storage.keys import key_columns, key_in
from datastorage.storage.pages import NAMESPACES, ONE
from datastorage.storage.rows import FIND
from harness.postgres import TestDatabase, TestDatabases, connect

# Enough rows that reading a whole partition costs more than an index, made by the server itself.
_FILL = """
    INSERT INTO datastorage.{table} (
        uid, generation, created_at, namespace, name, content, content_hash, correlation_id,
        alert_fingerprint, search{columns})
    SELECT gen_random_uuid(), 1, month + n * interval '1 minute', 'payments', 'object-' || n, '\\x00',
        sha256('\\x00'), 'rr-' || n, 'f' || n, to_tsvector('english', 'word' || n || ' padding'){values}
    FROM generate_series('2026-01-01Z'::timestamptz, '2026-03-01Z', '1 month') AS month,
        generate_series(1, 4000) AS n
"""


async def _fill(database: TestDatabase) -> TestDatabase:
    owner = await connect(database.owner_url)
    await owner.execute("SET TIME ZONE 'UTC'")
    for month in (1, 2, 3):
        await owner.execute("SELECT datastorage.ensure_partitions($1)", datetime(2026, month, 1, tzinfo=UTC))
    await owner.execute(_FILL.format(table="audit_records", columns="", values=""))
    await owner.execute(_FILL.format(table="action_traces", columns=", final", values=", true"))
    await owner.execute("ANALYZE datastorage.audit_records, datastorage.action_traces")
    await owner.close()
    return database


@pytest.fixture(scope="module")
def cloned(databases: TestDatabases) -> TestDatabase:
    """Three full months; the tests only read."""

    async def make() -> TestDatabase:
        return await _fill(await databases.clone())

    return asyncio.run(make())


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _scans(owner: Any, query: str, *arguments: Any) -> list[str]:
    """Return the kinds of scan with which the plan of a query reads tables."""
    answer = json.loads(await owner.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments))
    kinds = [node["Node Type"] for node in _nodes(answer[0]["Plan"]) if "Relation Name" in node]
    assert kinds
    return kinds


@pytest.mark.parametrize("table", Table)
async def test_finding_rows_reads_the_primary_key(owner: Any, table: Table) -> None:
    rows = await owner.fetch(
        f"SELECT uid, generation, created_at, spec_hash FROM datastorage.{table} LIMIT 20"
    )
    keys = key_columns([key_in(row) for row in rows])
    scans = await _scans(owner, FIND[table], *keys)
    assert "Seq Scan" not in scans, scans


@pytest.mark.parametrize("table", Table)
@pytest.mark.parametrize(
    "condition",
    [
        "correlation_id = 'rr-7' ORDER BY created_at",
        "correlation_id = 'rr-7' AND happened_at >= '2026-02-01Z' ORDER BY happened_at LIMIT 20",
        "alert_fingerprint = 'f7'",
        "search @@ websearch_to_tsquery('english', 'word7')",
        "created_at > '2026-02-01Z' ORDER BY created_at, uid LIMIT 20",
    ],
)
async def test_filters_read_an_index(owner: Any, table: Table, condition: str) -> None:
    scans = await _scans(owner, f"SELECT content FROM datastorage.{table} WHERE {condition}")
    assert "Seq Scan" not in scans, scans


async def test_a_time_range_reads_only_its_months(owner: Any) -> None:
    answer = json.loads(
        await owner.fetchval(
            "EXPLAIN (FORMAT JSON) SELECT name FROM datastorage.audit_records "
            "WHERE created_at >= '2026-02-01Z' AND created_at < '2026-03-01Z'"
        )
    )
    read = {node["Relation Name"] for node in _nodes(answer[0]["Plan"]) if "Relation Name" in node}
    assert read == {"audit_records_y2026m02"}


async def test_a_get_reads_indexes_even_with_a_plan_for_any_values(owner: Any) -> None:
    """Its statements run outside a transaction, so PostgreSQL may keep such plans for them."""
    await owner.execute(f"PREPARE one (boolean, boolean, uuid, bigint, text, timestamptz) AS {ONE}")
    await owner.execute(f"PREPARE namespaces (boolean, boolean, uuid, bigint) AS {NAMESPACES}")
    await owner.execute("SET plan_cache_mode = force_generic_plan")
    uid = "75e49872-21d7-4f9c-9e0b-4fd87f01d022"
    for asked in (
        f"one (true, true, '{uid}', NULL, 'payments', NULL)", f"namespaces (true, true, '{uid}', NULL)",
    ):  # fmt: skip
        answer = json.loads(await owner.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {asked}"))
        kinds = {node["Node Type"] for node in _nodes(answer[0]["Plan"]) if "Relation Name" in node}
        assert kinds == {"Index Scan"}
