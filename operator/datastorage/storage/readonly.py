"""Opens read-only transactions for reading the archive, with settings that end with the transaction."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, readonly_transaction
from datastorage.storage.criteria import Shape

ONE_PLAN: Final = "SET LOCAL plan_cache_mode = force_generic_plan"
"""For statements that look rows up by their keys or texts, whatever the values: planning them again takes
longer than they do, and the longer the more months there are."""
OWN_PLAN: Final = "SET LOCAL plan_cache_mode = force_custom_plan"
"""A plan for the actual values leaves out conditions that are not set, and months that can't match. Without
this setting, a session may switch to a generic plan, which reads everything."""
# JIT compilation and parallel workers take more time than they save for reads of this size.
_SETTINGS: Final = ("SET LOCAL jit = off", "SET LOCAL max_parallel_workers_per_gather = 0", OWN_PLAN)
PLAN_OF: Final[Mapping[Shape, str]] = {
    Shape.EVERYWHERE: ONE_PLAN, Shape.NAMESPACE: ONE_PLAN, Shape.ANY: OWN_PLAN,
}  # fmt: skip
"""The setting for a StatementOfShape."""
# Sets the time limit, unless the server's own limit is shorter.
_LIMIT: Final = """
    SELECT set_config('statement_timeout',
        CASE WHEN before::interval > '0' AND before::interval < $1::text::interval THEN before ELSE $1 END,
        true)
    FROM current_setting('statement_timeout') AS before
"""


@asynccontextmanager
async def reading(database: Database, *settings: str) -> AsyncIterator[Session]:
    """Lend a connection in a read-only transaction. Raises TransientError when PostgreSQL can't serve.

    ``settings`` are SET LOCAL statements. Without ONE_PLAN, every statement gets OWN_PLAN.
    """
    async with (
        database.connection() as connection,
        readonly_transaction(connection, (*_SETTINGS, *settings)),
    ):
        yield connection


async def limit_time(connection: Session, seconds: float) -> None:
    """Limit the time of each statement until the transaction ends.

    PostgreSQL ends a statement that takes longer, with an error.
    """
    await connection.execute(_LIMIT, f"{seconds * 1000:.0f}ms")
