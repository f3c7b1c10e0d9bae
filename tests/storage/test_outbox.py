"""The outbox: one worker at a time has a pending vector, each is finished, and none is forgotten."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.records.reasons import Reason
from datastorage.records.vector import EmbeddingModel
from datastorage.records.vectorwrite import WITHOUT_VECTORS, VectorWrite, WriteState
from datastorage.storage.connection.database import Database
from datastorage.storage.outbox import Outbox, PendingVector
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from harness.polling import eventually
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.storage.pending import add_pending, claimed, hash_of, identity_of, records_of, rows_in

PENDING = VectorWrite(WriteState.PENDING, Reason.IN_OUTBOX)


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


async def test_pending_vectors_can_be_claimed(outbox: Outbox, database: Database) -> None:
    records = [*records_of(3), record_of(action_trace(TRACE_SPEC, generation=4))]
    await add_pending(database, records, "the model is asleep")
    async with outbox.claim(100) as claim:
        found = {row.uid: row for row in claim.rows}
    assert found == {
        r.key.uid: PendingVector(r.key.uid, r.key.generation, hash_of(r), r.text.text, 0)
        for r in records
        if r.text is not None
    }


@pytest.mark.oldest_postgres
async def test_the_three_ends_of_a_claim(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(6)
    await add_pending(database, records, "asleep")
    by_uid = {record.key.uid: number for number, record in enumerate(records)}
    async with outbox.claim(100) as claim:
        rows = sorted(claim.rows, key=lambda row: by_uid[row.uid])
        claim.remove(rows[:2])
        claim.refuse(rows[2:4], {row.text_hash: f"too {row.text}" for row in rows})
        claim.delay(rows[4:5], "still asleep")
    left = await rows_in(owner)
    assert left == {
        identity_of(records[2]): ("failed", 1, f"too {rows[2].text}"),
        identity_of(records[3]): ("failed", 1, f"too {rows[3].text}"),
        identity_of(records[4]): ("pending", 1, "still asleep"),
        identity_of(records[5]): ("pending", 0, "asleep"),
    }
    assert await claimed(outbox) == {identity_of(records[4]), identity_of(records[5])}


@pytest.mark.oldest_postgres
async def test_two_claims_share_nothing(outbox: Outbox, database: Database) -> None:
    records = records_of(10)
    await add_pending(database, records)
    async with outbox.claim(6) as one, outbox.claim(6) as other, outbox.claim(6) as third:
        first, second = ({row.uid for row in claim.rows} for claim in (one, other))
        assert (len(first), len(second), len(third.rows)) == (6, 4, 0)
        assert first | second == {record.key.uid for record in records}


@pytest.mark.oldest_postgres
async def test_a_claim_takes_the_longest_due_first(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(5)
    await add_pending(database, records)
    for age, record in enumerate(records):
        await owner.execute(
            "UPDATE datastorage.vector_outbox SET due_at = now() - $1::interval WHERE uid = $2",
            timedelta(hours=age), record.key.uid,
        )  # fmt: skip
    assert await claimed(outbox, 2) == {identity_of(record) for record in records[3:]}


async def test_entries_that_are_not_due_are_left_alone(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    await add_pending(database, records_of(2), due_seconds=3600)
    assert await claimed(outbox) == set()
    await owner.execute("UPDATE datastorage.vector_outbox SET due_at = now()")
    assert len(await claimed(outbox)) == 2


async def test_a_claim_that_fails_changes_nothing(outbox: Outbox, database: Database, owner: Any) -> None:
    await add_pending(database, records_of(3))
    before = await rows_in(owner)

    async def fail() -> None:
        async with outbox.claim(100) as claim:
            claim.remove(claim.rows[:1])
            claim.delay(claim.rows[1:], "x")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await rows_in(owner) == before
    assert len(await claimed(outbox)) == 3


async def test_a_claim_keeps_no_transaction_open(outbox: Outbox, database: Database, owner: Any) -> None:
    """An embedder takes its time, and a server may end a transaction that is idle meanwhile."""
    await add_pending(database, records_of(3))
    async with outbox.claim(100) as claim:
        claim.remove(claim.rows)
        assert not await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
        )
    assert await rows_in(owner) == {}


async def test_the_claim_of_a_dead_process_is_due_again(database: Database) -> None:
    outbox = Outbox(database, claim_seconds=0.05)
    await add_pending(database, records_of(3))
    async with outbox.claim(100):

        async def due_again() -> bool:
            return len(await claimed(outbox)) == 3

        await eventually(due_again)


async def test_an_entry_that_is_refused_alone_waits_longer_each_time(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    await add_pending(database, records_of(1))
    pauses = []
    for _ in range(5):
        await owner.execute("UPDATE datastorage.vector_outbox SET due_at = now()")
        async with outbox.claim(1) as claim:
            claim.delay(claim.rows, "too slow", alone=True)
        pauses.append(await owner.fetchval("SELECT due_at - now() FROM datastorage.vector_outbox"))
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3 * pauses[0]


async def test_a_cancelled_claim_leaves_its_rows(outbox: Outbox, database: Database, owner: Any) -> None:
    await add_pending(database, records_of(3))
    reached = asyncio.Event()

    async def hang() -> None:
        async with outbox.claim(100) as claim:
            claim.remove(claim.rows)
            reached.set()
            await asyncio.Event().wait()

    hanging = asyncio.create_task(hang())
    await reached.wait()
    assert await claimed(outbox) == set()
    hanging.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await hanging
    assert len(await claimed(outbox)) == 3
    assert len(await rows_in(owner)) == 3


@pytest.mark.oldest_postgres
async def test_adding_again_changes_nothing(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(2)
    await add_pending(database, records, "first")
    async with outbox.claim(1) as claim:
        claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    before = await rows_in(owner)
    await add_pending(database, records, "second")
    assert await rows_in(owner) == before


async def test_each_generation_is_pending_by_itself(outbox: Outbox, database: Database) -> None:
    first = record_of(action_trace(TRACE_SPEC))
    second = replace(first, key=replace(first.key, generation=2))
    await add_pending(database, [first, second])
    await outbox.remove([first])
    assert await claimed(outbox) == {identity_of(second)}


async def test_nothing_is_pending_where_no_vectors_are_kept(outbox: Outbox, database: Database) -> None:
    """Somebody who keeps them may have left entries, which nobody drains."""
    records = records_of(3)
    await add_pending(database, records)
    async with outbox.claim(1) as claim:
        claim.refuse(claim.rows, {row.text_hash: "too long" for row in claim.rows})
    keys, table = [record.key for record in records], records[0].table
    kept = await Archive(database, model=EmbeddingModel("test", "tiny", 3)).find(table, keys)
    assert {row.vector.state for row in kept.values()} == {WriteState.PENDING, WriteState.FAILED}
    found = await Archive(database).find(table, keys)
    assert [row.vector for row in found.values()] == [WITHOUT_VECTORS] * 3


async def test_a_record_without_text_is_never_pending(outbox: Outbox, database: Database) -> None:
    wordless = record_of(audit_record({**AUDIT_SPEC, "action": "--"}))
    assert hash_of(wordless)
    await add_pending(database, [wordless])
    async with database.connection() as connection:
        await Outbox.add(
            connection, [replace(wordless, text=None)], {hash_of(wordless): PENDING}, due_seconds=0
        )
        await Outbox.add(connection, [], {hash_of(wordless): PENDING}, due_seconds=0)
    assert await claimed(outbox) == set()


async def test_removing_takes_only_the_named_entries(outbox: Outbox, database: Database) -> None:
    records = records_of(3)
    await add_pending(database, records)
    await outbox.remove([records[0], replace(records[1], key=replace(records[1].key, generation=99))])
    await outbox.remove([])
    assert await claimed(outbox) == {identity_of(record) for record in records[1:]}


@pytest.fixture(scope="module")
def shared(databases: TestDatabases) -> TestDatabase:
    """One database for many examples."""
    return asyncio.run(databases.clone())


_any_text = st.text(max_size=40) | st.text(alphabet="\0\ud800\udfffé🧨", max_size=600)


@given(_any_text, _any_text, _any_text, _any_text)
def test_whatever_an_error_says_it_costs_no_row(
    shared: TestDatabase, added: str, refused: str, delayed: str, reason: str
) -> None:
    async def check() -> None:
        database = Database(shared.service_url, pool_size=2)
        owner = await connect(shared.owner_url)
        await owner.execute("TRUNCATE datastorage.vector_outbox")
        outbox, records = Outbox(database), records_of(4)
        await add_pending(database, records[:2], added)
        kept = {error for _, _, error in (await rows_in(owner)).values()}
        assert kept == {_expected(added) or None}
        async with outbox.claim(1) as claim:
            claim.refuse(claim.rows, {row.text_hash: refused for row in claim.rows})
        async with outbox.claim(1) as claim:
            claim.delay(claim.rows, delayed)
        errors = {state: error for state, _, error in (await rows_in(owner)).values()}
        assert errors == {"failed": _expected(refused), "pending": _expected(delayed)}
        assert await outbox.drop(state=None, uid=None, reason=reason) == 2
        assert {error for _, _, error in (await rows_in(owner)).values()} == {_expected(reason)}
        await owner.close()
        await database.close()

    asyncio.run(check())


def _expected(text: str) -> str:
    shown = text[:500].replace("\0", "\ufffd")
    return "".join("?" if "\ud800" <= character <= "\udfff" else character for character in shown)


_Fate = Literal["remove", "refuse", "delay", "leave"]
_plans = st.lists(st.sampled_from(("remove", "refuse", "delay", "leave")), max_size=12)


@given(_plans, st.integers(1, 3), st.integers(1, 5))
def test_any_number_of_workers_settle_each_row_once(
    shared: TestDatabase, fates: list[_Fate], workers: int, limit: int
) -> None:
    async def check() -> None:
        database = Database(shared.service_url, pool_size=4)
        owner = await connect(shared.owner_url)
        await owner.execute("TRUNCATE datastorage.vector_outbox")
        records = records_of(len(fates))
        plan = {record.key.uid: fate for record, fate in zip(records, fates, strict=True)}
        await add_pending(database, records)
        seen: Counter[str] = Counter()
        await asyncio.gather(*(_work(Outbox(database), limit, plan, seen) for _ in range(workers)))
        ends = {"refuse": ("failed", 1), "delay": ("pending", 1), "leave": ("pending", 0)}
        left = {uid: row[:2] for (uid, _), row in (await rows_in(owner)).items()}
        met = {uid: plan[uid] for uid in seen}
        assert all(seen[uid] == 1 for uid, fate in met.items() if fate in {"remove", "refuse"})
        assert left == {
            uid: ends[fate] if uid in met else ("pending", 0) for uid, fate in plan.items()
            if fate != "remove" or uid not in met
        }  # fmt: skip
        await owner.close()
        await database.close()

    asyncio.run(check())


async def _work(outbox: Outbox, limit: int, plan: Mapping[str, _Fate], seen: Counter[str]) -> None:
    """Work until only rows that stay due are left; each of those is claimed once."""
    while True:
        async with outbox.claim(limit) as claim:
            fresh = [row for row in claim.rows if not seen[row.uid]]
            seen.update(row.uid for row in fresh)
            by_fate = {
                fate: [row for row in fresh if plan[row.uid] == fate]
                for fate in ("remove", "refuse", "delay")
            }
            claim.remove(by_fate["remove"])
            claim.refuse(by_fate["refuse"], {row.text_hash: "never" for row in claim.rows})
            claim.delay(by_fate["delay"], "later")
        if not fresh:
            return
