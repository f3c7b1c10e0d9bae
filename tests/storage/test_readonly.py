"""Reads have their settings, in a transaction only where the session lacks them, and leave nothing behind."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from datastorage.errors import WorkRefusedError
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session
from datastorage.storage.readonly import ONE_PLAN, OWN_PLAN, READING, reading, set_further
from harness.objects import audit_record
from harness.postgres import TestDatabase
from tests.support.archive import searchable

_IN_FORCE = """
    SELECT current_setting('jit') AS jit, current_setting('max_parallel_workers_per_gather') AS workers,
        current_setting('plan_cache_mode') AS plan, current_setting('transaction_read_only') AS read_only,
        current_setting('enable_seqscan') AS seqscan
"""


@pytest_asyncio.fixture
async def for_questions(cloned: TestDatabase) -> AsyncIterator[Database]:
    """A database whose one session has the settings of reads."""
    database = Database(cloned.service_url, pool_size=1, session_settings=READING)
    yield database
    await database.close()


async def test_a_session_for_questions_reads_without_a_transaction(for_questions: Database) -> None:
    async with reading(for_questions, plan=ONE_PLAN) as connection:
        found = await connection.fetchrow(_IN_FORCE)
        assert not connection.is_in_transaction()
    assert (found["jit"], found["workers"], found["plan"]) == ("off", "0", "force_generic_plan")


@pytest.mark.parametrize("plan", [ONE_PLAN, OWN_PLAN])
async def test_any_other_session_reads_in_a_transaction(cloned: TestDatabase, plan: str) -> None:
    database = Database(cloned.service_url, pool_size=1)
    async with reading(database, plan=plan) as connection:
        found = await connection.fetchrow(_IN_FORCE)
    assert (found["jit"], found["workers"], found["read_only"]) == ("off", "0", "on")
    assert f"plan_cache_mode = {found['plan']}" == plan
    async with database.connection() as connection:
        left = await connection.fetchrow(_IN_FORCE)
    assert (left["plan"], left["read_only"]) == ("auto", "off")
    await database.close()


@pytest.mark.parametrize("session_settings", [(), READING])
async def test_what_a_block_changes_ends_with_it(
    cloned: TestDatabase, session_settings: tuple[str, ...]
) -> None:
    database = Database(cloned.service_url, pool_size=1, session_settings=session_settings)
    async with reading(database, plan=ONE_PLAN) as connection:
        before = await connection.fetchrow(_IN_FORCE)
        await set_further(connection, "enable_seqscan = off", plan=OWN_PLAN)
        within = await connection.fetchrow(_IN_FORCE)
    assert (before["seqscan"], before["plan"]) == ("on", "force_generic_plan")
    assert (within["seqscan"], within["plan"], within["read_only"]) == ("off", "force_custom_plan", "on")
    async with reading(database, plan=ONE_PLAN) as connection:
        after = await connection.fetchrow(_IN_FORCE)
    assert dict(after) == dict(before)
    await database.close()


@pytest.mark.parametrize("plan", [ONE_PLAN, OWN_PLAN])
async def test_a_failed_read_leaves_the_session_as_it_was(for_questions: Database, plan: str) -> None:
    with pytest.raises(WorkRefusedError):
        async with reading(for_questions, plan=plan) as connection:
            await connection.fetchval("SELECT 1 / $1::int", 0)
    async with reading(for_questions, plan=ONE_PLAN) as connection:
        assert await connection.fetchval("SELECT 1") == 1
        assert not connection.is_in_transaction()


@pytest.mark.parametrize("session_settings", [(), READING])
async def test_a_statement_may_take_no_longer_than_the_limit(
    cloned: TestDatabase, session_settings: tuple[str, ...]
) -> None:
    database = Database(cloned.service_url, pool_size=1, session_settings=session_settings)
    with pytest.raises(WorkRefusedError) as refused:
        async with reading(database, plan=ONE_PLAN, seconds=0.05) as connection:
            await connection.fetchval("SELECT pg_sleep(30)")
    assert refused.value.is_limit
    async with reading(database, plan=ONE_PLAN) as connection:
        assert await connection.fetchval("SELECT current_setting('statement_timeout')") == "0"
    await database.close()


async def test_a_search_takes_few_round_trips(cloned: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes as long as a small statement does, so that 33 of them took a third of a search."""
    sent: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(asyncpg.Connection, name)

        async def counted(self: Session, query: str, *arguments: Any, **options: Any) -> Any:
            sent[" ".join(query.split())[:60]] += 1
            return await method(self, query, *arguments, **options)

        monkeypatch.setattr(asyncpg.Connection, name, counted)

    async with searchable(cloned) as archive:
        await archive.put(*(audit_record({"message": f"the disk of worker {n} is full"}) for n in range(30)))
        await archive.ask.search("which disk is full?", limit=3)  # opens the connections
        for name in ("execute", "fetch", "fetchrow", "fetchval"):
            count(name)
        assert (await archive.ask.search("which disk is full?", limit=3)).hits
    assert sum(sent.values()) <= 22, sent
