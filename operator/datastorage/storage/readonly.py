"""Opens read-only transactions for reading the archive, with settings that end with the transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, readonly_transaction
from datastorage.storage.criteria import Criteria, Shape
from datastorage.storage.schema import Chain

ONE_PLAN: Final = "SET LOCAL plan_cache_mode = force_generic_plan"
"""For statements whose best plan is the same for all values. Planning them again takes longer than executing
them, and the longer the more months there are."""
OWN_PLAN: Final = "SET LOCAL plan_cache_mode = force_custom_plan"
"""A plan for the actual values leaves out conditions that are not set, and months that can't match. Without
this setting, a session may switch to a generic plan, which reads everything if conditions are left out."""
# JIT compilation and parallel workers take more time than they save for reads of this size.
_SETTINGS: Final = ("SET LOCAL jit = off", "SET LOCAL max_parallel_workers_per_gather = 0")
# Sets the time limit, unless the server's own limit is shorter.
_LIMIT: Final = """
    SELECT set_config('statement_timeout',
        CASE WHEN before::interval > '0' AND before::interval < $1::text::interval THEN before ELSE $1 END,
        true)
    FROM current_setting('statement_timeout') AS before
"""


def plan_for(criteria: Criteria) -> str:
    """Return the setting for a ShapedStatement."""
    return OWN_PLAN if criteria.shape is Shape.ANY else ONE_PLAN


@asynccontextmanager
async def reading(
    database: Database, *settings: str, plan: str = OWN_PLAN, chain: Chain | None = None
) -> AsyncIterator[Session]:
    """Lend a connection in a read-only transaction. Raises TransientError when PostgreSQL can't serve.

    ``settings`` are SET LOCAL statements, ``plan`` is ONE_PLAN or OWN_PLAN, ``chain`` is that of
    ``Database.connection``.
    """
    async with database.connection(chain) as connection:
        # Behind a pooler no statement is kept, so that one plan would be made each time, and be no better.
        chosen = OWN_PLAN if connection.pooled else plan
        async with readonly_transaction(connection, (*_SETTINGS, *settings, chosen)):
            yield connection


async def change_plan(connection: Session, before: str, plan: str) -> None:
    """Change the setting of ``reading`` for the statements that follow in its transaction."""
    if plan != before and not connection.pooled:
        await connection.execute(plan)


async def limit_time(connection: Session, seconds: float) -> None:
    """Limit the time of each statement until the transaction ends.

    PostgreSQL ends a statement that takes longer, with an error.
    """
    await connection.execute(_LIMIT, f"{seconds * 1000:.0f}ms")
