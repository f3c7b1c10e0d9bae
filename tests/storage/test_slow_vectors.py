"""Vectors that take too long do not keep rows from being stored, and are written in smaller batches."""

from typing import Any

import pytest

from datastorage.pipeline.setaside import Pace
from datastorage.records.record import StoredRecord
from datastorage.records.vectorwrite import WriteState
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedRecords
from harness.objects import AUDIT_SPEC, audit_record
from harness.polling import eventually
from harness.postgres import TestDatabase
from tests.storage.pending import hash_of
from tests.storage.test_backfill import Stage, records, stage
from tests.support.storing import Storing
from tests.support.tasks import Spawn

__all__ = ["stage"]

COUNT = 120
PATIENCE = 120.0


async def slow_vectors(owner: Any, seconds: float, which: str = "") -> None:
    await owner.execute(f"""
        CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep({seconds}); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON datastorage.embeddings_1
            FOR EACH ROW {which} EXECUTE FUNCTION public.slow();
    """)


async def limit(owner: Any, cloned: TestDatabase, setting: str, value: str) -> None:
    role = cloned.service_url.split("//")[1].split(":")[0]
    await owner.execute(f"ALTER ROLE {role} IN DATABASE {cloned.name} SET {setting} = '{value}'")


async def pending(owner: Any) -> list[str | None]:
    """Return the last error of each pending vector. The limits hold for the service's role alone."""
    rows = await owner.fetch("SELECT last_error FROM datastorage.vector_outbox WHERE state = 'pending'")
    return [row["last_error"] for row in rows]


async def written(owner: Any) -> set[bytes]:
    return {row["text_hash"] for row in await owner.fetch("SELECT text_hash FROM datastorage.embeddings_1")}


async def test_vectors_too_many_for_one_statement_are_written_in_halves(
    stage: Stage, database: Database, owner: Any, cloned: TestDatabase, spawn: Spawn
) -> None:
    await stage.tables.model_id()
    batch = records(COUNT)
    await stage.writer.store_bare(batch)
    assert len(await pending(owner)) == COUNT
    await slow_vectors(owner, 0.01)
    await limit(owner, cloned, "statement_timeout", "500ms")
    database.expire_connections()
    spawn(stage.backfill.run())

    async def all_written() -> bool:
        return not await pending(owner)

    await eventually(all_written, seconds=PATIENCE)
    assert await written(owner) == {hash_of(record) for record in batch}
    assert stage.dependencies.vector_store.serving


async def test_one_vector_that_is_too_slow_holds_up_no_other(
    stage: Stage, database: Database, owner: Any, cloned: TestDatabase, spawn: Spawn
) -> None:
    batch = records(COUNT)
    await stage.tables.model_id()
    await stage.writer.store_bare(batch)
    await slow_vectors(owner, 3600, f"WHEN (NEW.text_hash = '\\x{hash_of(batch[17]).hex()}')")
    await limit(owner, cloned, "statement_timeout", "500ms")
    database.expire_connections()
    spawn(stage.backfill.run())

    async def all_but_one() -> bool:
        return len(await pending(owner)) == 1

    await eventually(all_but_one, seconds=PATIENCE)
    assert await written(owner) == {hash_of(record) for record in batch} - {hash_of(batch[17])}

    async def is_explained() -> bool:
        [last_error] = await pending(owner)
        return "statement timeout" in (last_error or "")

    await eventually(is_explained, seconds=PATIENCE)


async def test_rows_are_stored_beside_vectors_that_are_too_slow(
    stage: Stage, database: Database, owner: Any, cloned: TestDatabase
) -> None:
    await stage.tables.model_id()
    await slow_vectors(owner, 0.03)
    await limit(owner, cloned, "statement_timeout", "1s")
    database.expire_connections()
    stored = await stage.writer.store(records(COUNT))
    assert {row.vector.state for row in stored} == {WriteState.PENDING}
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == COUNT
    # Fewer vectors are tried with the next rows.
    again = await stage.writer.store([*records(COUNT + 5)[COUNT:]])
    assert WriteState.WRITTEN in {row.vector.state for row in again}
    assert stage.dependencies.vector_store.serving


async def test_a_row_that_its_vector_takes_down_is_stored_without_it(
    stage: Stage, database: Database, owner: Any, cloned: TestDatabase
) -> None:
    """transaction_timeout ends the session, and the rows are lost with it."""
    if not await owner.fetchval("SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("this server has no transaction_timeout")
    await stage.tables.model_id()
    await slow_vectors(owner, 3600)
    await limit(owner, cloned, "transaction_timeout", "300ms")
    database.expire_connections()
    storing = Storing(
        stage.writer,
        stage.dependencies.postgres,
        RejectedRecords(database),
        pace=Pace(first_pause_seconds=0.02),
    )
    async with storing.running():
        storing.offer(*(audit_record({**AUDIT_SPEC, "message": "x" * n}) for n in range(1, 5)))
        await eventually(lambda: len(storing.outcomes) == 4, seconds=PATIENCE)
    outcomes = storing.outcomes.values()
    assert all(isinstance(outcome, StoredRecord) for outcome in outcomes)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == 4
    assert await stage.depth() == 4
