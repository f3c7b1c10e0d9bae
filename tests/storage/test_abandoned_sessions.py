"""Statements that were given up behind a lock leave no sessions at the server."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from datastorage.errors import TransientError
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import transaction
from harness.polling import until
from harness.postgres import TestDatabase

LOCK = "LOCK TABLE datastorage.audit_records IN ACCESS EXCLUSIVE MODE"
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""


@pytest.mark.oldest_postgres
async def test_the_session_of_a_statement_that_was_given_up_ends(cloned: TestDatabase) -> None:
    """While the lock lasts: otherwise a long one would use up max_connections."""
    owner, observer = await asyncpg.connect(cloned.owner_url), await asyncpg.connect(cloned.owner_url)
    database = Database(cloned.service_url, pool_size=4)
    try:
        for _ in range(2):  # a session that was used before has the setting still
            async with database.connection() as connection:
                await connection.fetchval("SELECT 1")
        async with owner.transaction():
            await owner.execute(LOCK)

            async def ask() -> None:
                with suppress(TransientError):
                    async with database.connection() as connection, transaction(connection):
                        await connection.fetchval("SELECT count(*) FROM datastorage.audit_records")

            asked = [asyncio.create_task(ask()) for _ in range(3)]

            async def waiting(count: int) -> bool:
                return bool(await observer.fetchval(WAITING) == count)

            await until(lambda: waiting(3), what="the statements wait for the lock")
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await until(lambda: waiting(0), what="nobody waits any more")
    finally:
        await database.close()
        await owner.close()
        await observer.close()
