"""One embedded PostgreSQL for the run, and a freshly migrated database for each scenario."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.errors import BenchmarkError, LossError
from datastorage.embedded import EmbeddedPostgres, create_service_role, start_embedded_postgres

# An acknowledged commit must be on disk, or the numbers are not those of a safe operator.
_SAFE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
PROGRAM: Final = Path(sys.executable).with_name("datastorage")


@dataclass(frozen=True)
class Archive:
    """The database of one scenario."""

    owner_url: str
    service_url: str

    async def count(self) -> int:
        """Return the number of rows."""
        connection = await asyncpg.connect(self.owner_url)
        try:
            return await self.count_by(connection)
        finally:
            await connection.close()

    @staticmethod
    async def count_by(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
        """Return the number of rows, over a connection that stays open."""
        return int(await connection.fetchval("SELECT count(*) FROM datastorage.audit_records"))

    async def first_commit(self) -> float:
        """Return when the first transaction that stored a row began (Unix seconds)."""
        connection = await asyncpg.connect(self.owner_url)
        try:
            first: datetime = await connection.fetchval(
                "SELECT min(stored_at) FROM datastorage.audit_records"
            )
        finally:
            await connection.close()
        return first.timestamp()

    async def verify(self, uids: set[str]) -> None:
        """Raise LossError unless there is exactly one row for each of the uids, and no other."""
        connection = await asyncpg.connect(self.owner_url)
        try:
            rows = await connection.fetch("SELECT uid FROM datastorage.audit_records")
        finally:
            await connection.close()
        stored = {str(row["uid"]) for row in rows}
        if len(rows) != len(uids) or stored != uids:
            raise LossError(
                f"created {len(uids)} objects, found {len(rows)} rows: {len(uids - stored)} lost, "
                f"{len(stored - uids)} unknown, {len(rows) - len(stored)} duplicate"
            )


class Postgres:
    """The server; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: EmbeddedPostgres | None = None
        self.version = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.to_thread(start_embedded_postgres, self._directory)
        connection = await asyncpg.connect(self._server.owner_url)
        try:
            for name, wanted in _SAFE.items():
                actual = await connection.fetchval("SELECT current_setting($1)", name)
                if actual != wanted:
                    raise BenchmarkError(f"PostgreSQL runs with {name} = {actual}")
            self.version = await connection.fetchval("SELECT current_setting('server_version')")
        finally:
            await connection.close()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    @property
    def pid(self) -> int:
        """The process id of the server's parent process."""
        return int((self._directory / "postmaster.pid").read_text().splitlines()[0])

    async def archive(self, name: str) -> Archive:
        """Make and migrate a database."""
        if self._server is None:
            raise BenchmarkError("PostgreSQL is used outside of its context")
        connection = await asyncpg.connect(self._server.owner_url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()
        archive = Archive(_of(self._server.owner_url, name), _of(self._server.service_url, name))
        await asyncio.to_thread(_migrate, archive.owner_url)
        await create_service_role(archive.owner_url)
        return archive


def _of(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _migrate(owner_url: str) -> None:
    environment = os.environ | {"DATASTORAGE_DATABASE_OWNER_URL": owner_url}
    done = subprocess.run(
        [PROGRAM, "migrate"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"datastorage migrate failed: {done.stderr.strip()}")
