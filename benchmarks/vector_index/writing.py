"""Writes: batches as fast as they go, a steady rate, and the moving of rows from the recent table."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from benchmarks.vector_index.corpus import Corpus, Rows
from benchmarks.vector_index.results import Value, spent
from benchmarks.vector_index.searching import percentiles
from benchmarks.vector_index.server import Server

STEADY_ROWS_PER_SECOND: Final = 200
_STEADY_BATCH: Final = 20
_MOVES_PER_SECOND: Final = 4


def insert(table: str) -> str:
    """Return the statement that stores a batch in the table."""
    return (
        f"INSERT INTO {table} (key, embedding) SELECT * FROM unnest($1::bytea[], $2::vector[]) "
        "ON CONFLICT DO NOTHING"
    )


def insert_unless_in(table: str, older: str) -> str:
    """Return the statement that stores what of a batch the older table does not have yet."""
    return (
        f"INSERT INTO {table} (key, embedding) "
        "SELECT new.* FROM unnest($1::bytea[], $2::vector[]) AS new (key, embedding) "
        f"WHERE NOT EXISTS (SELECT FROM {older} AS old WHERE old.key = new.key) ON CONFLICT DO NOTHING"
    )


def move(recent: str, older: str) -> str:
    """Return the statement that moves $1 rows to the older table."""
    return (
        f"WITH batch AS MATERIALIZED (SELECT ctid FROM {recent} LIMIT $1 FOR UPDATE SKIP LOCKED), "
        f"moved AS (DELETE FROM {recent} WHERE ctid = ANY (ARRAY(SELECT ctid FROM batch)) "
        "RETURNING key, embedding) "
        f"INSERT INTO {older} (key, embedding) SELECT key, embedding FROM moved ON CONFLICT DO NOTHING"
    )


async def measure_writes(
    server: Server, statement: str, corpus: Corpus, rows: range, *, batch: int, writers: int
) -> dict[str, Value]:
    """Store the rows as fast as it goes; return latency and cost."""
    batches = list(corpus.batches(rows.start, rows.stop, batch))
    waiting = iter(batches)
    seconds: list[float] = []
    async with AsyncExitStack() as stack:
        # Open until after the reading: what a server process has used is gone for a moment when it ends.
        connections = [await stack.enter_async_context(server.connect()) for _ in range(writers)]
        async with server.meter() as usage, asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(_write(connection, statement, waiting, seconds))
    latency = percentiles(seconds)
    return {"batches": len(batches)} | latency.values() | spent(usage, len(rows))


async def _write(connection: Any, statement: str, batches: Iterator[Rows], seconds: list[float]) -> None:
    prepared = await connection.prepare(statement)
    for keys, vectors in batches:
        started = time.perf_counter()
        await prepared.fetch(keys, vectors)
        seconds.append(time.perf_counter() - started)


async def measure_moves(server: Server, statement: str, rows: int, batch: int) -> dict[str, Value]:
    """Move that many rows in batches as fast as it goes; return latency and cost."""
    seconds: list[float] = []
    async with server.connect() as connection, server.meter() as usage:
        prepared = await connection.prepare(statement)
        for _ in range(0, rows, batch):
            started = time.perf_counter()
            await prepared.fetch(batch)
            seconds.append(time.perf_counter() - started)
    return {"batches": len(seconds)} | percentiles(seconds).values() | spent(usage, rows)


class SteadyWriter:
    """Stores rows at a fixed rate for as long as its block lasts."""

    def __init__(self, server: Server, statement: str, corpus: Corpus, start: int) -> None:
        self._server = server
        self._statement = statement
        self._corpus = corpus
        self.written = start
        self.seconds: list[float] = []

    @asynccontextmanager
    async def running(self, move_statement: str | None = None) -> AsyncIterator[None]:
        """Write, and move at the same rate if a statement for it is given."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write())]
            if move_statement is not None:
                tasks.append(group.create_task(self._move(move_statement)))
            yield
            for task in tasks:
                task.cancel()

    async def _write(self) -> None:
        async with self._server.connect() as connection:
            prepared = await connection.prepare(self._statement)
            async for _ in _ticks(STEADY_ROWS_PER_SECOND / _STEADY_BATCH):
                keys, vectors = self._corpus.rows(self.written, self.written + _STEADY_BATCH)
                started = time.perf_counter()
                await prepared.fetch(keys, vectors)
                self.seconds.append(time.perf_counter() - started)
                self.written += _STEADY_BATCH

    async def _move(self, statement: str) -> None:
        async with self._server.connect() as connection:
            prepared = await connection.prepare(statement)
            async for _ in _ticks(_MOVES_PER_SECOND):
                await prepared.fetch(STEADY_ROWS_PER_SECOND // _MOVES_PER_SECOND)


async def _ticks(per_second: float) -> AsyncIterator[None]:
    due = time.monotonic()
    while True:
        yield
        due += 1 / per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
