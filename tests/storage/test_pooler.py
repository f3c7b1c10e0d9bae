"""Everything works through a pooler that gives each transaction another session, and leaves nothing in it."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from datastorage.errors import ConfigurationError, TransientError
from datastorage.query.export import ArchiveExports
from datastorage.records.record import Table
from datastorage.storage.connection import sessions as sessions_module
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Connector
from datastorage.storage.connection.urls import parse_url
from datastorage.storage.export import ExportPace, ExportReader
from datastorage.storage.migrate import migrate
from datastorage.storage.outbox import Outbox
from datastorage.storage.readonly import ONE_PLAN, reading, set_further
from datastorage.storage.schema import ARCHIVE, VECTORS
from datastorage.storage.write import Archive
from harness.objects import action_trace, audit_record, record_of
from harness.polling import DEADLINE_SECONDS
from harness.pooler import Pooler, pooler
from harness.postgres import TestDatabase, connect
from harness.proxy import FreezableProxy
from tests.support.archive import searchable
from tests.support.ping import ping

_SESSIONS = 3
_LEFT_AFTER = """
    SELECT (SELECT count(*) FROM pg_prepared_statements) AS statements, current_setting('search_path')
        AS path, current_setting('jit') AS jit
"""


@pytest_asyncio.fixture
async def pooled(cloned: TestDatabase) -> AsyncIterator[Pooler]:
    async with pooler(cloned.service_url, cloned.owner_url, size=_SESSIONS) as running:
        yield running


async def _assert_nothing_is_left_behind(pooled: Pooler, owner: Any) -> None:
    usual = await owner.fetchrow(_LEFT_AFTER)
    client = await asyncpg.connect(pooled.url, statement_cache_size=0)
    for _ in range(_SESSIONS):
        async with client.transaction():
            [found] = await client.fetch(_LEFT_AFTER)
        assert (found["statements"], found["path"], found["jit"]) == (0, usual["path"], usual["jit"])
    await client.close()


async def test_records_are_stored_and_found(pooled: Pooler, cloned: TestDatabase, owner: Any) -> None:
    async with searchable(replace(cloned, service_url=pooled.url)) as archive:
        await archive.put(*(audit_record({"message": f"the disk of worker {n} is full"}) for n in range(30)))
        certificate = audit_record({"message": "a certificate expired"})
        await archive.put(action_trace(), certificate)
        page = await archive.ask.list(limit=50)
        assert len(page.records) == 32
        assert not (result := await archive.ask.search("certificate expired", limit=3)).degraded
        assert result.hits[0].record.name == certificate["metadata"]["name"]
    await _assert_nothing_is_left_behind(pooled, owner)


async def test_an_export_waits_for_writers_through_a_pooler(
    pooled: Pooler, cloned: TestDatabase, owner: Any
) -> None:
    await Archive(Database(cloned.service_url, pool_size=1)).write([record_of(audit_record(name="kept"))])
    database = Database(pooled.url, pool_size=2)
    exports = ArchiveExports(ExportReader(database, ExportPace(patience_seconds=0.2)))
    async with owner.transaction():
        await owner.execute("UPDATE datastorage.audit_records SET name = 'kept' WHERE name = 'kept'")
        with pytest.raises(TransientError, match="has been open for"):
            await exports.begin()
    pieces = [piece async for piece in (await exports.begin()).pieces()]
    assert b'"name":"kept"' in pieces[0]
    assert b'"count":1' in pieces[1]
    await database.close()
    await _assert_nothing_is_left_behind(pooled, owner)


async def test_two_programs_at_once_do_not_get_each_others_statements(pooled: Pooler, owner: Any) -> None:
    """The driver numbers its statements from one on in each process."""
    replicas = [Database(pooled.url, pool_size=5) for _ in range(2)]

    async def work(database: Database) -> None:
        archive, outbox = Archive(database), Outbox(database)
        for _ in range(5):
            records = [record_of(audit_record()), record_of(action_trace())]
            await archive.write(records)
            assert len(await archive.find(Table.AUDIT_RECORDS, [records[0].key])) == 1
            await outbox.depths()
            await ping(database)

    await asyncio.gather(*(work(database) for database in replicas for _ in range(4)))
    for database in replicas:
        await database.close()
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == 40
    await _assert_nothing_is_left_behind(pooled, owner)


async def test_migrating_works_and_leaves_nothing(unmigrated: TestDatabase, owner_of_empty: Any) -> None:
    async with pooler(unmigrated.owner_url, unmigrated.owner_url, size=_SESSIONS) as pooled:
        for before in (None, "up to date"):
            for chain in (ARCHIVE, VECTORS):
                found = await asyncio.to_thread(migrate, pooled.url, chain)
                assert found == (before and chain.version, chain.version)
        await _assert_nothing_is_left_behind(pooled, owner_of_empty)


@pytest_asyncio.fixture
async def owner_of_empty(unmigrated: TestDatabase) -> AsyncIterator[Any]:
    connection = await connect(unmigrated.owner_url)
    yield connection
    await connection.close()


async def test_a_cache_that_loses_statements_is_given_up_and_one_line_says_so(
    pooled: Pooler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    database = Database(pooled.url, pool_size=2, statement_cache="on")
    archive = Archive(database)
    record = record_of(audit_record())
    for _ in range(20):
        try:
            await archive.write([record])
            await archive.find(Table.AUDIT_RECORDS, [record.key])
        except TransientError:
            continue
    assert len(await archive.find(Table.AUDIT_RECORDS, [record.key])) == 1
    [line] = [entry.getMessage() for entry in caplog.records if entry.name == sessions_module.__name__]
    assert "DATASTORAGE_DATABASE_STATEMENT_CACHE=off" in line
    await database.close()


class _ByTurns(FreezableProxy):
    """Connects each client to the next of several URLs."""

    def __init__(self, *urls: str) -> None:
        super().__init__(urls[0])
        self._urls = itertools.cycle(urls)
        self.connections = 0

    def skip(self) -> None:
        next(self._urls)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The proxy has no other hook before it connects a client.
        self.connections += 1
        self.redirect_to(next(self._urls))
        await super()._connect(reader, writer)


async def test_an_address_of_both_a_pooler_and_a_server_keeps_no_statements(
    pooled: Pooler, cloned: TestDatabase
) -> None:
    async with _ByTurns(pooled.url, cloned.service_url) as proxy:
        connector = Connector(statement_cache="auto", command_seconds=DEADLINE_SECONDS)
        url = parse_url(proxy.url, "DATASTORAGE_DATABASE_URL")
        # It begins by keeping statements, and then without.
        for connections in (2, 5):
            async with asyncio.timeout(DEADLINE_SECONDS):
                session = await connector.connect(url, "PostgreSQL")
            assert proxy.connections == connections
            for number in range(5):
                assert await session.fetchval("SELECT $1::bigint", number) == number
            assert await session.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
            await session.close()
            proxy.skip()


async def test_statements_are_kept_on_a_direct_connection(database: Database) -> None:
    async with database.connection() as connection:
        await connection.fetchval("SELECT 1 + 1")
        kept = await connection.fetch("SELECT statement FROM pg_prepared_statements")
    assert "SELECT 1 + 1" in [row["statement"] for row in kept]


@pytest.mark.parametrize(
    ("through_pooler", "mode"), [(False, "force_generic_plan"), (True, "force_custom_plan")]
)
async def test_one_plan_serves_all_values_where_statements_are_kept(
    pooled: Pooler,
    cloned: TestDatabase,
    through_pooler: bool,  # noqa: FBT001
    mode: str,
) -> None:
    database = Database(pooled.url if through_pooler else cloned.service_url, pool_size=1)
    async with reading(database, plan=ONE_PLAN) as connection:
        await set_further(connection, plan=ONE_PLAN)
        assert await connection.fetchval("SELECT current_setting('plan_cache_mode')") == mode
    await database.close()


async def test_none_are_kept_where_a_setting_says_so(cloned: TestDatabase) -> None:
    database = Database(cloned.service_url, pool_size=1, statement_cache="off")
    async with database.connection() as connection:
        await connection.fetchval("SELECT 1 + 1")
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await database.close()


async def test_a_parameter_that_the_pooler_does_not_take_is_named(pooled: Pooler) -> None:
    database = Database(f"{pooled.url}?statement_timeout=5s", pool_size=1)
    with pytest.raises(
        ConfigurationError, match=r"DATASTORAGE_DATABASE_URL.*statement_timeout.*ignore_startup_parameters"
    ):
        await ping(database)
    await database.close()
