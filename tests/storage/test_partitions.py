"""Months as partitions: ready ahead of time, made on demand, cut in UTC."""

import asyncio
from datetime import UTC, datetime, tzinfo
from typing import Any

import pytest

from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.records.record import Table
from datastorage.storage import partitions
from datastorage.storage.connection.database import Database
from datastorage.storage.write import Archive
from harness.objects import action_trace, audit_record, record_of
from harness.polling import eventually
from harness.postgres import TestDatabase, connect

_PARTITIONS = """
    SELECT array_agg(relname::text ORDER BY relname) FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid
    WHERE relkind = 'r'
"""
_BOUNDS = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = $1"
_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'advisory'
"""


def _month(ahead: int) -> str:
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    return f"y{year:04}m{month + 1:02}"


async def _names(owner: Any) -> list[str]:
    return await owner.fetchval(_PARTITIONS) or []


@pytest.mark.oldest_postgres
async def test_this_month_and_the_coming_ones_are_prepared(database: Database, owner: Any) -> None:
    before = _month(0)
    await partitions.prepare(database)
    await partitions.prepare(database)
    if before != _month(0):
        pytest.skip("a month ended within this test")
    assert await _names(owner) == sorted(f"{table}_{_month(ahead)}" for table in Table for ahead in range(3))


async def test_the_months_are_those_of_the_databases_clock(
    database: Database, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this machine shows a year that has no partitions yet."""

    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Behind":
            return cls(2015, 6, 1, tzinfo=tz)

    monkeypatch.setattr(partitions, "datetime", Behind)
    await partitions.prepare(database)
    assert not [name for name in await _names(owner) if "_y2015" in name]


@pytest.mark.oldest_postgres
async def test_an_object_created_long_ago_gets_its_month(archive: Archive, owner: Any) -> None:
    record = record_of(audit_record(creationTimestamp="2019-02-28T23:59:59Z"))
    await archive.write([record])
    assert await _names(owner) == ["action_traces_y2019m02", "audit_records_y2019m02"]
    assert len(await archive.find(Table.AUDIT_RECORDS, [record.key])) == 1


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles", "Asia/Kathmandu", "UTC"])
async def test_months_are_cut_in_utc_whatever_the_session_says(cloned: TestDatabase, zone: str) -> None:
    service, owner = await connect(cloned.service_url), await connect(cloned.owner_url)
    await service.execute(f"SET TIME ZONE '{zone}'")
    # Both ends of a month that has a change of the clocks in these zones.
    for moment in ("2026-03-01T00:00:00Z", "2026-03-31T23:59:59.999999Z", "2026-12-31T23:59:59Z"):
        await service.execute("SELECT datastorage.ensure_partitions($1)", datetime.fromisoformat(moment))
    assert [name for name in await _names(owner) if name.startswith("audit")] == [
        "audit_records_y2026m03",
        "audit_records_y2026m12",
    ]
    await owner.execute("SET TIME ZONE 'UTC'")
    assert await owner.fetchval(_BOUNDS, "audit_records_y2026m03") == (
        "FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00')"
    )
    assert await owner.fetchval(_BOUNDS, "action_traces_y2026m12") == (
        "FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00')"
    )
    await service.close()
    await owner.close()


@pytest.mark.parametrize(
    "moments",
    [("2026-03-31T23:59:59Z", "2026-04-01T00:00:00Z"), ("2014-01-01T00:00:00Z", "2099-12-31T23:59:59Z")],
)
async def test_records_on_both_sides_of_a_bound_are_stored(
    archive: Archive, moments: tuple[str, str]
) -> None:
    records = [record_of(audit_record(creationTimestamp=moment)) for moment in moments]
    await archive.write(records)
    assert len(await archive.find(Table.AUDIT_RECORDS, [record.key for record in records])) == 2


@pytest.mark.parametrize("moment", ["2013-12-31T23:59:59Z", "2100-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
async def test_years_out_of_range_are_refused(archive: Archive, owner: Any, moment: str) -> None:
    with pytest.raises(RecordRefusedError, match="outside 2014 to 2099"):
        await archive.write([record_of(audit_record(creationTimestamp=moment))])
    assert await _names(owner) == []


async def test_two_sessions_may_make_the_same_partition(cloned: TestDatabase, owner: Any) -> None:
    moment = datetime(2026, 3, 5, tzinfo=UTC)
    first, second = await connect(cloned.service_url), await connect(cloned.service_url)
    transaction = first.transaction()
    await transaction.start()
    await first.execute("SELECT datastorage.ensure_partitions($1)", moment)
    late = asyncio.create_task(second.execute("SELECT datastorage.ensure_partitions($1)", moment))

    async def waiting() -> bool:
        count: int = await owner.fetchval(_WAITING)
        return count == 1

    # The second one has seen no partition yet, and waits for the first.
    await eventually(waiting)
    await transaction.commit()
    await late
    assert len(await _names(owner)) == 2
    await first.close()
    await second.close()


@pytest.mark.oldest_postgres
async def test_many_stores_may_need_the_same_new_month_at_once(archive: Archive, owner: Any) -> None:
    batches = [[record_of(audit_record()), record_of(action_trace())] for _ in range(8)]
    await asyncio.gather(*(archive.write(batch) for batch in batches))
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == 8
    assert len(await _names(owner)) == 2


@pytest.mark.oldest_postgres
async def test_a_partition_dropped_behind_the_store_is_made_again(archive: Archive, owner: Any) -> None:
    await archive.write([record_of(audit_record())])
    await owner.execute("DROP TABLE datastorage.audit_records_y2026m03")
    record = record_of(audit_record())
    stored = await archive.write([record])
    assert stored[0].content_hash == record.content_hash
    assert "audit_records_y2026m03" in await _names(owner)


async def test_a_constraint_is_no_missing_partition(archive: Archive, owner: Any) -> None:
    await owner.execute("ALTER TABLE datastorage.audit_records ADD CONSTRAINT named CHECK (name <> 'bad')")
    with pytest.raises(WorkRefusedError, match="named"):
        await archive.write([record_of(audit_record(name="bad"))])


async def test_a_month_is_made_while_somebody_reads(
    database: Database, owner: Any, cloned: TestDatabase
) -> None:
    """A dump holds its locks for hours. A statement that waits for them would block everyone else."""
    await partitions.prepare(database)
    newest = await owner.fetchval(
        "SELECT max(right(relname, 8)) FROM pg_class WHERE relname ~ '^audit_records_y[0-9]{4}m[0-9]{2}$'"
    )
    for table in Table:
        await owner.execute(f"DROP TABLE datastorage.{table}_{newest}")
    reader = await connect(cloned.owner_url)
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM datastorage.audit_records")
        await reader.fetch("SELECT count(*) FROM datastorage.action_traces")
        await partitions.prepare(database)
    await reader.close()
    for table in Table:
        indexes = await owner.fetch(
            "SELECT tablename, count(*) AS count FROM pg_indexes WHERE schemaname = 'datastorage' "
            "AND tablename LIKE $1 GROUP BY 1",
            f"{table}%",
        )
        assert f"{table}_{newest}" in {row["tablename"] for row in indexes}
        assert len({row["count"] for row in indexes}) == 1, "each month has all indexes"
