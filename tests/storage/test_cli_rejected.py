"""The commands that show rejected records and store them once the cause is removed."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from datastorage.records.record import Record, Table
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedRecords
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.support.commandline import Command, command_of, use_database

T = TypeVar("T")


@pytest.fixture
def database(databases: TestDatabases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TestDatabase:
    """A database that the settings name."""
    made = asyncio.run(databases.clone())
    use_database(monkeypatch, made.service_url, tmp_path / "absent")
    return made


@pytest.fixture
def run(
    database: TestDatabase,  # noqa: ARG001  # the settings name it
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run a command; return its exit code and what it printed on both streams."""
    return command_of(monkeypatch, capsys, "rejected")


def as_owner(database: TestDatabase, work: Callable[[Any], Awaitable[T]]) -> T:
    async def do() -> T:
        connection = await connect(database.owner_url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(do())


def reject(database: TestDatabase, records: Sequence[Record], reason: str = "no room for it") -> None:
    async def do() -> None:
        made = Database(database.service_url, pool_size=4)
        try:
            for record in records:
                await RejectedRecords(made).reject(record, reason)
        finally:
            await made.close()

    asyncio.run(do())


def still_rejected(database: TestDatabase, records: Sequence[Record]) -> int:
    async def do() -> int:
        made = Database(database.service_url, pool_size=4)
        try:
            return len(
                await RejectedRecords(made).find(Table.AUDIT_RECORDS, [record.key for record in records])
            )
        finally:
            await made.close()

    return asyncio.run(do())


def rows(database: TestDatabase, table: str) -> dict[tuple[Any, ...], Any]:
    query = f"SELECT * FROM datastorage.{table}"
    found = as_owner(database, lambda owner: owner.fetch(query))
    return {(str(row["uid"]), row["generation"], row["created_at"], row["spec_hash"]): row for row in found}


def key_of(record: Record) -> tuple[Any, ...]:
    return record.key.uid, record.key.generation, record.key.created_at, record.key.spec_hash


def test_a_retried_record_gets_the_row_that_it_would_have_had(database: TestDatabase, run: Command) -> None:
    audits = [record_of(audit_record({**AUDIT_SPEC, "message": f"disk {n}"})) for n in range(3)]
    traces = [record_of(action_trace(TRACE_SPEC, generation=n)) for n in (1, 2)]
    reject(database, [*audits, *traces])
    assert still_rejected(database, [*audits, *traces]) == 5
    code, printed, error = run("retry", "--all")
    assert (code, printed) == (0, "stored: 5\n"), error
    assert still_rejected(database, [*audits, *traces]) == 0
    for table, records in (("audit_records", audits), ("action_traces", traces)):
        found = rows(database, table)
        assert found.keys() == {key_of(record) for record in records}
        for record in records:
            row = found[key_of(record)]
            assert (row["content"], row["content_hash"]) == (record.content, record.content_hash)
            assert row["correlation_id"] == "rr-2026-0042"
            assert record.text is not None
            assert row["text_hash"] == record.text.hash
    # The kept bytes stay, with the time at which the record was stored; the vectors are pending.
    letters = rows(database, "rejected_objects")
    assert all(letters[key_of(record)]["content"] == record.content for record in [*audits, *traces])
    assert all(letter["resolved_at"] is not None for letter in letters.values())
    pending = as_owner(
        database, lambda owner: owner.fetchval("SELECT count(*) FROM datastorage.vector_outbox")
    )
    assert pending == 5
    code, printed, error = run("retry", "--all")
    assert (code, printed) == (0, "stored: 0\n")
    assert "no such records are rejected now" in error
    code, printed, error = run("retry", audits[0].key.uid)
    assert (code, printed) == (1, "")
    assert "no such records are rejected now" in error


def test_a_record_that_is_still_refused_is_named_and_stays(database: TestDatabase, run: Command) -> None:
    good = [record_of(audit_record()) for _ in range(20)]
    bad = record_of(audit_record(name="bad", creationTimestamp="2250-01-01T00:00:00Z"))
    reject(database, [*good, bad])
    code, printed, error = run("retry", "--all")
    assert (code, printed) == (1, "stored: 20\n")
    assert "still rejected: 1:" in error
    assert f"AuditRecord payments/bad ({bad.key.uid})" in error
    assert "outside 2014 to 2099" in error
    assert still_rejected(database, [*good, bad]) == 1
    assert run("retry", bad.key.uid)[0] == 1


def test_a_server_that_refuses_everything_is_named_and_nothing_tried(
    database: TestDatabase, run: Command
) -> None:
    record = record_of(audit_record())
    reject(database, [record])
    closed = "ALTER TABLE datastorage.audit_records ADD CONSTRAINT closed CHECK (false)"
    as_owner(database, lambda owner: owner.execute(closed))
    code, printed, error = run("retry", "--all")
    assert (code, printed) == (1, "")
    assert "closed" in error
    revoked = "REVOKE INSERT ON datastorage.audit_records FROM datastorage_service"
    as_owner(database, lambda owner: owner.execute(revoked))
    code, _, error = run("retry", "--all")
    assert code == 2
    assert "run this as the service role" in error
    assert still_rejected(database, [record]) == 1


def test_bytes_that_were_changed_make_no_row(database: TestDatabase, run: Command) -> None:
    record = record_of(audit_record())
    reject(database, [record])
    forged = "UPDATE datastorage.rejected_objects SET content_hash = sha256('x')"
    as_owner(database, lambda owner: owner.execute(forged))
    code, _, error = run("retry", record.key.uid)
    assert code == 1
    assert "they do not match their hash" in error
    assert rows(database, "audit_records") == {}


def test_the_list_is_filtered_and_paged(database: TestDatabase, run: Command) -> None:
    slow = [record_of(audit_record(namespace="shop")) for _ in range(5)]
    long = [record_of(audit_record()) for _ in range(2)]
    reject(database, slow, "value Too large")
    reject(database, long, "outside 2014 to 2099")
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = json.loads(run("list", "--limit", "3", "-o", "json", *cursor)[1])
        seen += [each["uid"] for each in page["records"]]
        if page["cursor"] is None:
            break
        cursor = ["--cursor", page["cursor"]]
    assert seen == [record.key.uid for record in reversed([*slow, *long])]
    for filters in (("--namespace", "shop"), ("--reason", "too LARGE")):
        found = json.loads(run("list", "-o", "json", *filters)[1])["records"]
        assert {each["uid"] for each in found} == {record.key.uid for record in slow}
    assert run("retry", "--reason", "2099")[:2] == (0, "stored: 2\n")
    assert len(json.loads(run("list", "-o", "json")[1])["records"]) == 5
    assert len(json.loads(run("list", "-o", "json", "--resolved")[1])["records"]) == 7
    code, table, hint = run("list", "--limit", "2")
    assert code == 0
    assert "value Too large" in table
    assert "--cursor" in hint


def test_one_is_shown_with_its_reason_and_its_bytes(database: TestDatabase, run: Command) -> None:
    record = record_of(audit_record(name="r-1"))
    reject(database, [record], "too many words")
    code, printed, _ = run("show", record.key.uid, "-o", "json")
    shown = json.loads(printed)
    assert code == 0
    assert (shown["reason"], shown["name"], shown["intact"]) == ("too many words", "r-1", True)
    assert shown["record"] == json.loads(record.content)
    code, _, error = run("show", str(uuid.uuid4()))
    assert (code, "rejected list" in error) == (1, True)
    assert run("show", "x")[0] == 2


@pytest.mark.parametrize("arguments", [(), ("--all", "--reason", "x"), ("no-uid",)])
def test_a_retry_without_a_choice_is_refused(run: Command, arguments: Sequence[str]) -> None:
    code, printed, error = run("retry", *arguments)
    assert (code, printed) == (2, "")
    assert error.startswith("datastorage: ")


def test_the_help_says_that_the_settings_have_to_be_the_operator_s(run: Command) -> None:
    code, out, _ = run("retry", "--help")
    assert code == 0
    assert "the same embedding settings as the operator" in " ".join(out.split())


def test_only_records_with_a_row_are_marked(database: TestDatabase) -> None:
    record = record_of(audit_record())
    reject(database, [record])

    async def mark() -> int:
        made = Database(database.service_url, pool_size=2)
        try:
            return await RejectedRecords(made).resolve([record.key])
        finally:
            await made.close()

    assert asyncio.run(mark()) == 0
    assert still_rejected(database, [record]) == 1
