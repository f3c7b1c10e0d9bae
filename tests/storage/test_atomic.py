"""Batches with atomic=true: all records become rows in one transaction, or none does, whatever fails."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio

from datastorage.pipeline import groups, submissions
from datastorage.records.caller import Caller
from datastorage.storage.connection.database import Database
from harness.objects import AUDIT_SPEC, audit_record
from harness.polling import eventually, until
from harness.ports import free_port
from harness.postgres import TestDatabase
from tests.support.apiserved import TokenGuard, body
from tests.support.storedapi import FORBIDDEN, StoredApi, stored_api

STORE = "/store/workflow"
WHOLE = f"{STORE}?atomic=true"
NDJSON = "application/x-ndjson"
# The table refuses what validation has let through: by its name, the check is our own.
CAN_NOT_HOLD = """
    ALTER TABLE datastorage.audit_records DROP CONSTRAINT audit_records_content_hash_check;
    ALTER TABLE datastorage.audit_records ADD CONSTRAINT audit_records_content_hash_check
        CHECK (action <> 'bad')
"""
DROPS = """
    CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.action = 'bad' THEN RETURN NULL; END IF; RETURN NEW; END $$;
    CREATE TRIGGER drops BEFORE INSERT ON datastorage.audit_records
        FOR EACH ROW EXECUTE FUNCTION public.drops();
"""
SLEEPS = """
    CREATE FUNCTION public.somebody_s() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.action = 'slow' THEN PERFORM pg_sleep(30); END IF; RETURN NEW; END $$;
    CREATE TRIGGER somebody_s BEFORE INSERT ON datastorage.audit_records
        FOR EACH ROW EXECUTE FUNCTION public.somebody_s();
"""


@pytest_asyncio.fixture
async def api(database: Database, owner: Any) -> AsyncIterator[StoredApi]:
    async with stored_api(database, owner) as made:
        yield made


def record(action: str = "scale", *, uid: str | None = None, **metadata: Any) -> dict[str, Any]:
    made = body(uid=uid or str(uuid.uuid4()), **metadata)
    return {**made, "spec": {**made["spec"], "action": action}}


def encoded(*records: Any) -> bytes:
    return json.dumps(records).encode()


def in_lines(*lines: bytes) -> bytes:
    return b"\n".join(lines)


def assert_nothing_stored(answer: Any, expected: dict[int, tuple[int, str]]) -> None:
    """Check that the answer is one problem that names each record at fault, its status and its code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.content
    assert "nothing of the batch is stored" in answer.json["detail"]
    found = {
        item["index"]: (item["status"], item["problem"]["code"]) for item in answer.json.get("items", [])
    }
    assert found == expected


@pytest.mark.oldest_postgres
async def test_the_largest_batch_is_one_transaction(api: StoredApi) -> None:
    batch = [record(name=f"record-{n}") for n in range(500)]
    for one in batch:
        one["spec"]["message"] = "m" * 16_000
    content = encoded(*batch)
    assert 7.5 * 2**20 < len(content) <= 8 * 2**20
    answer = await api.post(WHOLE, content)
    assert (answer.status, answer.json["stored"], answer.json["failed"]) == (207, 500, 0)
    assert [item["status"] for item in answer.json["items"]] == [201] * 500
    assert [item["record"]["name"] for item in answer.json["items"]] == [f"record-{n}" for n in range(500)]
    assert await api.counts() == (500, 500, 0)
    transactions = "SELECT count(DISTINCT xmin::text) FROM datastorage.audit_records"
    assert await api.owner.fetchval(transactions) == 1


async def test_a_repeat_finds_the_records_and_adds_those_that_are_new(api: StoredApi) -> None:
    known = [record(), record()]
    first = await api.post(WHOLE, encoded(*known))
    again = await api.post(WHOLE, encoded(*known))
    assert [item["status"] for item in first.json["items"]] == [201, 201]
    assert [item["status"] for item in again.json["items"]] == [200, 200]
    assert [item["record"] for item in again.json["items"]] == [
        item["record"] for item in first.json["items"]
    ]
    new = record()
    mixed = await api.post(WHOLE, encoded(new, known[1], new))
    assert [item["status"] for item in mixed.json["items"]] == [201, 200, 200]
    assert await api.counts() == (3, 3, 0)
    single = await api.post(WHOLE, json.dumps(new).encode())
    assert (single.status, single.json) == (200, mixed.json["items"][0]["record"])


class Counting(TokenGuard):
    """Counts the questions about namespaces."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[tuple[str, str]] = Counter()

    async def check_store(self, caller: Caller, namespace: str) -> None:
        self.asked["right", namespace] += 1
        await super().check_store(caller, namespace)

    async def created_at(self, caller: Caller, namespace: str) -> datetime | None:
        self.asked["age", namespace] += 1
        return await super().created_at(caller, namespace)


async def test_each_namespace_of_a_batch_is_looked_up_once(database: Database, owner: Any) -> None:
    guard = Counting()
    async with stored_api(database, owner, guard=guard) as api:
        answer = await api.post(STORE, encoded(*(record(namespace=f"ns{n % 2}") for n in range(6))))
    assert answer.json["stored"] == 6
    assert guard.asked == {(what, name): 1 for what in ("right", "age") for name in ("ns0", "ns1")}


async def test_a_claim_of_another_content_refuses_all(api: StoredApi) -> None:
    taken = str(uuid.uuid4())
    assert (await api.post(STORE, json.dumps(record("first", uid=taken)).encode())).status == 201
    answer = await api.post(WHOLE, encoded(record(), record("other", uid=taken), record()))
    assert answer.status == 422
    assert_nothing_stored(answer, {1: (422, "identifier-reused")})
    twice = str(uuid.uuid4())
    answer = await api.post(WHOLE, encoded(record(uid=twice), record(), record("other", uid=twice)))
    assert_nothing_stored(answer, {2: (422, "identifier-reused")})
    assert await api.counts() == (1, 1, 0)
    # The identifiers of a batch that was not stored are free.
    assert (await api.post(STORE, json.dumps(record(uid=twice)).encode())).status == 201


async def test_what_validation_or_a_missing_right_refuses_refuses_all(api: StoredApi) -> None:
    wrong, foreign = {**record(), "spec": {"phase": "Completed"}}, record(namespace=FORBIDDEN)
    answer = await api.post(WHOLE, encoded(record(), wrong, foreign, record()))
    assert (answer.status, answer.json["code"]) == (422, "batch-not-stored")
    assert_nothing_stored(answer, {1: (400, "invalid-record"), 2: (403, "not-allowed")})
    pointers = {error["pointer"] for error in answer.json["items"][0]["problem"]["errors"]}
    assert pointers == {"/spec/action", "/spec/correlationID"}
    good = json.dumps(record()).encode()
    answer = await api.post(WHOLE, in_lines(good, b"{", good), NDJSON)
    assert_nothing_stored(answer, {1: (400, "invalid-json")})
    assert await api.counts() == (0, 0, 0)


async def test_what_postgresql_can_not_hold_refuses_all_and_keeps_nothing(api: StoredApi) -> None:
    await api.owner.execute(CAN_NOT_HOLD)
    batch = [record(action="bad" if n in {3, 77} else "good") for n in range(100)]
    answer = await api.post(WHOLE, encoded(*batch))
    assert (answer.status, answer.json["code"]) == (422, "batch-not-stored")
    assert_nothing_stored(answer, {3: (422, "refused"), 77: (422, "refused")})
    assert await api.counts() == (0, 0, 0)
    corrected = [one for one in batch if one["spec"]["action"] == "good"]
    assert (await api.post(WHOLE, encoded(*corrected))).json["stored"] == 98


async def test_bytes_are_kept_only_for_what_postgresql_refuses(api: StoredApi) -> None:
    await api.owner.execute(CAN_NOT_HOLD)
    wrong = {**record(), "spec": {"phase": "Completed"}}
    assert (await api.post(STORE, json.dumps(wrong).encode())).status == 400
    assert (await api.post(STORE, json.dumps(record(namespace=FORBIDDEN)).encode())).status == 403
    assert (await api.post(STORE, b'{"metadata": {"namespace": "payments"}')).status == 400
    assert await api.counts() == (0, 0, 0)
    bad = json.dumps(record("bad")).encode()
    refused = await api.post(STORE, bad)
    assert (refused.status, refused.json["code"]) == (422, "rejected")
    assert await api.counts() == (0, 1, 1)
    kept = await api.owner.fetchrow("SELECT content, via, recorded_by FROM datastorage.rejected_objects")
    assert json.loads(kept["content"])["spec"]["action"] == "bad"
    assert (kept["via"], kept["recorded_by"]) == ("api", "robot")
    await api.post(STORE, bad)  # a repeat keeps nothing more
    mixed = await api.post(STORE, encoded(record(), record("bad"), wrong))
    assert [item["status"] for item in mixed.json["items"]] == [201, 422, 400]
    assert await api.counts() == (1, 3, 2)


async def test_a_rejected_record_of_another_namespace_is_not_mentioned(api: StoredApi) -> None:
    await api.owner.execute(CAN_NOT_HOLD)
    uid = str(uuid.uuid4())
    theirs = await api.post(STORE, json.dumps(record("bad", uid=uid, namespace="shop")).encode())
    assert theirs.json["code"] == "rejected"
    own = await api.post(STORE, json.dumps(record("bad", uid=uid)).encode())
    assert own.status == 503
    assert "its bytes can't be kept" in own.json["detail"]
    assert "namespace" not in own.json["detail"]
    assert "shop" not in own.json["detail"]


async def test_a_rule_of_others_refuses_all_for_now(api: StoredApi) -> None:
    rule = "ALTER TABLE datastorage.audit_records ADD CONSTRAINT theirs CHECK (action <> 'bad')"
    await api.owner.execute(rule)
    batch = encoded(record(), record("bad"), record())
    answer = await api.post(WHOLE, batch)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert_nothing_stored(answer, {1: (503, "unavailable")})
    assert await api.counts() == (0, 0, 0)
    await api.owner.execute("ALTER TABLE datastorage.audit_records DROP CONSTRAINT theirs")
    assert (await api.post(WHOLE, batch)).json["stored"] == 3


@pytest.mark.parametrize("with_uid", [True, False])
async def test_a_row_that_is_not_kept_refuses_all_for_now(api: StoredApi, *, with_uid: bool) -> None:
    await api.owner.execute(DROPS)
    batch = [record(), record("bad"), record()]
    if not with_uid:
        for one in batch:
            del one["metadata"]["uid"]
    answer = await api.post(WHOLE, encoded(*batch))
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "nothing of the batch is stored" in answer.json["detail"]
    assert await api.counts() == (0, 0, 0)


async def test_a_limit_of_the_server_refuses_all_for_now(api: StoredApi, cloned: TestDatabase) -> None:
    await api.owner.execute(SLEEPS)
    role = cloned.service_url.split("//")[1].split(":")[0]
    await api.owner.execute(f"ALTER ROLE {role} IN DATABASE {cloned.name} SET statement_timeout = '200ms'")
    answer = await api.post(WHOLE, encoded(record(), record("slow")))
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert_nothing_stored(answer, {})
    assert await api.counts() == (0, 0, 0)


async def test_other_records_of_the_moment_neither_break_a_batch_nor_suffer_from_it(api: StoredApi) -> None:
    await api.owner.execute(CAN_NOT_HOLD)

    def others(turn: int) -> list[dict[str, Any]]:
        return [
            audit_record({**AUDIT_SPEC, "action": "bad" if n % 2 else "good"}, name=f"cluster-{turn}-{n}")
            for n in range(20)
        ]

    async def good() -> int:
        answer = await api.post(WHOLE, encoded(*(record() for _ in range(50))))
        return len(answer.json["items"]) if answer.status == 207 else 0

    async def bad() -> int:
        answer = await api.post(WHOLE, encoded(*(record() for _ in range(50)), record("bad")))
        return int(answer.status)

    for turn in range(5):
        api.storing.offer(*others(turn))
        results = tuple(await asyncio.gather(good(), bad(), good(), bad()))
        assert results == (50, 422, 50, 422)
    await eventually(lambda: len(api.storing.outcomes) == 100)
    # 500 of the good batches and 50 of the cluster; the cluster's 50 bad ones are kept among the rejected.
    rows, claims, rejected = await api.counts()
    assert (rows, claims, rejected) == (550, 500, 50)


async def test_a_record_whose_receipt_can_not_be_read_is_said_to_be_stored(
    database: Database, owner: Any
) -> None:
    away = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none", pool_size=1)
    try:
        async with stored_api(database, owner, receipts=away) as api:
            known = record()
            assert (await api.post(WHOLE, encoded(known))).json["stored"] == 1
            for path in (WHOLE, STORE):
                answer = await api.post(path, encoded(known, record()))
                assert [item["status"] for item in answer.json["items"]] == [503, 201]
                detail = answer.json["items"][0]["problem"]["detail"]
                assert detail.startswith("the record is stored by an earlier request")
            alone = await api.post(STORE, json.dumps(known).encode())
            assert (alone.status, alone.json["code"]) == (503, "unavailable")
            assert await api.counts() == (3, 3, 0)
    finally:
        await away.close()


async def test_racing_repeats_store_each_record_once(api: StoredApi) -> None:
    batch = [record() for _ in range(40)]
    # In opposite orders, so that two transactions would wait for each other.
    answers = await asyncio.gather(*(api.post(WHOLE, encoded(*batch[:: 1 - n % 2 * 2])) for n in range(6)))
    assert [answer.status for answer in answers] == [207] * 6
    assert sorted(item["status"] for answer in answers for item in answer.json["items"]) == (
        [200] * 200 + [201] * 40
    )
    assert await api.counts() == (40, 40, 0)


async def backend_of(api: StoredApi) -> int | None:
    """Return the process of PostgreSQL that sleeps in an insert."""
    found: int | None = await api.owner.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    return found


async def test_a_connection_that_is_lost_in_the_middle_leaves_all_or_none(api: StoredApi) -> None:
    await api.owner.execute(SLEEPS)
    batch = [record(), record("slow"), record()]
    waiting = asyncio.create_task(api.post(WHOLE, encoded(*batch)))
    pid = await until(lambda: backend_of(api), what="the insert is under way")
    assert await api.counts() == (0, 0, 0)
    await api.owner.execute(
        "CREATE OR REPLACE FUNCTION public.somebody_s() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NEW; END $$"
    )
    await api.owner.execute("SELECT pg_terminate_backend($1)", pid)
    answer = await waiting
    assert answer.status in {207, 503}, answer.content
    assert await api.counts() == ((3, 3, 0) if answer.status == 207 else (0, 0, 0))
    assert (await api.post(WHOLE, encoded(*batch))).json["stored"] == 3
    assert await api.counts() == (3, 3, 0)


async def test_a_batch_that_takes_too_long_is_not_acknowledged(database: Database, owner: Any) -> None:
    await owner.execute(SLEEPS)
    async with stored_api(database, owner, pace=submissions.Pace(commit_seconds=3.0)) as api:
        waiting = asyncio.create_task(api.post(WHOLE, encoded(record(), record("slow"))))
        pid = await until(lambda: backend_of(api), what="the insert is under way")
        answer = await waiting
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert "send the same request again" in answer.json["detail"]
        # Without this, the server would notice only at the end of the insert that nobody waits for it.
        await owner.execute("SELECT pg_terminate_backend($1, 10000)", pid)
        assert await api.counts() == (0, 0, 0)


async def test_the_reason_is_given_even_if_there_is_no_time_to_find_the_record(
    database: Database, owner: Any
) -> None:
    await owner.execute(CAN_NOT_HOLD)
    async with stored_api(database, owner, group_pace=groups.Pace(search_seconds=0.0)) as api:
        answer = await api.post(WHOLE, encoded(record(), record("bad")))
        assert (answer.status, answer.json["code"]) == (422, "batch-not-stored")
        assert "audit_records_content_hash_check" in answer.json["detail"]
        assert_nothing_stored(answer, {})
        assert await api.counts() == (0, 0, 0)


@pytest.mark.parametrize("value", ["", "1", "yes", "True", "TRUE", "null", "false&atomic=true"])
async def test_atomic_is_true_or_false(api: StoredApi, value: str) -> None:
    answer = await api.post(f"{STORE}?atomic={value}", encoded(record()))
    assert (answer.status, answer.json["code"]) == (400, "invalid-parameter")
    assert await api.counts() == (0, 0, 0)


async def test_without_it_each_record_is_stored_by_itself(api: StoredApi) -> None:
    wrong = {**record(), "spec": {"phase": "Completed"}}
    answer = await api.post(f"{STORE}?atomic=false", encoded(record(), wrong))
    assert [item["status"] for item in answer.json["items"]] == [201, 400]
    assert await api.counts() == (1, 1, 0)
