"""The commands that read the archive, as a role that may only read."""

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import yaml

from datastorage.cli import archive as archive_module
from datastorage.cli import filters as filters_module
from datastorage.embedding.wordllama import WordLlamaProvider
from datastorage.errors import OverloadedError, WorkRefusedError
from datastorage.query.questions import ArchiveQueries
from datastorage.query.searchresult import SearchResult
from datastorage.records.canonical import canonical_bytes
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.storage.fulltext import FullText
from datastorage.storage.hits import HitReader
from harness.objects import action_trace, audit_record
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.support.archive import searchable
from tests.support.clirecords import DISK, DIVERGED, MEMORY
from tests.support.commandline import Command, command_of, use_database

_TRACE = action_trace(
    {"correlationID": "rr-7", "actionType": "restart_pod",
     "execution": {"status": "Failed", "error": "denied"},
     "model": {"name": "gpt"}, "effectiveness": {"score": 0.25},
     "targetRef": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api"}},
    name="trace", creationTimestamp="2026-03-05T12:00:00Z",
)  # fmt: skip


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """Three records with vectors of the default model; the tests only read."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database, provider=WordLlamaProvider()) as archive:
            await archive.put(MEMORY, DISK, _TRACE)
        return database

    return asyncio.run(fill())


@pytest.fixture(scope="module")
def reader_url(filled: TestDatabase) -> Iterator[str]:
    """The URL of a role that is a member of datastorage_reader and of nothing else."""

    async def execute(*statements: str) -> None:
        owner = await connect(filled.owner_url)
        for statement in statements:
            await owner.execute(statement)
        await owner.close()

    role = f"{filled.name}_reader"
    asyncio.run(
        execute(f"CREATE ROLE {role} LOGIN PASSWORD 'only-reads'", f"GRANT datastorage_reader TO {role}")
    )
    parts = urlsplit(filled.owner_url)
    host = parts.netloc.rpartition("@")[2]
    yield urlunsplit(parts._replace(netloc=f"{role}:only-reads@{host}"))
    asyncio.run(execute(f"DROP ROLE {role}"))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reader_url: str, tmp_path: Any
) -> Command:
    """Run a command; return its exit code and what it printed on both streams."""
    use_database(monkeypatch, reader_url, tmp_path / "absent")
    return command_of(monkeypatch, capsys)


def test_search_prints_a_table(run: Command) -> None:
    code, printed, noted = run("search", "out of memory")
    assert (code, noted) == (0, "")
    header, first, *_ = printed.splitlines()
    assert header.split() == [
        "SIMILARITY", "MORE", "INCIDENT", "CREATED", "KIND", "RECORD", "OUTCOME", "TARGET", "WHAT",
    ]  # fmt: skip
    assert "shop/memory " in first
    assert "restart-deployment: the container ran out of memory" in first
    assert "Deployment/shop/checkout" in first
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 4  # one line for each
    uid = MEMORY["metadata"]["uid"]
    assert uid not in printed
    wide = run("search", "out of memory", "-o", "wide")[1].splitlines()
    assert wide[0].split()[:4] == ["SIMILARITY", "FOUND", "BY", "MORE"]
    assert "meaning, words" in wide[1]
    assert uid in wide[1]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_search_as_json(run: Command, mode: str) -> None:
    code, printed, noted = run("search", "out of memory", "--mode", mode, "--limit", "1", "-o", "json")
    assert (code, noted) == (0, "")
    answer = json.loads(printed)
    assert set(answer) == {"mode", "degraded", "leftOut", "results"}
    assert (answer["mode"], answer["degraded"]) == (mode, None)
    [hit] = answer["results"]
    assert set(hit) == {
        "score", "similarity", "foundBy", "more", "correlationID", "moreOfIncident", "kind", "namespace",
        "name", "uid", "generation", "createdAt", "storedAt", "contentHash", "diverged", "intact", "via",
        "recordedBy", "record",
    }  # fmt: skip
    assert hit["uid"] == MEMORY["metadata"]["uid"]
    assert hit["createdAt"] == "2026-03-05T10:00:00Z"
    assert hit["record"]["spec"] == MEMORY["spec"]
    assert (hit["similarity"] is None) == (mode == "text")
    ways = {"hybrid": ["meaning", "words", "clue"], "vector": ["meaning"], "text": ["words", "clue"]}
    assert hit["foundBy"] == ways[mode]
    assert (hit["correlationID"], hit["moreOfIncident"]) == ("rr-7", 1)


def test_search_with_filters(run: Command) -> None:
    code, printed, _ = run(
        "search", "memory", "--hybrid", "--namespace", "shop", "--type", "remediation",
        "--correlation", "rr-7", "--since", "2026-03-05", "--until", "2026-03-06",
        "--kind", "AuditRecord", "--phase", "completed",
        "--severity", "critical", "--target", "Deployment/shop/checkout", "--alert-fingerprint", "a1b2c3",
        "--action", "restart-deployment", "--environment", "production", "--cluster", "eu-1",
        "--actor-kind", "User", "--actor-name", "jo", "--via", "cluster",
        "-o", "json",
    )  # fmt: skip
    assert code == 0
    assert [hit["name"] for hit in json.loads(printed)["results"]] == ["memory"]


def test_nothing_found_is_no_failure(run: Command) -> None:
    assert run("search", "memory", "--namespace", "none") == (0, "", "no records found\n")
    assert run("list", "--since", "1s") == (0, "", "no records found\n")
    assert run("timeline", "none") == (0, "", "no records found\n")
    code, printed, noted = run("list", "--namespace", "none", "-o", "json")
    assert (code, json.loads(printed), noted) == (0, {"records": [], "cursor": None}, "no records found\n")


def test_a_target_that_begins_with_a_name_is_explained(run: Command) -> None:
    for target in ("checkout", "shop/checkout"):
        code, printed, noted = run("list", "--target", target)
        assert (code, printed) == (0, "")
        first, second = noted.splitlines()
        assert first == "no records found"
        assert second.startswith("note: --target begins with the KIND, and ")
        assert "KIND/NAMESPACE/NAME, such as Deployment/payments/checkout" in second
    assert run("search", "memory", "--target", "checkout")[2].count("--target begins with the KIND") == 1
    assert run("list", "--target", "Node") == (0, "", "no records found\n")


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_an_identifier_that_is_in_no_record_is_named(run: Command, mode: str) -> None:
    question = "why was memory of shop/checkout and of api-7f9c short?"
    code, printed, noted = run("search", question, "--mode", mode)
    assert (code, len(printed.splitlines()) > 1) == (0, True)
    assert noted == "note: 'api-7f9c' finds no record; the records above are merely similar\n"
    _, _, noted = run("search", "memory of shop/checkout", "--mode", mode, "--kind", "ActionTrace")
    assert "note: 'shop/checkout' finds no record within these filters" in noted


def test_an_answer_is_printed_though_its_identifiers_cannot_be_looked_for(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ArchiveQueries.search

    async def once(self: ArchiveQueries, question: str, *arguments: Any, **options: Any) -> SearchResult:
        if question.startswith('"'):
            raise OverloadedError("too many questions")
        return await search(self, question, *arguments, **options)

    monkeypatch.setattr(ArchiveQueries, "search", once)
    code, printed, noted = run("search", "why was memory of api-7f9c short?")
    assert (code, noted) == (0, "")
    assert "shop/memory " in printed


def test_a_search_without_results_mentions_no_records_above(run: Command) -> None:
    _, printed, noted = run("search", "ORA-00060", "--mode", "text")
    assert (printed, noted) == ("", "note: 'ORA-00060' finds no record\nno records found\n")


def test_a_search_without_vectors_says_so(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_EMBEDDING_PROVIDER", "none")
    code, printed, noted = run("search", "memory", "-o", "json")
    assert code == 0
    assert noted.startswith("note: searched by words only: ")
    assert json.loads(printed)["mode"] == "text"
    code, printed, noted = run("search", "memory", "--mode", "vector")
    assert (code, printed) == (2, "")
    assert "DATASTORAGE_EMBEDDING_PROVIDER is none" in noted


def test_a_search_without_words_says_so(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any, **__: Any) -> Any:
        raise WorkRefusedError("it took too long")

    monkeypatch.setattr(FullText, "find", refused)
    code, printed, noted = run("search", "out of memory")
    assert (code, noted) == (0, "note: searched by meaning only: it took too long\n")
    assert "shop/memory " in printed


def test_a_search_counts_the_records_that_are_too_large_to_be_shown(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HitReader.__init__, "__kwdefaults__", {"max_bytes": 1})
    code, printed, noted = run("search", "memory", "-o", "json")
    answer = json.loads(printed)
    assert (code, len(answer["results"])) == (0, 1)
    assert answer["leftOut"] >= 1
    assert noted.startswith(f"note: {answer['leftOut']} more would make the answer too large: ")


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what a command would print to standard error as lines of a log."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_search_without_redis_is_the_same_and_says_nothing(
    run: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run("search", "out of memory")
    monkeypatch.setenv("DATASTORAGE_REDIS_URL", "redis://127.0.0.1:1")
    assert run("search", "out of memory") == expected
    assert _warnings(caplog) == []


def test_a_search_without_the_embedder_is_noted_in_one_line(
    run: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"PROVIDER": "openai", "URL": "http://127.0.0.1:1/v1", "MODEL": "m"}.items():
        monkeypatch.setenv(f"DATASTORAGE_EMBEDDING_{name}", value)
    code, printed, noted = run("search", "out of memory")
    assert code == 0
    assert "shop/memory " in printed
    [line] = noted.splitlines()
    assert line.startswith("note: searched by words only: ")
    assert _warnings(caplog) == []


def test_list_pages(run: Command) -> None:
    names: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        _, printed, _ = run("list", "--limit", "1", "-o", "json", *cursor)
        page = json.loads(printed)
        names += [record["name"] for record in page["records"]]
        cursor = ["--cursor", page["cursor"]]
    assert names == ["trace", "disk", "memory"]
    assert page["cursor"] is None
    code, printed, noted = run("list", "--limit", "2", "--kind", "AuditRecord")
    assert (code, noted) == (0, "")
    assert [line.split()[2] for line in printed.splitlines()[1:]] == ["payments/disk", "shop/memory"]
    _, _, noted = run("list", "--limit", "1")
    assert noted.startswith("there are more: --cursor ")


def test_get_prints_the_record(run: Command) -> None:
    uid = DISK["metadata"]["uid"]
    code, printed, noted = run("get", uid, "-o", "json")
    assert (code, noted) == (0, "")
    answer = json.loads(printed)
    assert answer["record"]["spec"]["details"]["n"] == 2**62
    assert answer["record"]["spec"]["details"]["surrogate"] == "\udc00"
    code, printed, _ = run("get", "shop/memory")
    assert code == 0
    assert yaml.safe_load(printed)["record"]["spec"] == MEMORY["spec"]
    code, printed, _ = run("get", uid, "--generation", "1")
    assert yaml.safe_load(printed)["uid"] == uid


@pytest.fixture
def diverged(databases: TestDatabases, monkeypatch: pytest.MonkeyPatch, run: Command) -> Iterator[None]:
    """An archive with two contents of one generation, which `run` then asks."""
    del run  # it set the shared archive's URL; this fixture replaces it

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as archive:
            for body in DIVERGED:
                await archive.put(body)
        return database

    made = asyncio.run(fill())
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", made.service_url)
    yield
    asyncio.run(databases.drop(made))


@pytest.mark.usefixtures("diverged")
def test_one_of_two_contents_is_shown_with_a_note(run: Command) -> None:
    uid = DIVERGED[0]["metadata"]["uid"]
    code, printed, noted = run("list", "--namespace", "restored")
    assert code == 0
    assert len(printed.splitlines()) == 3, "a header and both contents"
    assert f"another content is stored as well (a restored or cloned cluster): datastorage get {uid}" in noted
    code, printed, _ = run("get", uid, "--history", "-o", "json")
    assert code == 0
    shown = [
        (r["generation"], r["diverged"], r["record"]["spec"]["message"])
        for r in json.loads(printed)["records"]
    ]
    assert shown == [(1, True, "pods drained"), (1, False, "pods cordoned")]


def test_get_of_a_missing_record(run: Command) -> None:
    code, printed, noted = run("get", "shop/other")
    assert (code, printed, noted) == (1, "", "datastorage: no record shop/other in the archive\n")


def test_timeline_is_in_order(run: Command) -> None:
    code, printed, noted = run("timeline", "rr-7")
    assert (code, noted) == (0, "")
    assert [line.split()[3] for line in printed.splitlines()[1:]] == ["shop/memory", "payments/trace"]
    _, printed, _ = run("timeline", "rr-7", "-o", "json")
    answer = json.loads(printed)
    assert [entry["at"] for entry in answer["entries"]] == ["2026-03-05T10:00:00Z", "2026-03-05T12:00:00Z"]
    assert answer["complete"] is True


def test_timeline_pages(run: Command) -> None:
    code, printed, noted = run("timeline", "rr-7", "--limit", "1")
    assert code == 0
    assert [line.split()[3] for line in printed.splitlines()[1:]] == ["shop/memory"]
    assert noted.startswith("there are more, later ones: --cursor ")
    code, printed, noted = run("timeline", "rr-7", "--limit", "1", *noted.split()[-2:])
    assert (code, noted) == (0, "")
    assert [line.split()[3] for line in printed.splitlines()[1:]] == ["payments/trace"]
    _, printed, _ = run("timeline", "rr-7", "--limit", "1", "-o", "json")
    page = json.loads(printed)
    assert page["complete"] is False
    _, printed, _ = run("timeline", "rr-7", "-o", "json", "--cursor", page["cursor"])
    page = json.loads(printed)
    assert [entry["name"] for entry in page["entries"]] == ["trace"]
    assert (page["complete"], page["cursor"]) == (True, None)


def test_how_long_ago_counts_from_the_archives_clock(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this machine runs ahead by more than the asked time."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Ahead":
            return cls.fromtimestamp((datetime.now(tz) + timedelta(weeks=9000)).timestamp(), tz)

    # The clock of a machine can't be set for one process.
    for module in (archive_module, filters_module):
        monkeypatch.setattr(module, "datetime", Ahead)
    _, printed, _ = run("list", "--since", "5000w", "-o", "json")
    assert [record["name"] for record in json.loads(printed)["records"]] == ["trace", "disk", "memory"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", ""), "the question is empty"),
        (("search", "x", "--limit", "-1"), "limit must be from 1 to 1,000, not -1"),
        (("search", "x", "--limit", "1001"), "limit must be from 1 to 1,000"),
        (("search", "x", "--type", "Remedy"), "type must be one of Remediation"),
        (("search", "x", "--kind", "Pod"), "kind must be one of AuditRecord, ActionTrace"),
        (("search", "x", "--since", "soon"), "--since must be a time"),
        (("search", "x", "--since", "1h", "--until", "2h"), "must be before until"),
        (("search", "x", "--hybrid", "--mode", "text"), "can't be combined"),
        (("list", "--target", "a/b/c/d"), "--target must be KIND"),
        (("list", "--cursor", "x"), "the cursor is not one"),
        (("timeline", "rr-7", "--cursor", "x"), "the cursor is not one"),
        (("timeline", "rr-7", "--limit", "1001"), "limit must be from 1 to 1,000"),
        (("list", "--namespace", ""), "namespace is empty"),
        (("get", "x"), "'x' is neither a UID nor NAMESPACE/NAME: give it with its namespace, as payments/x"),
        (("get", "/x"), "namespace is empty"),
        (("get", "a/b", "--generation", "1"), "--generation needs a UID"),
        (("get", "a/b", "--history"), "--history needs a UID: 'datastorage get a/b' shows it"),
        (("get", "x", "--history", "--generation", "1"), "--history shows all generations"),
        (("timeline", ""), "correlation ID is empty"),
        (("list", "--via", "mail"), "via must be one of cluster, api"),
        (("history", "checkout"), "'checkout' names no object: give KIND/NAMESPACE/NAME"),
        (("history", "Pod/a/b/c"), "--target must be KIND"),
        (("history", "Pod/a", "--target", "Pod/b"), "--target is the argument of this command"),
        (("history", "Pod/a", "--cursor", "x"), "the cursor is not one"),
        (("summary", "--by", "colour"), "one or two of type, namespace, action, targetKind, day to group by"),
        (("summary", "--since", "2000w"), "covers 366 days at most"),
    ],
)
def test_a_wrong_question_is_one_line(run: Command, arguments: tuple[str, ...], message: str) -> None:
    code, printed, noted = run(*arguments)
    assert (code, printed) == (2, "")
    assert noted.count("\n") == 1
    assert message in noted


def test_a_changed_record_is_an_error(run: Command, filled: TestDatabase) -> None:
    uid = DISK["metadata"]["uid"]

    async def change(sql: str) -> None:
        owner = await connect(filled.owner_url)
        await owner.execute(f"UPDATE datastorage.audit_records SET content = {sql} WHERE uid = $1", uid)
        await owner.close()

    asyncio.run(change("content || ' '"))
    try:
        code, printed, noted = run("get", uid, "-o", "json")
    finally:
        asyncio.run(change("substring(content, 1, octet_length(content) - 1)"))
    assert code == 1
    assert json.loads(printed)["intact"] is False
    assert "WARNING: AuditRecord payments/disk" in noted
    assert "1 of 1 records are not as they were stored" in noted


def test_another_schema_version_is_refused(run: Command, filled: TestDatabase) -> None:
    async def set_version(version: str) -> str:
        owner = await connect(filled.owner_url)
        before: str = await owner.fetchval("SELECT version_num FROM datastorage.schema_version")
        await owner.execute("UPDATE datastorage.schema_version SET version_num = $1", version)
        await owner.close()
        return before

    before = asyncio.run(set_version("9999"))
    try:
        code, printed, noted = run("search", "memory")
    finally:
        asyncio.run(set_version(before))
    assert (code, printed) == (2, "")
    assert "run a newer version of the program" in noted


def test_history_of_an_object(run: Command) -> None:
    code, printed, noted = run("history", "Pod/shop/api")
    assert (code, noted) == (0, "")
    header, line = printed.splitlines()
    assert header.split() == ["CREATED", "KIND", "RECORD", "OUTCOME", "EFFECT", "MODEL", "WHAT"]
    assert line.split() == [
        "2026-03-05T12:00:00Z", "ActionTrace", "payments/trace", "Failed", "0.25", "gpt", "restart_pod:",
        "denied",
    ]  # fmt: skip
    assert _TRACE["metadata"]["uid"] in run("history", "Pod/shop/api", "-o", "wide")[1]
    code, printed, _ = run("history", "Deployment/checkout", "-o", "json")
    answer = json.loads(printed)
    assert (code, answer["cursor"]) == (0, None)
    [entry] = answer["entries"]
    assert (entry["name"], entry["action"], entry["outcome"]) == ("memory", "restart-deployment", "Completed")
    assert entry["sentence"].startswith(
        "2026-03-05 10:00 UTC: restart-deployment on Deployment/shop/checkout"
    )
    assert run("history", "Pod/shop/api", "--kind", "AuditRecord") == (0, "", "no records found\n")
    assert "looks like a name" in run("history", "shop/api")[2]


def test_summary_by_one_and_two_keys(run: Command) -> None:
    march = ("--since", "2026-03-01", "--until", "2026-04-01")
    code, printed, noted = run("summary", "--by", "type", *march)
    assert (code, noted) == (0, "")
    header, *lines = printed.splitlines()
    assert header.split() == ["TYPE", "RECORDS", "FAILED", "MEAN", "P50", "P95", "EFFECT"]
    assert [line.split() for line in lines] == [
        ["ActionTrace", "1", "1", "0.25"],
        ["Execution", "1", "1", "1m30s", "1m30s", "1m30s"],
        ["Remediation", "1", "0"],
    ]
    code, printed, noted = run("summary", "--by", "namespace,day", *march, "--limit", "1")
    assert [line.split() for line in printed.splitlines()] == [
        ["NAMESPACE", "DAY", "RECORDS", "FAILED", "MEAN", "P50", "P95", "EFFECT"],
        ["payments", "2026-03-05", "2", "2", "1m30s", "1m30s", "1m30s", "0.25"],
    ]
    assert (code, noted) == (0, "note: these are the first 1 of 2 groups: see --limit\n")
    code, printed, _ = run(
        "summary", "--by", "targetKind", "--phase", "Failed", *march,
        "-o", "json",
    )  # fmt: skip
    answer = json.loads(printed)
    assert (code, answer["records"], answer["groupBy"], answer["truncated"]) == (0, 2, ["targetKind"], False)
    assert [each["group"] for each in answer["items"]] == [{"targetKind": "Pod"}, {"targetKind": None}]
    code, printed, noted = run("summary")
    assert (code, printed) == (0, "")
    assert noted.startswith("no records found since 20")


@pytest.mark.parametrize("command", ["search", "list", "get", "timeline", "history", "summary"])
def test_help_shows_examples(run: Command, command: str) -> None:
    code, printed, _ = run(command, "--help")
    assert code == 0
    assert f"datastorage {command} " in printed.partition("Example")[2]


@pytest.mark.parametrize("levels", [150, 1_200, 9_900])
def test_a_deep_record_is_shown_as_it_was_stored(
    run: Command, monkeypatch: pytest.MonkeyPatch, databases: TestDatabases, levels: int
) -> None:
    make_room_for_deep_json()
    details = json.loads('{"a":' * levels + "1" + "}" * levels)
    record = audit_record({**MEMORY["spec"], "details": details}, name="deep")

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as archive:
            await archive.put(record)
        return database

    filled = asyncio.run(fill())
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", filled.service_url)
    code, printed, noted = run("get", record["metadata"]["uid"], "-o", "json")
    assert (code, noted) == (0, "")
    # Comparing values that deep needs a stack of its own; texts do not.
    assert canonical_bytes(json.loads(printed)["record"]["spec"]["details"]) == canonical_bytes(details)
    code, printed, noted = run("get", record["metadata"]["uid"], "-o", "yaml")
    if levels < 200:
        assert (code, yaml.safe_load(printed)["record"]["spec"]["severity"]) == (0, "critical")
    else:
        assert (code, printed) == (1, "")
        assert noted == "datastorage: this record is nested too deep for YAML: use -o json\n"
    assert run("list")[0] == 0
    asyncio.run(databases.drop(filled))


def test_a_record_that_can_t_be_read_here_is_not_shown_as_empty(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_deep(_: bytes) -> None:
        raise RecursionError

    # This Python reads every depth that can be stored; others do not.
    monkeypatch.setattr("datastorage.query.archivedrecord.json.loads", too_deep)
    code, printed, noted = run("list", "--namespace", "shop", "-o", "json")
    assert code == 1
    assert '"record": null' in printed
    assert "shop/memory" in noted
    assert "is nested too deep to be read here; it is stored as it was" in noted


def test_a_reader_exports_the_archive(run: Command) -> None:
    code, printed, _ = run("export")
    assert code == 0
    *lines, end = map(
        json.loads, printed.removesuffix("\n").split("\n")
    )  # a record may have other line breaks
    assert (end["kind"], end["count"]) == ("ExportEnd", len(lines))
    assert [line["uid"] for line in lines] == [body["metadata"]["uid"] for body in (MEMORY, DISK, _TRACE)]
    assert lines[1]["record"]["spec"] == DISK["spec"]
