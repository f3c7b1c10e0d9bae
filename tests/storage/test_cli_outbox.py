"""The commands that show the vectors in the outbox, try them again and give them up."""

import asyncio
import io
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from datastorage.records.record import Record
from datastorage.records.vectorwrite import OutboxState
from datastorage.storage.connection.database import Database
from datastorage.storage.outbox import Outbox
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.storage.pending import add_pending, records_of
from tests.support.commandline import Command, command_of, use_database

T = TypeVar("T")


@pytest.fixture
def database(databases: TestDatabases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TestDatabase:
    """A database that the settings name."""
    made = asyncio.run(databases.clone())
    use_database(monkeypatch, made.service_url, tmp_path / "absent")
    # These commands do not need the embedder, so it is not set up.
    monkeypatch.setenv("DATASTORAGE_EMBEDDING_PROVIDER", "openai")
    return made


@pytest.fixture
def run(
    database: TestDatabase,  # noqa: ARG001  # the settings name it
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run a command; return its exit code and what it printed on both streams."""
    return command_of(monkeypatch, capsys, "outbox")


def within(database: TestDatabase, work: Callable[[Database], Awaitable[T]]) -> T:
    async def do() -> T:
        made = Database(database.service_url, pool_size=4)
        try:
            return await work(made)
        finally:
            await made.close()

    return asyncio.run(do())


@pytest.fixture
def pending(database: TestDatabase) -> list[Record]:
    """Three vectors are pending, one has failed."""
    records = records_of(4)

    async def fill(made: Database) -> None:
        await add_pending(made, records, "the model is asleep")
        async with Outbox(made).claim(1) as claim:
            claim.refuse(claim.rows, {row.text_hash: "not \x1b[31m this" for row in claim.rows})
        async with made.connection() as connection:
            # This is so long ago that the ages that are shown do not change while a test runs.
            await connection.execute(
                "UPDATE datastorage.vector_outbox SET owed_since = now() - interval '1 d 2 h 3 m'"
            )

    within(database, fill)
    return records


def states(database: TestDatabase) -> dict[str, int]:
    async def depths(made: Database) -> dict[str, int]:
        return {state.value: depth.depth for state, depth in (await Outbox(made).depths()).items()}

    return within(database, depths)


def test_an_empty_outbox_is_shown(run: Command) -> None:
    code, printed, _ = run()
    assert code == 0
    assert [line.split() for line in printed.splitlines()] == [
        ["STATE", "VECTORS", "OLDEST"], ["pending", "0"], ["failed", "0"], ["dropped", "0"],
    ]  # fmt: skip
    code, printed, error = run("list")
    assert (code, printed) == (0, "")
    assert error == "no vectors are missing\n"
    assert json.loads(run("list", "-o", "json")[1]) == []
    assert json.loads(run("-o", "json")[1])["pending"] == {
        "vectors": 0, "oldestSeconds": None, "lastErrors": [],
    }  # fmt: skip


@pytest.mark.usefixtures("pending")
def test_depth_age_and_errors_are_shown(run: Command) -> None:
    code, printed, _ = run()
    assert code == 0
    assert run("show")[1] == printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["pending", "3", "1d2h"] in lines
    assert ["failed", "1"] in [line[:2] for line in lines]
    assert ["pending", "3", "the", "model", "is", "asleep"] in lines
    assert "\x1b" not in printed


@pytest.mark.usefixtures("pending")
def test_depth_as_json(run: Command) -> None:
    for arguments in (("-o", "json"), ("show", "-o", "json")):
        code, printed, _ = run(*arguments)
        shown = json.loads(printed)
        assert (code, list(shown)) == (0, ["pending", "failed", "dropped"])
        assert shown["pending"]["vectors"] == 3
        assert shown["pending"]["oldestSeconds"] >= 93_780
        assert shown["pending"]["lastErrors"] == [{"error": "the model is asleep", "vectors": 3}]
        assert shown["failed"]["lastErrors"] == [{"error": "not \x1b[31m this", "vectors": 1}]


def test_rows_are_listed(run: Command, pending: list[Record]) -> None:
    code, printed, _ = run("list")
    assert code == 0
    assert "PENDING SINCE" in printed.splitlines()[0]
    assert all(record.key.uid in printed and record.name in printed for record in pending)
    assert "\x1b" not in printed
    rows = json.loads(run("list", "--state", "pending", "--limit", "2", "-o", "json")[1])
    assert [row["state"] for row in rows] == ["pending"] * 2
    uid = pending[0].key.uid
    [row] = json.loads(run("list", "--uid", uid, "-o", "json")[1])
    assert (row["uid"], row["generation"], row["table"]) == (uid, 1, "audit_records")
    assert datetime.now(UTC) - datetime.fromisoformat(row["pendingSince"]) > timedelta(days=1)
    assert row["pendingSince"].endswith("Z"), "times are in UTC, and written as in every other answer"


def test_failed_ones_are_tried_again(run: Command, database: TestDatabase, pending: list[Record]) -> None:
    assert pending
    assert run("retry", "--state", "failed") == (0, "to be tried again: 1\n", "")
    assert states(database) == {"pending": 4, "failed": 0, "dropped": 0}
    assert run("retry", "--all") == (0, "to be tried again: 0\n", "")


def test_dropping_keeps_the_reason_and_can_be_taken_back(
    run: Command, database: TestDatabase, pending: list[Record]
) -> None:
    uid = pending[0].key.uid
    assert run("drop", "--uid", uid, "--reason", " a test record ", "--yes") == (0, "dropped: 1\n", "")
    [row] = json.loads(run("list", "--uid", uid, "-o", "json")[1])
    assert (row["state"], row["lastError"]) == ("dropped", "a test record")
    assert run("drop", "--all", "--reason", "x", "-y")[1] == "dropped: 3\n"
    assert states(database) == {"pending": 0, "failed": 0, "dropped": 4}
    assert run("retry", "--uid", uid)[1] == "to be tried again: 1\n"
    assert run("retry", "--state", "dropped")[1] == "to be tried again: 3\n"


@pytest.mark.parametrize(("answer", "dropped"), [("y\n", 3), ("n\n", 0), ("\n", 0), ("", 0)])
@pytest.mark.usefixtures("pending")
def test_dropping_asks_first(
    run: Command, database: TestDatabase, monkeypatch: pytest.MonkeyPatch, answer: str, dropped: int
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    code, printed, _ = run("drop", "--state", "pending", "--reason", "x")
    assert code == (0 if dropped else 1)
    assert "Give up 3 vectors? Their records stay, but a search by meaning won't find them" in printed
    assert states(database) == {"pending": 3 - dropped, "failed": 1, "dropped": dropped}


def test_it_says_how_many_before_it_drops(
    run: Command, pending: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    for selection, count in ((("--all",), 4), (("--state", "failed"), 1), (("--uid", pending[0].key.uid), 1)):
        monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
        assert f"Give up {count} vectors?" in run("drop", *selection, "--reason", "x")[1]
    run("drop", "--all", "--reason", "x", "--yes")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run("drop", "--all", "--reason", "x") == (0, "dropped: 0\n", ""), "nobody is asked about nothing"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("retry",), "--state, --uid or --all"),
        (("drop", "--reason", "x", "--yes"), "--state, --uid or --all"),
        (("retry", "--all", "--state", "failed"), "--all can't be combined"),
        (("drop", "--all", "--uid", str(uuid.uuid4()), "--reason", "x"), "--all can't be combined"),
        (("retry", "--uid", "checkout"), "--uid must be the UID of an object"),
        (("drop", "--uid", "'; DROP TABLE x; --", "--reason", "x", "-y"), "--uid must be the UID"),
        (("list", "--uid", ""), "--uid must be the UID"),
        (("list", "--limit", "0"), "limit must be from 1 to 1,000"),
        (("list", "--limit", "-1"), "limit must be from 1 to 1,000"),
        (("list", "--limit", "1001"), "limit must be from 1 to 1,000"),
        (("retry", "--state", "pending"), "tried again by itself"),
        (("drop", "--all", "--reason", "  "), "--reason must say why"),
    ],
)
@pytest.mark.usefixtures("pending")
def test_a_wrong_choice_is_one_line(
    run: Command, database: TestDatabase, arguments: tuple[str, ...], said: str
) -> None:
    code, printed, error = run(*arguments)
    assert (code, printed) == (2, "")
    assert error.startswith("datastorage: ")
    assert error.count("\n") == 1
    assert said in error
    assert states(database) == {"pending": 3, "failed": 1, "dropped": 0}


@pytest.mark.parametrize(
    "arguments", [("drop", "--all"), ("list", "--state", "lost"), ("-o", "xml"), ("pay",)]
)
def test_wrong_options_are_named(run: Command, arguments: tuple[str, ...]) -> None:
    code, _, error = run(*arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert error.endswith(" --help'.\n")


@pytest.mark.parametrize(
    "arguments", [(), ("list",), ("retry", "--all"), ("drop", "--all", "--reason", "x", "-y")]
)
def test_another_schema_version_is_refused(
    run: Command, database: TestDatabase, arguments: tuple[str, ...]
) -> None:
    async def change() -> None:
        owner = await connect(database.owner_url)
        await owner.execute("UPDATE datastorage.schema_version SET version_num = '9999'")
        await owner.close()

    asyncio.run(change())
    code, _, error = run(*arguments)
    assert code == 2
    assert "9999, newer than version" in error
    assert error.count("\n") == 1


def test_without_a_server_it_is_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/name")
    code, _, error = run("retry", "--all")
    assert code == 1
    assert error.count("\n") == 1
    assert "hunter2" not in error


def test_every_state_has_a_row(run: Command) -> None:
    assert [line.split()[0] for line in run()[1].splitlines()[1:]] == list(OutboxState)
