"""Lends connections for reading the archive, with the settings that reads need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, readonly_transaction, set_until_commit
from datastorage.storage.criteria import Criteria, Shape
from datastorage.storage.schema import Chain

ONE_PLAN: Final = "plan_cache_mode = force_generic_plan"
"""For statements whose best plan is the same for all values. Planning them again takes longer than executing
them, and the longer the more months there are."""
OWN_PLAN: Final = "plan_cache_mode = force_custom_plan"
"""A plan for the actual values leaves out conditions that are not set, and months that can't match. Without
this setting, a session may switch to a generic plan, which reads everything if conditions are left out."""
# JIT compilation and parallel workers take more time than they save for reads of this size.
_SETTINGS: Final = ("jit = off", "max_parallel_workers_per_gather = 0")
READING: Final = (*_SETTINGS, ONE_PLAN)
"""The settings of the sessions of a database that only serves questions. A read with no further settings then
needs no transaction, which would take two more round trips: as long as two small statements."""


def plan_for(criteria: Criteria) -> str:
    """Return the setting for a ShapedStatement."""
    return OWN_PLAN if criteria.shape is Shape.ANY else ONE_PLAN


def time_limit(seconds: float) -> str:
    """Return the statement that limits the time of each statement until the transaction ends.

    PostgreSQL ends a statement that takes longer, with an error. The server's own limit holds if it is
    shorter.
    """
    limit = f"'{seconds * 1000:.0f}ms'"
    return f"""SELECT set_config('statement_timeout',
        CASE WHEN before::interval > '0' AND before::interval < {limit} THEN before ELSE {limit} END, true)
    FROM current_setting('statement_timeout') AS before"""  # noqa: S608  # a number


@asynccontextmanager
async def reading(
    database: Database,
    *settings: str,
    plan: str = OWN_PLAN,
    seconds: float | None = None,
    chain: Chain | None = None,
) -> AsyncIterator[Session]:
    """Lend a connection for statements that only read. Raises TransientError when PostgreSQL can't serve.

    ``settings`` are such as "jit = off", ``plan`` is ONE_PLAN or OWN_PLAN, ``chain`` is that of
    ``Database.connection``. Each statement may take ``seconds``, if given. The statements are in a read-only
    transaction if the session lacks any of the settings; each of them sees what was committed before it
    either way.
    """
    async with database.connection(chain) as connection:
        # Behind a pooler no statement is kept, so that one plan would be made each time, and be no better.
        chosen = OWN_PLAN if connection.pooled else plan
        missing = [each for each in (*_SETTINGS, *settings, chosen) if each not in connection.settings]
        limits = [] if seconds is None else [time_limit(seconds)]
        async with readonly_transaction(connection, missing, limits):
            yield connection


async def set_further(connection: Session, *settings: str, plan: str | None = None) -> None:
    """Change settings, and the plan, for the statements that follow in the block of ``reading``."""
    chosen = () if plan is None or connection.pooled else (plan,)
    if settings or chosen:
        await set_until_commit(connection, (*settings, *chosen))
