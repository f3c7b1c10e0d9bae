"""Incidents in the answers to a search: in tables, in JSON and in those of the REST API."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from harness.objects import audit_record
from harness.postgres import TestDatabase, TestDatabases
from tests.support.apiserved import Served, served
from tests.support.archive import searchable
from tests.support.background import in_background
from tests.support.commandline import Command, command_of, use_database

_BODIES = [
    audit_record(
        {"type": "Execution", "action": "act", "phase": "Completed", "correlationID": incident,
         "message": message},
        name=name, namespace="shop", creationTimestamp=f"2026-03-05T10:0{number}:00Z",
    )
    for number, (incident, message, name) in enumerate(
        [
            *(("rr-oom", f"memory limit x{n}", f"oom{n}") for n in range(4)),
            ("rr-oom", "a limit that nobody in the company had expected or had ever seen", "late"),
            ("rr-disk", "memory short", "disk"),
        ]
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """An incident of five records beside another one; the tests only read."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as archive:
            await archive.put(*_BODIES)
        return database

    return asyncio.run(fill())


@asynccontextmanager
async def _serving(database: TestDatabase) -> AsyncIterator[Served]:
    async with searchable(database) as archive, served(archive.ask) as api:
        yield api


@pytest.fixture(scope="module")
def api(filled: TestDatabase) -> Iterator[Served]:
    """The REST API of the archive."""
    with in_background(_serving(filled)) as opened:
        yield opened


@pytest.fixture(params=["database", "server"])
def run(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    filled: TestDatabase,
    api: Served,
    tmp_path: Path,
) -> Command:
    """Search for words alone, which needs no model; return what was printed."""
    use_database(monkeypatch, filled.service_url, tmp_path / "absent")
    monkeypatch.setenv("DATASTORAGE_TOKEN", "robot")
    command = command_of(monkeypatch, capsys)
    server = ("--server", api.url) if request.param == "server" else ()
    return lambda *arguments: command("search", "memory limit", "--mode", "text", *server, *arguments)


def test_a_table_has_an_incident_together_and_counts_the_rest(run: Command) -> None:
    code, printed, _ = run("--limit", "4")
    assert code == 0
    lines = printed.splitlines()
    at = lines[0].index("INCIDENT")
    assert [line[at:].split("  ")[0] for line in lines[1:]] == ["rr-oom +2"] * 3 + ["rr-disk"]
    assert ["shop/oom3" in lines[1], "shop/oom2" in lines[2], "shop/oom1" in lines[3]] == [True] * 3


def test_a_wide_table_says_which_hits_their_incident_has_raised(run: Command) -> None:
    code, printed, _ = run("--limit", "6", "--flat", "-o", "wide")
    assert code == 0
    lines = printed.splitlines()
    assert [line.split()[0:2] for line in lines[1:]] == [["words,", "clue"]] * 4 + [
        ["words,", "incident"], ["words", "rr-disk"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "names", "left"),
    [
        ((), ["oom3", "oom2", "oom1", "disk"], 2),
        (("--flat",), ["oom3", "oom2", "oom1", "oom0"], 1),
        (("--correlation", "rr-oom"), ["oom3", "oom2", "oom1", "oom0"], 1),
    ],
    ids=["together", "flat", "one incident"],
)
def test_json_has_the_incidents(run: Command, options: tuple[str, ...], names: list[str], left: int) -> None:
    code, printed, _ = run("--limit", "4", "-o", "json", *options)
    assert code == 0
    hits = json.loads(printed)["results"]
    assert [hit["name"] for hit in hits] == names
    assert (hits[0]["correlationID"], hits[0]["moreOfIncident"]) == ("rr-oom", left)


async def test_the_api_has_a_parameter_for_it(api: Served) -> None:
    path, asked = "/query/semantic", {"q": "memory limit", "mode": "text", "limit": 4}
    query = f"{path}?q=memory+limit&mode=text&limit=4"
    media = {"Content-Type": "application/json"}

    async def post(**flat: object) -> list[str]:
        answer = await api.send("POST", path, json.dumps({**asked, **flat}).encode(), media)
        return [hit["name"] for hit in answer.json["items"]]

    together, plain = ["oom3", "oom2", "oom1", "disk"], ["oom3", "oom2", "oom1", "oom0"]
    answers = [await api.send("GET", f"{query}{flat}") for flat in ("", "&flat=false", "&flat=true")]
    assert [[hit["name"] for hit in answer.json["items"]] for answer in answers] == [
        together, together, plain,
    ]  # fmt: skip
    assert [await post(), await post(flat=True)] == [together, plain]
    [hit, *_] = answers[0].json["items"]
    assert (hit["correlationID"], hit["moreOfIncident"], hit["foundBy"]) == ("rr-oom", 2, ["words", "clue"])
    assert (await api.send("GET", f"{query}&flat=perhaps")).status == 400
