"""The outbox for people: its depth, its lists, retrying and dropping."""

import secrets
from collections import Counter
from typing import Any

import asyncpg
import pytest

from datastorage.records.vectorwrite import OutboxState
from datastorage.storage.connection.database import Database
from datastorage.storage.outbox import Outbox, OutboxDepth
from tests.storage.pending import add_pending, claimed, identity_of, records_of, rows_in

_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%vector_outbox%'
"""


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


async def test_depths_and_errors(outbox: Outbox, database: Database, owner: Any) -> None:
    assert await outbox.depths() == dict.fromkeys(OutboxState, OutboxDepth())
    await add_pending(database, records_of(5), "asleep")
    await add_pending(database, records_of(3, start=10), "too slow")
    await add_pending(database, records_of(1, start=20))
    async with outbox.claim(2) as claim:
        claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    await owner.execute(
        "UPDATE datastorage.vector_outbox SET owed_since = now() - interval '90 s' "
        "WHERE last_error = 'too slow'"
    )
    depths = await outbox.depths()
    assert {state: depth.depth for state, depth in depths.items()} == {
        OutboxState.PENDING: 7, OutboxState.FAILED: 2, OutboxState.DROPPED: 0,
    }  # fmt: skip
    assert 90 <= depths[OutboxState.PENDING].oldest_seconds < 3600
    assert depths[OutboxState.FAILED].oldest_seconds < 90
    errors = await outbox.errors(OutboxState.PENDING, 10)
    assert list(errors.items()) == [("asleep", 3), ("too slow", 3), ("", 1)]
    assert await outbox.errors(OutboxState.PENDING, 1) == {"asleep": 3}
    assert await outbox.errors(OutboxState.FAILED, 10) == {"never": 2}


async def test_rows_are_listed_by_state_and_uid(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(4)
    await add_pending(database, records, "asleep")
    await owner.execute(
        "UPDATE datastorage.vector_outbox SET owed_since = now() - interval '1 h' WHERE uid = $1",
        records[2].key.uid,
    )
    await outbox.drop(state=None, uid=records[1].key.uid, reason="of no interest")
    everything = await outbox.list(state=None, uid=None, limit=100)
    assert everything[0].uid == records[2].key.uid
    assert len(everything) == 4
    assert len(await outbox.list(state=None, uid=None, limit=2)) == 2
    [dropped] = await outbox.list(state=OutboxState.DROPPED, uid=None, limit=100)
    assert (dropped.uid, dropped.state) == (records[1].key.uid, OutboxState.DROPPED)
    assert dropped.last_error == "of no interest"
    [one] = await outbox.list(state=None, uid=records[3].key.uid.upper(), limit=100)
    assert (one.table, one.namespace, one.name) == ("audit_records", records[3].namespace, records[3].name)
    assert await outbox.list(state=OutboxState.FAILED, uid=records[3].key.uid, limit=100) == []


async def test_failed_and_dropped_vectors_can_be_tried_again(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    records = records_of(4)
    await add_pending(database, records)
    async with outbox.claim(2) as claim:
        failed = {(row.uid, row.generation) for row in claim.rows}
        claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    [dropped, kept] = [record for record in records if identity_of(record) not in failed]
    assert await outbox.drop(state=None, uid=dropped.key.uid, reason="x") == 1
    assert await claimed(outbox) == {identity_of(kept)}
    assert await outbox.retry(state=OutboxState.FAILED, uid=None) == 2
    assert await claimed(outbox) == {identity_of(kept), *failed}
    assert await outbox.retry(state=None, uid=kept.key.uid) == 0
    assert await outbox.retry(state=None, uid=None) == 1
    assert await claimed(outbox) == {identity_of(record) for record in records}
    # Their earlier tries are known: an embedder that remembers a refusal has to ask again.
    assert {identity for identity, (_, attempts, _) in (await rows_in(owner)).items() if attempts} == failed


async def test_dropping_is_by_state_or_uid_and_once(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(5)
    await add_pending(database, records)
    async with outbox.claim(2) as claim:
        claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    assert await outbox.drop(state=OutboxState.FAILED, uid=None, reason="first") == 2
    assert await outbox.drop(state=None, uid=None, reason="second") == 3
    assert await outbox.drop(state=None, uid=None, reason="third") == 0
    assert Counter(error for _, _, error in (await rows_in(owner)).values()) == {"first": 2, "second": 3}
    assert await claimed(outbox) == set()


async def test_dropping_does_not_wait_for_a_claim_which_does_not_undo_it(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    await add_pending(database, records_of(4))
    async with outbox.claim(3) as claim:
        assert await outbox.drop(state=OutboxState.PENDING, uid=None, reason="x") == 4
        claim.remove(claim.rows[:1])
        claim.refuse(claim.rows[1:2], {row.text_hash: "never" for row in claim.rows})
        claim.delay(claim.rows[2:], "away")
    assert [state for state, _, _ in (await rows_in(owner)).values()] == ["dropped"] * 3
    assert await claimed(outbox) == set()


async def test_a_retry_waits_for_no_claim(outbox: Outbox, database: Database) -> None:
    await add_pending(database, records_of(3))
    async with outbox.claim(1) as claim:
        claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    async with outbox.claim(10) as claim:
        assert len(claim.rows) == 2
        assert await outbox.retry(state=None, uid=None) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE datastorage.vector_outbox SET state = 'dropped'",
        "DELETE FROM datastorage.vector_outbox",
        "INSERT INTO datastorage.embedding_texts VALUES ('x', 'y')",
        "SELECT datastorage.set_text_hashes('audit_records', '{}', '{}', '{}', '{}', '{}')",
    ],
)
async def test_the_reader_only_reads(outbox: Outbox, database: Database, owner: Any, statement: str) -> None:
    await add_pending(database, records_of(1))
    await owner.execute("SET ROLE datastorage_reader")
    assert await owner.fetchval("SELECT count(*) FROM datastorage.vector_outbox") == 1
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_texts") == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute(statement)
    assert len(await claimed(outbox)) == 1


async def test_an_unknown_state_is_refused(owner: Any, outbox: Outbox, database: Database) -> None:
    await add_pending(database, records_of(1))
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute("UPDATE datastorage.vector_outbox SET state = $1", secrets.token_hex(4))
    assert await claimed(outbox)
