"""The PostgreSQL that is measured, and what it spends."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import asyncpg
import psutil
from pgvector.asyncpg import register_vector

from benchmarks.cpu import Disturbance, cpu_seconds
from benchmarks.errors import BenchmarkError
from benchmarks.vector_index.corpus import Corpus
from datastorage.embedded import EmbeddedPostgres, start_embedded_postgres

# Durable, and with the memory of a server that nobody has tuned.
_EXPECTED: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "64MB",
}
_ATTEMPTS: Final = 5


@dataclass
class Usage:
    """What a step took. Filled in when the step is over."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    wal_bytes: int = 0
    others: float = 0.0
    """Part of the machine's CPU time that other programs used meanwhile, from 0 to 1."""


class Server:
    """A server with the extension; a context manager."""

    def __init__(self, directory: Path, shared_buffers: str) -> None:
        self._directory = directory
        self._server: EmbeddedPostgres | None = None
        self._expected = _EXPECTED | {"shared_buffers": shared_buffers}
        self._control: Any = None
        self.version = ""

    async def __aenter__(self) -> Self:
        await self._start()
        if self._expected["shared_buffers"] != _EXPECTED["shared_buffers"]:
            await self._control.execute(
                f"ALTER SYSTEM SET shared_buffers = '{self._expected['shared_buffers']}'"
            )
            await self._stop()
            await self._start()
        await self._control.execute("CREATE EXTENSION vector")
        for name, wanted in self._expected.items():
            actual = await self._control.fetchval("SELECT current_setting($1)", name)
            if actual != wanted:
                raise BenchmarkError(f"PostgreSQL runs with {name} = {actual}, not {wanted}")
        self.version = await self._control.fetchval(
            "SELECT current_setting('server_version') || ', pgvector ' || extversion "
            "FROM pg_extension WHERE extname = 'vector'"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        self._server = await asyncio.to_thread(start_embedded_postgres, self._directory)
        self._control = await asyncpg.connect(self._server.owner_url)

    async def _stop(self) -> None:
        if self._server is not None:
            await self._control.close()
            await asyncio.to_thread(self._server.stop)

    @asynccontextmanager
    async def connect(self, **settings: str | int) -> AsyncIterator[Any]:
        """Open a connection with settings of its own; an underscore pair in a name stands for a dot."""
        if self._server is None:
            raise BenchmarkError("PostgreSQL is used outside of its context")
        connection = await asyncpg.connect(self._server.owner_url)
        try:
            await register_vector(connection)
            for name, value in settings.items():
                await connection.execute(f"SET {name.replace('__', '.')} = '{value}'")
            yield connection
        finally:
            await connection.close()

    async def execute(self, *statements: str) -> None:
        """Run statements, each on its own."""
        for statement in statements:
            await self._control.execute(statement)

    async def mebibytes(self, relation: str) -> float:
        """Return the size of a table without its indexes, or of an index."""
        return float(await self._control.fetchval("SELECT pg_table_size($1::regclass)", relation)) / 2**20

    @asynccontextmanager
    async def meter(self) -> AsyncIterator[Usage]:
        """Measure what the server spends inside the block."""
        usage = Usage()
        pid = self._pid()
        disturbance = Disturbance([pid])
        started, cpu, wal = time.monotonic(), _cpu_seconds([pid]), await self._wal()
        yield usage
        usage.seconds = time.monotonic() - started
        usage.cpu_seconds = _cpu_seconds([pid]) - cpu
        usage.wal_bytes = await self._wal() - wal
        usage.others = disturbance.share()

    async def fill(self, table: str, corpus: Corpus, start: int, stop: int) -> None:
        """Copy rows into a table."""
        async with self.connect() as connection:
            for first in range(start, stop, 10_000):
                keys, vectors = corpus.rows(first, min(first + 10_000, stop))
                await connection.copy_records_to_table(table, records=zip(keys, vectors, strict=True))
            await connection.execute(f"VACUUM ANALYZE {table}")

    def _pid(self) -> int:
        return int((self._directory / "postmaster.pid").read_text().splitlines()[0])

    async def _wal(self) -> int:
        return int(await self._control.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


def load_average() -> float:
    """Return how many processes wanted to run during the last minute."""
    return round(os.getloadavg()[0], 2)


def _cpu_seconds(pids: Iterable[int]) -> float:
    pids = list(pids)
    for _ in range(_ATTEMPTS):
        try:
            return cpu_seconds(pids)
        except psutil.NoSuchProcess:  # a background worker ended between two looks
            continue
    raise BenchmarkError("the server's processes come and go too fast to be measured")
