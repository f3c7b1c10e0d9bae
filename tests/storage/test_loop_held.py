"""No request holds the event loop for long: large records, long pages, whole batches."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from datastorage.assembly.queries import build_queries
from datastorage.query.filters import SearchMode
from datastorage.query.questionwords import MAX_QUESTION_CHARACTERS
from datastorage.storage.connection.database import Database
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, record_of
from harness.postgres import TestDatabase, TestDatabases
from tests.support.apiserved import Served, body, served
from tests.support.archive import searchable
from tests.support.loopheld import MOST_YARDS, WATCHINGS, longest_hold

LARGE = 1_400_000  # bytes; etcd accepts little more
PAGE = 1_000
PLACES = ("cart", "basket", "ledger", "mailer", "planner", "router", "scaler", "tracker", "vault", "writer")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> Iterator[TestDatabase]:
    """A database with a page of usual records, some large ones, and one remediation of a thousand records."""
    database = asyncio.run(databases.clone())
    asyncio.run(fill(database))
    yield database
    asyncio.run(databases.drop(database))


async def fill(database: TestDatabase) -> None:
    pool = Database(database.service_url, pool_size=2)
    archive = Archive(pool)
    usual = [
        audit_record(
            {
                **AUDIT_SPEC,
                "correlationID": "rr-long",
                "message": f"Moved {PLACES[n % 10]} {n} to a new home",
            },
            namespace="usual",
            name=f"usual-{n}",
        )
        for n in range(PAGE)
    ]
    for start in range(0, PAGE, 500):
        await archive.write([record_of(one) for one in usual[start : start + 500]])
    for one in (large_record(n) for n in range(5)):
        await archive.write([record_of(one)])
    await pool.close()


def large_record(number: int, **metadata: Any) -> dict[str, Any]:
    return audit_record(
        {**AUDIT_SPEC, "correlationID": "rr-large", "details": details()},
        namespace="large", uid=str(uuid.UUID(int=number + 1)), name=f"large-{number}", **metadata,
    )  # fmt: skip


def details() -> Any:
    """Return many small values: these take longest to read and to write."""
    return {f"step-{n:06d}": {"ok": True, "seconds": n * 0.25, "text": "é"} for n in range(LARGE // 60)}


@pytest_asyncio.fixture
async def api(filled: TestDatabase) -> AsyncIterator[Served]:
    database = Database(filled.service_url, pool_size=4)
    async with served(build_queries(database)) as made:
        # What is loaded and compiled with a first request is not part of any other.
        for path in ("/query/records?pageSize=1&namespace=usual", "/query/semantic?q=x&mode=text&limit=1"):
            assert (await made.send("GET", path)).status == 200
        assert (
            await made.send("POST", "/store/workflow", json.dumps([body()] * 2).encode(), JSON)
        ).status == 207
        yield made
    await database.close()


LARGE_UID = uuid.UUID(int=1)


@pytest.mark.parametrize(
    "path",
    [
        f"/query/records/{LARGE_UID}?namespace=large",
        "/query/records?namespace=large",
        f"/query/records?namespace=usual&pageSize={PAGE}",
        "/timeline/rr-large",
        "/timeline/rr-long",
        f"/query/semantic?namespace=usual&mode=text&q=new+home&limit={PAGE}",
        "/query/semantic?namespace=large&mode=text&q=restarted",
    ],
)
async def test_no_question_holds_the_loop(api: Served, path: str) -> None:
    answer, yards = await longest_hold(lambda: api.send("GET", path))
    assert answer.status == 200, answer.content[:500]
    assert yards < MOST_YARDS


async def test_no_body_of_a_question_holds_the_loop(api: Served) -> None:
    content = json.dumps({f"{n:x}": 0 for n in range(30_000)}).encode()
    answer, yards = await longest_hold(lambda: api.send("POST", "/query/semantic", content, JSON))
    assert answer.status == 400
    assert answer.json["detail"].startswith("30,000 parameters are given")
    assert yards < MOST_YARDS


@pytest.mark.parametrize("kind", ["one", "array", "lines"])
async def test_no_store_holds_the_loop(api: Served, kind: str) -> None:
    if kind == "one":
        one = body()
        one["spec"]["details"] = details()
        content, media = json.dumps(one).encode(), JSON
    else:
        many = [body(name=f"record-{n}") for n in range(500)]
        for one in many:
            one["spec"]["details"] = {f"step-{n:03d}": {"ok": True, "seconds": n} for n in range(300)}
        media = {"Content-Type": "application/x-ndjson"} if kind == "lines" else JSON
        content = (
            b"\n".join(json.dumps(one).encode() for one in many)
            if kind == "lines"
            else json.dumps(many).encode()
        )
        assert 4_000_000 < len(content) < 8 * 1024 * 1024
    answer, yards = await longest_hold(lambda: api.send("POST", "/store/workflow", content, media))
    assert answer.status in {201, 207}, answer.content[:500]
    assert yards < MOST_YARDS


async def test_no_commit_holds_the_loop(cloned: TestDatabase) -> None:
    values = {f"step-{n:03d}": {"ok": True, "seconds": n} for n in range(300)}
    spec = {**AUDIT_SPEC, "details": values}
    records = [record_of(audit_record({**spec, "message": f"step {n}"})) for n in range(WATCHINGS * 500)]
    batches = iter(records[start : start + 500] for start in range(0, len(records), 500))
    database = Database(cloned.service_url, pool_size=2)
    archive = Archive(database)
    await archive.write([record_of(audit_record())])
    _, yards = await longest_hold(lambda: archive.write(next(batches)))
    await database.close()
    assert yards < MOST_YARDS


async def test_no_search_for_a_thousand_records_holds_the_loop(cloned: TestDatabase) -> None:
    """Each way finds 2,000 hits, of which few are found by both."""
    async with searchable(cloned) as archive:
        for start in range(0, 4_000, 500):
            bodies = [
                audit_record(
                    {
                        **AUDIT_SPEC,
                        "correlationID": f"rr-{n % 500}",
                        "message": f"Node {n} is under pressure",
                    },
                    creationTimestamp=f"2026-03-05T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}Z",
                )
                for n in range(start, start + 500)
            ]
            await archive.put(*bodies)
        await archive.ask.search("pressure")
        found, yards = await longest_hold(
            lambda: archive.ask.search("node under pressure", limit=PAGE, flat=True)
        )
    assert len(found.hits) == PAGE
    assert yards < MOST_YARDS


@pytest.mark.parametrize(
    "question",
    [
        "\ufdfa" * MAX_QUESTION_CHARACTERS,
        "".join(chr(0x4E00 + n) for n in range(MAX_QUESTION_CHARACTERS)),
        " ".join(f"a{n}" for n in range(2_700)),
        ('a & !b | (c <-> d):* -"e f" ' * 600)[:MAX_QUESTION_CHARACTERS],
        "aB" * (MAX_QUESTION_CHARACTERS // 2 - 1) + "'a",
        "ABa" * (MAX_QUESTION_CHARACTERS // 6) + "'s" * (MAX_QUESTION_CHARACTERS // 4),
    ],
    ids=["forms", "pairs", "identifiers", "marks", "capitals", "possessives"],
)
async def test_no_question_is_too_long_for_the_loop(
    filled: TestDatabase, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in a thread, where a single match holds the loop too: so the time of all threads counts."""
    monkeypatch.setattr(time, "thread_time", time.process_time)
    database = Database(filled.service_url, pool_size=2)
    queries = build_queries(database)
    await queries.search("moved", mode=SearchMode.TEXT)
    _, yards = await longest_hold(lambda: queries.search(question, mode=SearchMode.TEXT))
    await database.close()
    assert yards < MOST_YARDS
