"""The outbox: what is owed is worked on by one at a time, comes to an end, and is never forgotten."""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.errors import TransientError
from datastorage.storage.archive import Archive
from datastorage.storage.database import Database
from datastorage.storage.outbox import Outbox, OutboxDepth, OutboxState, OwedVector
from datastorage.storage.records import Record
from tests.support.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from tests.support.polling import eventually
from tests.support.postgres import TestDatabase, TestDatabases, connect

_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%vector_outbox%'
"""

Identity = tuple[str, int]


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


def records_of(count: int, *, start: int = 0) -> list[Record]:
    return [
        record_of(audit_record({**AUDIT_SPEC, "message": f"disk {n} is full"}))
        for n in range(start, start + count)
    ]


def hash_of(record: Record) -> bytes:
    assert record.text is not None
    return record.text.hash


def identity_of(record: Record) -> Identity:
    return record.key.uid, record.key.generation


async def owe(
    database: Database, records: Sequence[Record], error: str = "", *, due_seconds: float = 0
) -> None:
    """Store records with their vectors owed."""
    errors = {hash_of(record): error for record in records}
    await Archive(database).store(records)
    async with database.connection() as connection, connection.transaction():
        await Outbox.add(connection, records, errors, due_seconds=due_seconds)


async def rows_in(owner: Any) -> dict[Identity, tuple[str, int, str | None]]:
    rows = await owner.fetch(
        "SELECT uid, generation, state, attempts, last_error FROM datastorage.vector_outbox"
    )
    return {(str(r["uid"]), r["generation"]): (r["state"], r["attempts"], r["last_error"]) for r in rows}


async def claimed(outbox: Outbox, limit: int = 100) -> set[Identity]:
    async with outbox.claim(limit) as claim:
        return {(row.uid, row.generation) for row in claim.rows}


async def test_what_is_owed_can_be_claimed(outbox: Outbox, database: Database) -> None:
    records = [*records_of(3), record_of(action_trace(TRACE_SPEC, generation=4))]
    await owe(database, records, "the model is asleep")
    async with outbox.claim(100) as claim:
        found = {row.uid: row for row in claim.rows}
    assert found == {
        r.key.uid: OwedVector(r.key.uid, r.key.generation, hash_of(r), r.text.text, 0)
        for r in records
        if r.text is not None
    }


async def test_the_three_ends_of_a_claim(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(6)
    await owe(database, records, "asleep")
    by_uid = {record.key.uid: number for number, record in enumerate(records)}
    async with outbox.claim(100) as claim:
        rows = sorted(claim.rows, key=lambda row: by_uid[row.uid])
        await claim.pay(rows[:2])
        await claim.refuse(rows[2:4], {row.text_hash: f"too {row.text}" for row in rows})
        await claim.delay(rows[4:5], "still asleep")
    left = await rows_in(owner)
    assert left == {
        identity_of(records[2]): ("failed", 1, f"too {rows[2].text}"),
        identity_of(records[3]): ("failed", 1, f"too {rows[3].text}"),
        identity_of(records[4]): ("pending", 1, "still asleep"),
        identity_of(records[5]): ("pending", 0, "asleep"),
    }
    assert await claimed(outbox) == {identity_of(records[4]), identity_of(records[5])}


async def test_two_claims_share_nothing(outbox: Outbox, database: Database) -> None:
    records = records_of(10)
    await owe(database, records)
    async with outbox.claim(6) as one, outbox.claim(6) as other, outbox.claim(6) as third:
        first, second = ({row.uid for row in claim.rows} for claim in (one, other))
        assert (len(first), len(second), len(third.rows)) == (6, 4, 0)
        assert first | second == {record.key.uid for record in records}


async def test_a_claim_takes_the_longest_due_first(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(5)
    await owe(database, records)
    for age, record in enumerate(records):
        await owner.execute(
            "UPDATE datastorage.vector_outbox SET due_at = now() - $1::interval WHERE uid = $2",
            timedelta(hours=age), record.key.uid,
        )  # fmt: skip
    assert await claimed(outbox, 2) == {identity_of(record) for record in records[3:]}


async def test_what_is_not_due_yet_is_left_alone(outbox: Outbox, database: Database, owner: Any) -> None:
    await owe(database, records_of(2), due_seconds=3600)
    assert await claimed(outbox) == set()
    await owner.execute("UPDATE datastorage.vector_outbox SET due_at = now()")
    assert len(await claimed(outbox)) == 2


async def test_a_claim_that_fails_changes_nothing(outbox: Outbox, database: Database, owner: Any) -> None:
    await owe(database, records_of(3))
    before = await rows_in(owner)

    async def fail() -> None:
        async with outbox.claim(100) as claim:
            await claim.pay(claim.rows[:1])
            await claim.delay(claim.rows[1:], "x")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await rows_in(owner) == before
    assert len(await claimed(outbox)) == 3


async def test_a_claim_that_is_cut_off_leaves_its_rows(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    await owe(database, records_of(3))
    before = await rows_in(owner)

    async def cut_off() -> None:
        async with outbox.claim(100) as claim:
            await claim.pay(claim.rows)
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
                "AND datname = current_database()"
            )

    with pytest.raises(TransientError):
        await cut_off()
    assert await rows_in(owner) == before
    assert len(await claimed(outbox)) == 3


async def test_a_cancelled_claim_leaves_its_rows(outbox: Outbox, database: Database, owner: Any) -> None:
    await owe(database, records_of(3))
    reached = asyncio.Event()

    async def hang() -> None:
        async with outbox.claim(100) as claim:
            await claim.pay(claim.rows)
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


async def test_owing_again_changes_nothing(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(2)
    await owe(database, records, "first")
    async with outbox.claim(1) as claim:
        await claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    before = await rows_in(owner)
    await owe(database, records, "second")
    assert await rows_in(owner) == before


async def test_each_generation_is_owed_by_itself(outbox: Outbox, database: Database) -> None:
    first = record_of(action_trace(TRACE_SPEC))
    second = replace(first, key=replace(first.key, generation=2))
    await owe(database, [first, second])
    await outbox.pay([identity_of(first)])
    assert await claimed(outbox) == {identity_of(second)}


async def test_what_has_no_text_is_never_owed(outbox: Outbox, database: Database) -> None:
    wordless = record_of(audit_record({**AUDIT_SPEC, "action": "--"}))
    assert hash_of(wordless)
    await owe(database, [wordless])
    async with database.connection() as connection:
        await Outbox.add(connection, [replace(wordless, text=None)], {}, due_seconds=0)
        await Outbox.add(connection, [], {}, due_seconds=0)
    assert await claimed(outbox) == set()


async def test_paying_takes_out_what_it_names(outbox: Outbox, database: Database) -> None:
    records = records_of(3)
    await owe(database, records)
    await outbox.pay([identity_of(records[0]), (records[1].key.uid, 99)])
    await outbox.pay([])
    assert await claimed(outbox) == {identity_of(record) for record in records[1:]}


async def test_depths_and_errors(outbox: Outbox, database: Database, owner: Any) -> None:
    assert await outbox.depths() == dict.fromkeys(OutboxState, OutboxDepth())
    await owe(database, records_of(5), "asleep")
    await owe(database, records_of(3, start=10), "too slow")
    await owe(database, records_of(1, start=20))
    async with outbox.claim(2) as claim:
        await claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    await owner.execute(
        "UPDATE datastorage.vector_outbox SET owed_since = now() - interval '90 s' WHERE last_error = 'too slow'"
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
    await owe(database, records, "asleep")
    await owner.execute(
        "UPDATE datastorage.vector_outbox SET owed_since = now() - interval '1 h' WHERE uid = $1",
        records[2].key.uid,
    )
    await outbox.drop(state=None, uid=records[1].key.uid, reason="of no interest")
    everything = await outbox.list(state=None, uid=None, limit=100)
    assert [row.uid for row in everything][0] == records[2].key.uid
    assert len(everything) == 4
    assert len(await outbox.list(state=None, uid=None, limit=2)) == 2
    [dropped] = await outbox.list(state=OutboxState.DROPPED, uid=None, limit=100)
    assert (dropped.uid, dropped.state) == (records[1].key.uid, OutboxState.DROPPED)
    assert dropped.last_error == "of no interest"
    [one] = await outbox.list(state=None, uid=records[3].key.uid.upper(), limit=100)
    assert (one.table, one.namespace, one.name) == ("audit_records", records[3].namespace, records[3].name)
    assert await outbox.list(state=OutboxState.FAILED, uid=records[3].key.uid, limit=100) == []


async def test_what_failed_or_was_dropped_can_be_tried_again(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    records = records_of(4)
    await owe(database, records)
    async with outbox.claim(2) as claim:
        failed = {(row.uid, row.generation) for row in claim.rows}
        await claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    [dropped, kept] = [record for record in records if identity_of(record) not in failed]
    assert await outbox.drop(state=None, uid=dropped.key.uid, reason="x") == 1
    assert await claimed(outbox) == {identity_of(kept)}
    assert await outbox.retry(state=OutboxState.FAILED, uid=None) == 2
    assert await claimed(outbox) == {identity_of(kept), *failed}
    assert await outbox.retry(state=None, uid=kept.key.uid) == 0
    assert await outbox.retry(state=None, uid=None) == 1
    assert await claimed(outbox) == {identity_of(record) for record in records}
    # Known to have been tried before: whoever remembers a refusal must ask again.
    assert {identity for identity, (_, attempts, _) in (await rows_in(owner)).items() if attempts} == failed


async def test_dropping_is_by_state_or_uid_and_once(outbox: Outbox, database: Database, owner: Any) -> None:
    records = records_of(5)
    await owe(database, records)
    async with outbox.claim(2) as claim:
        await claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    assert await outbox.drop(state=OutboxState.FAILED, uid=None, reason="first") == 2
    assert await outbox.drop(state=None, uid=None, reason="second") == 3
    assert await outbox.drop(state=None, uid=None, reason="third") == 0
    assert Counter(error for _, _, error in (await rows_in(owner)).values()) == {"first": 2, "second": 3}
    assert await claimed(outbox) == set()


async def test_dropping_waits_for_a_claim_and_does_not_undo_it(
    outbox: Outbox, database: Database, owner: Any
) -> None:
    await owe(database, records_of(3))
    async with outbox.claim(2) as claim:
        dropping = asyncio.create_task(outbox.drop(state=OutboxState.PENDING, uid=None, reason="x"))

        async def waits() -> bool:
            return bool(await owner.fetchval(_WAITING))

        await eventually(waits)
        await claim.pay(claim.rows[:1])
    assert await dropping == 2
    assert [state for state, _, _ in (await rows_in(owner)).values()] == ["dropped"] * 2


async def test_trying_again_waits_for_no_claim(outbox: Outbox, database: Database) -> None:
    await owe(database, records_of(3))
    async with outbox.claim(1) as claim:
        await claim.refuse(claim.rows, {row.text_hash: "never" for row in claim.rows})
    async with outbox.claim(10) as claim:
        assert len(claim.rows) == 2
        assert await outbox.retry(state=None, uid=None) == 1


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
        await owe(database, records[:2], added)
        kept = {error for _, _, error in (await rows_in(owner)).values()}
        assert kept == {_expected(added) or None}
        async with outbox.claim(1) as claim:
            await claim.refuse(claim.rows, {row.text_hash: refused for row in claim.rows})
        async with outbox.claim(1) as claim:
            await claim.delay(claim.rows, delayed)
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


_Fate = Literal["pay", "refuse", "delay", "leave"]
_plans = st.lists(st.sampled_from(("pay", "refuse", "delay", "leave")), max_size=12)


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
        await owe(database, records)
        seen: Counter[str] = Counter()
        await asyncio.gather(*(_work(Outbox(database), limit, plan, seen) for _ in range(workers)))
        ends = {"refuse": ("failed", 1), "delay": ("pending", 1), "leave": ("pending", 0)}
        left = {uid: row[:2] for (uid, _), row in (await rows_in(owner)).items()}
        met = {uid: plan[uid] for uid in seen}
        assert all(seen[uid] == 1 for uid, fate in met.items() if fate in {"pay", "refuse"})
        assert left == {
            uid: ends[fate] if uid in met else ("pending", 0) for uid, fate in plan.items()
            if fate != "pay" or uid not in met
        }  # fmt: skip
        await owner.close()
        await database.close()

    asyncio.run(check())


async def _work(outbox: Outbox, limit: int, plan: Mapping[str, _Fate], seen: Counter[str]) -> None:
    """Work until nothing is left that comes to an end; rows that stay due are met once only."""
    while True:
        async with outbox.claim(limit) as claim:
            fresh = [row for row in claim.rows if not seen[row.uid]]
            seen.update(row.uid for row in fresh)
            by_fate = {
                fate: [row for row in fresh if plan[row.uid] == fate] for fate in ("pay", "refuse", "delay")
            }
            await claim.pay(by_fate["pay"])
            await claim.refuse(by_fate["refuse"], {row.text_hash: "never" for row in claim.rows})
            await claim.delay(by_fate["delay"], "later")
        if not fresh:
            return


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE datastorage.vector_outbox SET state = 'dropped'",
        "DELETE FROM datastorage.vector_outbox",
        "INSERT INTO datastorage.embedding_texts VALUES ('x', 'y')",
        "SELECT datastorage.set_text_hashes('audit_records', '{}', '{}', '{}', '{}')",
    ],
)
async def test_the_reader_only_reads(outbox: Outbox, database: Database, owner: Any, statement: str) -> None:
    await owe(database, records_of(1))
    await owner.execute("SET ROLE datastorage_reader")
    assert await owner.fetchval("SELECT count(*) FROM datastorage.vector_outbox") == 1
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_texts") == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute(statement)
    assert len(await claimed(outbox)) == 1


async def test_a_state_that_is_none_is_refused(owner: Any, outbox: Outbox, database: Database) -> None:
    await owe(database, records_of(1))
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute("UPDATE datastorage.vector_outbox SET state = $1", secrets.token_hex(4))
    assert await claimed(outbox)
