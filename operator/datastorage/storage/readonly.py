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
ONE_PLAN: Final = "SET LOCAL plan_cache_mode = force_generic_plan"
"""For statements that look rows up by their keys or texts, whatever the values: planning them again takes
longer than they do, and the longer the more months there are."""
OWN_PLAN: Final = "SET LOCAL plan_cache_mode = force_custom_plan"
"""As ``reading`` begins."""
# Sets the time limit, unless the server's own limit is shorter.
_LIMIT: Final = """
    SELECT before, set_config('statement_timeout',
        CASE WHEN before::interval > '0' AND before::interval < $1::text::interval THEN before ELSE $1 END,
        true)
    FROM current_setting('statement_timeout') AS before
"""


@asynccontextmanager
async def reading(database: Database, settings: Mapping[str, str] | None = None) -> AsyncIterator[Session]:
    """Lend a connection in a read-only transaction. Raises TransientError when PostgreSQL can't serve."""
    chosen = {**_PLANNING, **(settings or {})}
    async with database.connection() as connection, transaction(connection, readonly=True):
        await connection.execute(_SET, list(chosen), list(chosen.values()))
        yield connection


async def limit_time(connection: Session, seconds: float) -> str:
    """Limit the time of each statement until the transaction ends; return the limit from before.

    PostgreSQL ends a statement that takes longer, with an error.
    """
    before: str = await connection.fetchval(_LIMIT, f"{seconds * 1000:.0f}ms")
    return before
