"""Opens read-only transactions for reading the archive, with settings that end with the transaction."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, transaction

_SET: Final = "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS s (name, value)"
# A plan for the actual values leaves out conditions that are not set, and months that can't match. Without
# this setting, a session may switch to a generic plan, which reads everything. JIT compilation and parallel
# workers take more time than they save for reads of this size.
_PLANNING: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


@asynccontextmanager
async def reading(database: Database, settings: Mapping[str, str] | None = None) -> AsyncIterator[Session]:
    """Lend a connection in a read-only transaction. Raises TransientError when PostgreSQL can't serve."""
    chosen = {**_PLANNING, **(settings or {})}
    async with database.connection() as connection, transaction(connection, readonly=True):
        await connection.execute(_SET, list(chosen), list(chosen.values()))
        yield connection
