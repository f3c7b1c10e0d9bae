"""One PostgreSQL for the run, and a freshly migrated archive in it for each scenario."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from benchmarks.errors import BenchmarkError, LossError
from harness.archive import fetch
from harness.postgres import PostgresServer, TestDatabases

# An acknowledged commit must be on disk, or the numbers are not those of a safe operator.
_SAFE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_COUNT: Final = "SELECT count(*) FROM datastorage.audit_records"
_FIRST_COMMIT: Final = "SELECT min(stored_at) FROM datastorage.audit_records"
_UIDS: Final = "SELECT uid FROM datastorage.audit_records"


@dataclass(frozen=True)
class Archive:
    """The database of one scenario."""

    owner_url: str
    service_url: str

    async def count(self) -> int:
        """Return the number of rows."""
        return int((await fetch(self.owner_url, _COUNT))[0][0])

    @staticmethod
    async def count_by(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
        """Return the number of rows, over a connection that stays open."""
        return int(await connection.fetchval(_COUNT))

    async def first_commit(self) -> float:
        """Return when the first transaction that stored a row began (Unix seconds)."""
        return float((await fetch(self.owner_url, _FIRST_COMMIT))[0][0].timestamp())

    async def analyze(self) -> None:
        """Collect the statistics that autovacuum collects within a minute or two.

        Without them PostgreSQL guesses, and reads whole namespaces in place of an index.
        """
        await fetch(self.owner_url, "ANALYZE")

    async def verify(self, uids: set[str]) -> None:
        """Raise LossError unless there is exactly one row for each of the uids, and no other."""
        rows = await fetch(self.owner_url, _UIDS)
        stored = {str(row["uid"]) for row in rows}
        if len(rows) != len(uids) or stored != uids:
            raise LossError(
                f"created {len(uids)} objects, found {len(rows)} rows: {len(uids - stored)} lost, "
                f"{len(stored - uids)} unknown, {len(rows) - len(stored)} duplicate"
            )


@dataclass(frozen=True)
class Archives:
    """The server, and its version."""

    server: PostgresServer
    databases: TestDatabases
    version: str

    async def archive(self) -> Archive:
        """Make an empty archive."""
        made = await self.databases.clone()
        return Archive(made.owner_url, made.service_url)


@asynccontextmanager
async def archives() -> AsyncIterator[Archives]:
    """Run a server until the context ends. Raises BenchmarkError when it acknowledges what is not on disk."""
    with PostgresServer(durable=True) as server:
        for name, wanted in _SAFE.items():
            actual = await _setting(server, name)
            if actual != wanted:
                raise BenchmarkError(f"PostgreSQL runs with {name} = {actual}")
        databases = TestDatabases(server.owner_url)
        await asyncio.to_thread(databases.prepare)
        yield Archives(server, databases, await _setting(server, "server_version"))


async def _setting(server: PostgresServer, name: str) -> str:
    return str((await fetch(server.owner_url, "SELECT current_setting($1)", name))[0][0])
