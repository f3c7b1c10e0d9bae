"""Reading the archive: a read-only transaction, with settings that end with it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, transaction

_SET: Final = "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS s (name, value)"
# A plan for the actual values leaves out conditions that are not set, and months that can't match. The
# generic plan, to which a session would switch by itself, reads everything. JIT compilation and parallel
# workers cost more than they save for reads of this size.
_PLANNING: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


@asynccontextmanager
async def reading(database: Database, settings: Mapping[str, str] | None = None) -> AsyncIterator[Session]:
    """Borrow a connection for reads. Raises TransientError when PostgreSQL can't serve."""
    chosen = {**_PLANNING, **(settings or {})}
    async with database.connection() as connection, transaction(connection, readonly=True):
        await connection.execute(_SET, list(chosen), list(chosen.values()))
        yield connection
