"""The server behind a connection may change: standbys, promotions, demotions, connections that die."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from datastorage.errors import TransientError
from datastorage.metrics import Dependency
from datastorage.query.export import ArchiveExports
from datastorage.query.filters import Filter, SearchMode
from datastorage.resilience.breaker import Breaker
from datastorage.storage.connection.database import Database
from datastorage.storage.export import ExportReader
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, record_of
from harness.polling import DEADLINE_SECONDS, eventually
from harness.postgres import PostgresServer, StandbyServer, connect
from harness.proxy import FreezableProxy, silent_server
from tests.support.archive import searchable
from tests.support.ping import ping
from tests.support.serverpair import ServerPair, server_pair

_COUNT = "SELECT count(DISTINCT uid) FROM datastorage.audit_records WHERE namespace = $1"


@pytest.fixture(scope="module")
def pair() -> Iterator[ServerPair]:
    with server_pair() as made:
        yield made


class Writer:
    """The archive as the operator writes to it, behind the breaker that the operator has."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=4, writable=True)
        self.archive = Archive(self.database)
        self.breaker = Breaker(Dependency.POSTGRES, self.archive.probe, on_recovery=lambda: None)

    async def store(self, body: dict[str, Any]) -> None:
        """Store an object; return when it is stored."""
        await self.breaker.run(lambda: self.archive.write([record_of(body)]))

    async def close(self) -> None:
        await self.breaker.close()
        await self.database.close()


@pytest_asyncio.fixture
async def writers() -> AsyncIterator[Callable[[str], Writer]]:
    made: list[Writer] = []

    def make(url: str) -> Writer:
        made.append(Writer(url))
        return made[-1]

    yield make
    for writer in made:
        await writer.close()


async def _cut(url: str) -> None:
    """Cut all other connections to a database."""
    connection = await connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    await connection.close()


def _says(writer: Writer, words: str) -> Callable[[], bool]:
    return lambda: words in (writer.breaker.reason or "")


async def test_a_standby_exports_nothing(pair: ServerPair) -> None:
    """It does not know which transactions of the primary may still add rows."""
    database = Database(pair.on_standby.service_url, pool_size=1)
    with pytest.raises(TransientError, match="is a standby"):
        await ArchiveExports(ExportReader(database)).begin()
    await database.close()


async def test_a_pool_that_met_a_standby_leaves_it(
    pair: ServerPair, writers: Callable[[str], Writer]
) -> None:
    async with FreezableProxy(pair.database.service_url) as proxy:
        writer = writers(proxy.url)
        await writer.store(audit_record())
        proxy.redirect_to(pair.on_standby.service_url)
        await _cut(pair.database.owner_url)
        waiting = asyncio.create_task(writer.store(audit_record()))
        await eventually(_says(writer, "is a read-only standby"))
        proxy.redirect_to(pair.database.service_url)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await waiting
        await writer.store(audit_record())


async def test_the_start_waits_for_the_primary(pair: ServerPair, writers: Callable[[str], Writer]) -> None:
    async with FreezableProxy(pair.on_standby.service_url) as proxy:
        writer = writers(proxy.url)
        starting = asyncio.create_task(writer.breaker.run(writer.database.check_schema_version))
        await eventually(_says(writer, "is a read-only standby"))
        proxy.redirect_to(pair.database.service_url)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await starting


async def test_a_standby_answers_all_questions(pair: ServerPair) -> None:
    async with searchable(pair.database) as archive:
        body = audit_record({**AUDIT_SPEC, "action": "restart-checkout"}, namespace="standby")
        await archive.put(body)
    uid = body["metadata"]["uid"]
    async with searchable(pair.on_standby) as copy:

        async def has_arrived() -> bool:
            return bool((await copy.ask.list(Filter(namespace="standby"))).records)

        await eventually(has_arrived)
        assert (await copy.ask.get(uid)).uid == uid
        assert (await copy.ask.timeline(body["spec"]["correlationID"])).entries
        for mode in SearchMode:
            found = await copy.ask.search("restart-checkout", Filter(namespace="standby"), mode=mode)
            assert [hit.record.uid for hit in found.hits] == [uid]
            assert found.degraded is None


def _with_hosts(url: str, *hosts: str, query: str = "") -> str:
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    return urlsplit(url)._replace(netloc=f"{user}{at}{','.join(hosts)}", query=query).geturl()


@pytest.mark.parametrize("query", ["", "&target_session_attrs=read-write"])
async def test_a_writer_finds_the_primary_among_several_hosts(
    pair: ServerPair, writers: Callable[[str], Writer], query: str
) -> None:
    with silent_server() as silent:
        hosts = [silent, f"127.0.0.1:{pair.standby.port}", "127.0.0.1:1", f"127.0.0.1:{pair.primary.port}"]
        writer = writers(_with_hosts(pair.database.service_url, *hosts, query=f"connect_timeout=1{query}"))
        async with asyncio.timeout(DEADLINE_SECONDS):
            await writer.store(audit_record())


async def test_the_fault_of_each_of_several_hosts_is_reported(pair: ServerPair) -> None:
    hosts = ["127.0.0.1:1", f"127.0.0.1:{pair.standby.port}"]
    database = Database(_with_hosts(pair.database.service_url, *hosts), pool_size=1, writable=True)
    with pytest.raises(TransientError) as caught:
        await ping(database)
    assert str(caught.value) == (
        f"PostgreSQL at {hosts[0]} can't be reached: Connection refused; "
        f"PostgreSQL at {hosts[1]} is a read-only standby, and the primary is needed"
    )
    await database.close()


async def test_a_reader_takes_any_host_and_the_one_it_asks_for(pair: ServerPair) -> None:
    hosts = [f"127.0.0.1:{pair.primary.port}", f"127.0.0.1:{pair.standby.port}"]
    for query, standby in (("", False), ("target_session_attrs=standby", True),
                           ("target_session_attrs=prefer-standby", True)):  # fmt: skip
        database = Database(_with_hosts(pair.database.service_url, *hosts, query=query), pool_size=1)
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT pg_is_in_recovery()") is standby
        await database.close()


async def test_nothing_is_lost_when_a_standby_takes_over_under_load(
    pair: ServerPair, writers: Callable[[str], Writer]
) -> None:
    is_gone = False
    try:
        with StandbyServer(pair.primary) as heir:
            # Acknowledged commits are on the standby then, too.
            await _configure(pair.primary, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (*)'")
            async with FreezableProxy(pair.database.service_url) as proxy:
                writer = writers(proxy.url)
                bodies = [audit_record(namespace="load") for _ in range(200)]
                stored = 0

                async def load(some: list[dict[str, Any]]) -> None:
                    nonlocal stored
                    for body in some:
                        await writer.store(body)
                        stored += 1

                loading = [asyncio.create_task(load(bodies[n::4])) for n in range(4)]
                await eventually(lambda: stored > 40)
                is_gone = True
                await asyncio.to_thread(pair.primary.stop, "immediate")
                await asyncio.to_thread(heir.promote)
                proxy.redirect_to(heir.moved(pair.database.service_url))
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await asyncio.gather(*loading)
                connection = await connect(heir.moved(pair.database.owner_url))
                assert await connection.fetchval(_COUNT, "load") == len(bodies)
                await connection.close()
    finally:
        if is_gone:
            pair.primary.start()
        await _configure(pair.primary, "ALTER SYSTEM RESET synchronous_standby_names")


async def _configure(server: PostgresServer, statement: str) -> None:
    connection = await connect(server.owner_url)
    await connection.execute(statement)
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
