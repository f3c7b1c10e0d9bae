"""Two servers of PostgreSQL: a primary with a migrated database, and a standby that follows it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.postgres import PostgresServer, StandbyServer, TestDatabase, TestDatabases


@dataclass(frozen=True)
class ServerPair:
    """A primary with a migrated database, and a standby that follows it."""

    primary: PostgresServer
    standby: StandbyServer
    database: TestDatabase

    @property
    def on_standby(self) -> TestDatabase:
        """The same database as the standby has it."""
        return TestDatabase(
            self.database.name,
            self.standby.moved(self.database.owner_url),
            self.standby.moved(self.database.service_url),
        )


@contextmanager
def server_pair() -> Iterator[ServerPair]:
    """Run both servers until the end of the block. Needs a thread without a running event loop."""
    with PostgresServer() as primary:
        databases = TestDatabases(primary.owner_url)
        databases.prepare()
        database = asyncio.run(databases.clone())
        with StandbyServer(primary) as standby:
            yield ServerPair(primary, standby, database)
