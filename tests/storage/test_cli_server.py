"""The commands that read the archive, over HTTP: they print what they print with a database."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from datastorage.assembly.queries import build_queries
from datastorage.cli.exportfile import ExportFile
from datastorage.client.access import Access, open_server
from datastorage.client.export import RemoteExports
from datastorage.embedding.wordllama import WordLlamaProvider
from datastorage.errors import IncompleteExportError
from datastorage.query.filters import Filter
from datastorage.storage.connection.database import Database
from harness.objects import audit_record
from harness.postgres import TestDatabase, TestDatabases
from tests.support.apiserved import Served, exporting, served
from tests.support.archive import searchable
from tests.support.background import in_background
from tests.support.clirecords import DISK, DIVERGED, MEMORY, REPEATED, REPEATED_UID, TRACE, changed
from tests.support.commandline import Command, command_of, use_database

_UIDS = {body["metadata"]["name"]: body["metadata"]["uid"] for body in (MEMORY, DISK, TRACE[0], DIVERGED[0])}


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """Records of both kinds with vectors of the default model; the tests only read."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database, provider=WordLlamaProvider()) as archive:
            for body in (MEMORY, DISK, *TRACE, *DIVERGED, *REPEATED):
                await archive.put(body)
        return database

    return asyncio.run(fill())


@asynccontextmanager
async def _serving(database: TestDatabase) -> AsyncIterator[Served]:
    async with searchable(database, provider=WordLlamaProvider()) as archive, served(archive.ask) as api:
        yield api


@pytest.fixture(scope="module")
def api(filled: TestDatabase) -> Iterator[Served]:
    """The REST API of the archive."""
    with in_background(_serving(filled)) as opened:
        yield opened


@pytest.fixture
def directly(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    filled: TestDatabase,
    tmp_path: Path,
) -> Command:
    """Run a command with the database; return its exit code and what it printed on both streams."""
    use_database(monkeypatch, filled.service_url, tmp_path / "absent")
    monkeypatch.setenv("DATASTORAGE_TOKEN", "robot")
    return command_of(monkeypatch, capsys)


def _over_http(directly: Command, api: Served) -> Command:
    return lambda command, *arguments: directly(command, "--server", api.url, *arguments)


def _without_uids(words: str) -> str:
    """Return the name of a test: it must be the same in all processes, and each makes uids of its own."""
    for name, uid in _UIDS.items():
        words = words.replace(uid, f"uid-of-{name}")
    return words


_FILTERS = (
    "--namespace", "shop", "--type", "remediation", "--correlation", "rr-7", "--since", "2026-03-05",
    "--until", "2026-03-06", "--kind", "AuditRecord", "--phase", "completed", "--severity", "critical",
    "--target", "Deployment/shop/checkout", "--alert-fingerprint", "a1b2c3",
)  # fmt: skip
_QUESTIONS: list[tuple[str, ...]] = [
    *(("search", "out of memory", "-o", form) for form in ("table", "wide", "json")),
    *(("search", "out of memory", "--mode", mode, "-o", "json") for mode in ("hybrid", "vector", "text")),
    ("search", "memory", *_FILTERS, "-o", "json"),
    ("search", "why was memory of shop/checkout and of api-7f9c short?"),
    ("search", "memory of shop/checkout", "--kind", "ActionTrace"),
    ("search", "ORA-00060", "--mode", "text"),
    ("search", "memory", "--namespace", "none"),
    *(("list", "-o", form) for form in ("table", "wide", "json")),
    ("list", *_FILTERS, "-o", "json"),
    ("list", "--kind", "ActionTrace", "--type", "restart_pod", "-o", "json"),
    ("list", "--kind", "auditrecord", "-o", "json"),
    ("list", "--kind", "actiontrace", "-o", "json"),
    ("list", "--type", "Execution"),
    ("list", "--since", "9000w"),
    ("list", "--since", "1s", "-o", "json"),
    ("list", "--limit", "1"),
    ("list", "--limit", "2", "-o", "json"),
    ("list", "--target", "checkout"),
    *(("get", uid, "-o", form) for uid in _UIDS.values() for form in ("yaml", "json")),
    *(("get", uid, "--history", "-o", form) for uid in _UIDS.values() for form in ("yaml", "json")),
    ("get", _UIDS["trace"], "--generation", "1"),
    ("get", _UIDS["trace"], "--kind", "ActionTrace"),
    ("get", "shop/memory"),
    ("get", "memory", "-n", "shop"),
    ("get", "payments/trace", "--kind", "actiontrace", "-o", "json"),
    ("get", "payments/disk", "--kind", "AuditRecord", "-o", "json"),
    ("get", _UIDS["memory"], "-n", "shop"),
    ("get", REPEATED_UID, "-n", "left"),
    ("get", REPEATED_UID, "-n", "right", "--history"),
    *(("timeline", "rr-7", "-o", form) for form in ("table", "wide", "json")),
    ("timeline", "rr-7", "--limit", "1"),
    ("timeline", "rr-7", "-n", "shop", "-o", "json"),
    ("timeline", "none"),
    *(("history", "Pod/shop/api", "-o", form) for form in ("table", "wide", "json")),
    ("history", "Deployment/shop/checkout", "-n", "shop", "--type", "remediation", "-o", "json"),
    ("history", "Deployment/checkout", "--limit", "1"),
    ("history", "Pod/api", "--kind", "AuditRecord"),
    *(("summary", "--since", "2026-03-01", "--by", by, "-o", "json") for by in ("type", "targetKind,day")),
    ("summary", "--since", "2026-03-01", "--by", "namespace", "--limit", "2"),
    ("summary", "--since", "2026-03-01", "--type", "execution"),
    ("list", "--via", "Cluster", "--action", "resize", "-o", "json"),
]
_MISTAKES: list[tuple[tuple[str, ...], int, str]] = [
    (("get", "shop/other"), 1, "no record shop/other in the archive"),
    (("get", "00000000-0000-0000-0000-000000000000"), 1, "no record 00000000-"),
    (("get", _UIDS["memory"], "-n", "payments"), 1, "no record "),
    (("get", _UIDS["memory"], "--kind", "ActionTrace"), 1, "no ActionTrace "),
    (("get", _UIDS["trace"], "--kind", "AuditRecord", "--history"), 1, "no AuditRecord "),
    (("get", "payments/trace", "--kind", "AuditRecord"), 1, "no record payments/trace in the archive"),
    (("get", _UIDS["memory"], "--generation", "2"), 1, "in generation 2 in the archive"),
    (("get", _UIDS["memory"], "--generation", "-1"), 2, "generation must be 0 to"),
    (("get", REPEATED_UID), 2, "more than one namespace has a record with the uid "),
    (("get", REPEATED_UID, "--history"), 2, "name the namespace that you mean, such as left or right"),
    (("get", "shop/memory", "-n", "payments"), 2, "--namespace payments contradicts shop/memory"),
    (("search", ""), 2, "the question is empty"),
    (("search", "--", "-word"), 2, "only words to leave out"),
    (("search", "x", "--limit", "1001"), 2, "limit must be from 1 to 1,000"),
    (("search", "x", "--type", "Remedy"), 2, "type must be one of Remediation"),
    (("search", "x", "--kind", "Pod"), 2, "kind must be one of AuditRecord, ActionTrace"),
    (("search", "the what", "--mode", "text"), 2, "only words that are in every text"),
    (("search", "x", "--since", "2026-03-06", "--until", "2026-03-05"), 2, "must be before until"),
    (("list", "--cursor", "x"), 2, "the cursor is not one"),
    (("list", "--namespace", ""), 2, "namespace is empty"),
    (("list", "--alert-fingerprint", ""), 2, "alert_fingerprint is empty"),
    (("timeline", "rr-7", "--cursor", "x"), 2, "the cursor is not one"),
    (("timeline", ""), 2, "correlation ID is empty"),
    (("history", "checkout"), 2, "names no object"),
    (("history", "Pod/api", "--cursor", "x"), 2, "the cursor is not one"),
    (("summary", "--by", "colour"), 2, "give one or two of"),
    (("summary", "--since", "2020-01-01"), 2, "366 days at most"),
    (("get", "/x"), 2, "namespace is empty"),
    (("get", "x"), 2, "'x' is neither a UID nor NAMESPACE/NAME"),
    (("get", "x", "--kind", "Pod", "-n", "shop"), 2, "kind must be one of"),
]


@pytest.mark.parametrize("question", _QUESTIONS, ids=lambda words: _without_uids(" ".join(words)))
def test_a_question_over_http_prints_the_same(
    directly: Command, api: Served, question: tuple[str, ...]
) -> None:
    expected = directly(*question)
    assert expected[0] == 0, expected
    assert _over_http(directly, api)(*question) == expected


@pytest.mark.parametrize(
    ("question", "code", "message"), _MISTAKES, ids=lambda value: _without_uids(str(value))[:60]
)
def test_a_mistake_over_http_is_the_same_line(
    directly: Command, api: Served, question: tuple[str, ...], code: int, message: str
) -> None:
    expected = directly(*question)
    assert expected[:2] == (code, "")
    assert message in expected[2]
    assert expected[2].count("\n") == 1
    assert _over_http(directly, api)(*question) == expected


@pytest.fixture(scope="module")
def exports(filled: TestDatabase) -> Iterator[Served]:
    """The route of exports of the archive."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[Served]:
        database = Database(filled.service_url, pool_size=4)
        async with exporting(database) as api:
            yield api
        await database.close()

    with in_background(serving()) as opened:
        yield opened


def test_an_export_over_http_has_the_same_bytes(directly: Command, exports: Served, tmp_path: Path) -> None:
    for number, filters in enumerate(((), ("--namespace", "shop"), ("--kind", "ActionTrace"))):
        files = [tmp_path / f"{number}-{way}" for way in ("database", "server")]
        expected = directly("export", "--output", str(files[0]), *filters)
        assert expected[0] == 0, expected
        assert _over_http(directly, exports)("export", "--output", str(files[1]), *filters) == expected
        assert files[0].read_bytes() == files[1].read_bytes()


def test_an_export_over_http_is_continued(directly: Command, exports: Served, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert directly("export", "--output", str(whole))[0] == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    broken.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    code, _, noted = _over_http(directly, exports)("export", "--output", str(broken), "--resume")
    assert (code, noted) == (0, f"records exported: {len(lines) - 1}\n")
    assert broken.read_bytes() == whole.read_bytes()


def test_an_export_over_http_counts_changed_records(
    directly: Command, exports: Served, filled: TestDatabase, tmp_path: Path
) -> None:
    with changed(filled):
        expected = directly("export", "--output", str(tmp_path / "database"))
        found = _over_http(directly, exports)("export", "--output", str(tmp_path / "server"))
    assert expected[0] == 1
    assert "1 records are not as they were stored" in expected[2]
    assert found == expected


async def test_an_export_that_the_server_cuts_is_not_complete(tmp_path: Path) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as listening:
        access = Access(url=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        async with open_server(access, {"DATASTORAGE_TOKEN": "robot"}) as server:
            begun = await RemoteExports(server).begin(Filter(), token=None)
            file = ExportFile.create(tmp_path / "export")
            with closing(file), pytest.raises(IncompleteExportError, match="1 whole lines"):
                await file.write(begun.pieces())


def test_a_search_without_vectors_over_http_says_so(
    directly: Command, monkeypatch: pytest.MonkeyPatch, filled: TestDatabase
) -> None:
    @asynccontextmanager
    async def serving() -> AsyncIterator[Served]:
        database = Database(filled.service_url, pool_size=4)
        async with served(build_queries(database)) as api:
            yield api
        await database.close()

    monkeypatch.setenv("DATASTORAGE_EMBEDDING_PROVIDER", "none")
    with in_background(serving()) as api:
        for question in (("search", "memory", "-o", "json"), ("search", "memory", "--mode", "vector")):
            expected = directly(*question)
            assert "DATASTORAGE_EMBEDDING_PROVIDER is none" in expected[2]
            assert _over_http(directly, api)(*question) == expected


def test_a_deep_record_over_http_is_shown_as_it_was_stored(
    directly: Command, monkeypatch: pytest.MonkeyPatch, databases: TestDatabases
) -> None:
    record = audit_record({**MEMORY["spec"], "details": json.loads('{"a":' * 150 + "1" + "}" * 150)})

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as archive:
            await archive.put(record)
        return database

    deep = asyncio.run(fill())
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", deep.service_url)
    with in_background(_serving(deep)) as api:
        for form in ("json", "yaml"):
            question = ("get", record["metadata"]["uid"], "-o", form)
            expected = directly(*question)
            assert expected[0] == 0
            assert _over_http(directly, api)(*question) == expected
    asyncio.run(databases.drop(deep))


def test_pages_over_http_continue(directly: Command, api: Served) -> None:
    for first, items in (
        (("list", "--limit", "2"), "records"),
        (("timeline", "rr-7", "--limit", "2"), "entries"),
    ):
        pages: dict[str, list[str]] = {}
        for way in ("database", "server"):
            run = directly if way == "database" else _over_http(directly, api)
            cursor: list[str] = []
            names: list[str] = []
            while not names or cursor[1]:
                page = json.loads(run(*first, "-o", "json", *cursor)[1])
                names += [each["name"] for each in page[items]]
                cursor = ["--cursor", page["cursor"]]
            pages[way] = names
        assert pages["server"] == pages["database"]


def test_a_changed_record_over_http_is_an_error(directly: Command, api: Served, filled: TestDatabase) -> None:
    with changed(filled):
        expected = directly("get", _UIDS["disk"], "-o", "json")
        found = _over_http(directly, api)("get", _UIDS["disk"], "-o", "json")
    assert expected[0] == 1
    assert "has been changed in the archive" in expected[2]
    assert found == expected
