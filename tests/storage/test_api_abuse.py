"""Requests that mean harm, or are wrong: each gets a problem, none holds up the others."""

import asyncio
import json
import logging
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from datastorage.api.allowances import AllowanceLimits, Allowances
from datastorage.api.answers import AnswerLimits
from datastorage.api.app import metrics_server
from datastorage.api.bodies import RequestLimits
from datastorage.api.health import health_routes
from datastorage.assembly.queries import build_queries
from datastorage.query.questions import ArchiveQueries
from datastorage.query.questionwords import MAX_QUESTION_CHARACTERS
from datastorage.storage.connection.database import Database
from harness.apiclient import Answer
from harness.polling import eventually
from harness.ports import free_port
from harness.postgres import TestDatabase
from tests.support.apiserved import IN_PAYMENTS, Served, body, served
from tests.support.loopheld import MOST_YARDS, longest_hold

RECORD = json.dumps(body()).encode()
STORE = "/store/workflow"
LIST = "/query/records"
UNKNOWN = "75e49872-21d7-4f9c-9e0b-4fd87f01d022"
JSON = {"Content-Type": "application/json"}
PATIENCE_SECONDS = 60.0


@pytest_asyncio.fixture
async def queries(common: TestDatabase) -> AsyncIterator[ArchiveQueries]:
    database = Database(common.service_url, pool_size=4)
    yield build_queries(database)
    await database.close()


@pytest_asyncio.fixture
async def api(queries: ArchiveQueries) -> AsyncIterator[Served]:
    async with served(queries) as made:
        yield made


def assert_problem(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    assert answer.json["code"] == code


@pytest.mark.parametrize(
    "path",
    [
        f"{LIST}?bogus=1",
        f"{LIST}?correlation_id=x",
        f"{LIST}/{UNKNOWN}?bogus=1",
        f"/query/actiontraces/{UNKNOWN}/history?bogus=1",
        "/timeline/rr-1?bogus=1",
        "/query/semantic?q=x&bogus=1",
        "/history?targetKind=Pod&targetName=x&bogus=1",
        "/history?targetKind=Pod",
        "/summary?groupBy=day&bogus=1",
        "/summary",
        "/summary?groupBy=day&limit=0",
        "/summary?groupBy=day&since=2014-01-01T00:00:00Z",
        f"{LIST}?namespace=a&namespace=b",
        f"{LIST}?since=1700000000",
        f"{LIST}?since=1e308",
        f"{LIST}?pageSize=0",
        f"{LIST}?pageSize=99999999999999999999",
        f"{LIST}/{UNKNOWN}?generation=99999999999999999999",
    ],
)
async def test_a_parameter_that_does_not_count_is_refused(api: Served, path: str) -> None:
    answer = await api.send("GET", path)
    assert answer.status == 400, answer.content
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_parameter_of_a_store_is_refused(api: Served) -> None:
    assert_problem(await api.send("POST", f"{STORE}?dryRun=All", RECORD, JSON), 400, "invalid-parameter")
    assert api.stored == []


HOSTILE = ("", "%00", "a%00b", "%ED%A0%80", "%FF", "-1", "NaN", "1e400", "%27%3B%20DROP%20TABLE%20x--",
           "a%20%26%20!(b", "x" * 513, "9999-12-31T23:59:59-14:00",
           "0001-01-01T00:00:00%2B14:00")  # fmt: skip
PARAMETERS = ("namespace", "correlationID", "actionType", "phase", "severity", "targetKind",
              "targetNamespace", "targetName", "alertFingerprint", "action", "environment", "cluster",
              "actorKind", "actorName", "via", "recordedBy", "since", "until", "pageSize", "pageToken", "q",
              "mode", "type", "limit", "fields", "groupBy")  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
async def test_no_value_of_a_parameter_breaks_a_question(api: Served, value: str) -> None:
    paths = [f"{LIST}?{name}={value}" for name in PARAMETERS]
    paths += [f"/query/semantic?mode=text&q=word&{name}={value}" for name in PARAMETERS]
    paths += [f"/history?targetKind=Pod&targetName=x&{name}={value}" for name in PARAMETERS]
    paths += [f"/history?targetKind={value}&targetName={value}&targetNamespace={value}"]
    paths += [f"/summary?groupBy=day&{name}={value}" for name in PARAMETERS]
    paths += [f"/summary?groupBy={value}", f"/query/actiontraces?fields=record.{value}"]
    paths += [f"/query/semantic?mode=text&q={value}", f"/timeline/{value or 'x'}", f"{LIST}/{value or 'x'}"]
    for answer in [await api.send("GET", path) for path in paths]:
        assert answer.status in {200, 400}, answer.content
        assert answer.status == 200 or answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", STORE, 405), ("OPTIONS", LIST, 405), ("FOO", LIST, 405), ("GET", "/nothing", 404),
     ("GET", f"{LIST}/", 404), ("POST", "/store/nothing", 400)],
)  # fmt: skip
async def test_other_methods_and_paths_get_a_problem(
    api: Served, method: str, path: str, status: int
) -> None:
    answer = await api.send(method, path, b"" if method == "POST" else None)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_a_request_that_is_no_http_gets_a_problem(api: Served) -> None:
    for request in (
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        head, _, content = (await api.raw(request)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), head
        assert b"application/problem+json" in head
        assert json.loads(content)["code"] == "invalid-http"


async def test_the_question_of_a_stranger_is_not_read(api: Served) -> None:
    path = "/query/semantic"
    answer = await api.send("POST", path, b'{"q":"x"}' + b" " * 1_000_000, JSON, token=None)
    assert_problem(answer, 401, "not-authenticated")
    large = await api.send("POST", path, b'{"q":"x"}' + b" " * 1_000_000, JSON)
    assert_problem(large, 413, "body-too-large")
    for content in (b"", b"[" * 60_000, b'{"q":"a","q":"b"}', b'{"q":NaN}', b"\xff"):
        assert_problem(await api.send("POST", path, content, JSON), 400, "invalid-json")
    for content in (b"null", b"{}", b'{"q":"a","bogus":1}', b'{"q":"a","since":1}', b'{"q":[]}'):
        assert_problem(await api.send("POST", path, content, JSON), 400, "invalid-parameter")
    found = await api.send("POST", path, b'{"q":"xylophonist","mode":"text"}', JSON)
    assert (found.status, found.json["items"]) == (200, [])


@pytest.mark.parametrize("in_ascii", [False, True], ids=["UTF-8", "escaped"])
async def test_a_question_of_the_greatest_length_may_be_in_a_body(api: Served, *, in_ascii: bool) -> None:
    async def ask(characters: int) -> Answer:
        # Each has four bytes in UTF-8, and twelve as an escape.
        question = {"q": "\U00020000" * characters, "mode": "text", "actorName": "\U00020000" * 512}
        content = json.dumps(question, ensure_ascii=in_ascii).encode()
        return await api.send("POST", "/query/semantic", content, JSON)

    found = await ask(MAX_QUESTION_CHARACTERS)
    assert (found.status, found.json["items"]) == (200, []), found.content
    assert_problem(await ask(MAX_QUESTION_CHARACTERS + 1), 400, "invalid-query")
    assert_problem(await ask(10 * MAX_QUESTION_CHARACTERS), 413, "body-too-large")


async def test_made_up_names_of_a_stranger_have_a_short_answer(api: Served) -> None:
    many = "&".join(f"{n:x}=" for n in range(10_000))
    few = f"{'x' * 50_000}="
    some = "&".join(f"{n:x}=" for n in range(99))
    for query, detail in (
        (many, "10,000 parameters are given"),
        (few, "x: is not known here"),
        (some, "0: is not known here"),
    ):
        answer = await api.send("GET", f"/query/records?{query}", token=None)
        assert_problem(answer, 400, "invalid-parameter")
        assert detail in answer.json["detail"]
        assert len(answer.content) < 4_000


async def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(api: Served) -> None:
    head = b"POST /api/v1/store/workflow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer robot\r\n"
    answer = await api.raw(head + b"Expect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 "), answer


async def test_a_compressed_body_is_refused_wherever_that_is_said(api: Served) -> None:
    head = b"POST /api/v1/store/workflow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer robot\r\n"
    both = b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"
    end = b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    assert (await api.raw(head + both + end)).startswith(b"HTTP/1.1 415 ")


async def test_bodies_have_a_bound_in_all(queries: ArchiveQueries) -> None:
    async with served(queries, RequestLimits(bytes_at_once=2 * len(RECORD), bytes_reserved=0)) as api:
        api.storing.clear()
        first = [asyncio.create_task(api.send("POST", STORE, RECORD, JSON)) for _ in range(3)]
        [refused], waiting = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        assert_problem(refused.result(), 503, "overloaded")
        assert int(refused.result().headers["retry-after"]) > 0
        api.storing.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [201, 201]
        assert (await api.send("POST", STORE, RECORD, JSON)).status == 201


async def test_the_bodies_of_one_identity_leave_room_for_another(queries: ArchiveQueries) -> None:
    limits = RequestLimits(bytes_at_once=3 * len(RECORD), bytes_reserved=len(RECORD))
    async with served(queries, limits) as api:
        api.storing.clear()
        flood = [asyncio.create_task(api.send("POST", STORE, RECORD, JSON, token="flood")) for _ in range(3)]
        [refused], waiting = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert_problem(refused.result(), 503, "overloaded")
        other = asyncio.create_task(api.send("POST", STORE, RECORD, JSON))
        stored = len(api.stored)
        api.storing.set()
        assert [answer.status for answer in await asyncio.gather(other, *waiting)] == [201] * 3
        assert len(api.stored) == stored + 3


async def test_answers_have_a_bound_in_all(queries: ArchiveQueries) -> None:
    path = f"{LIST}?namespace=nothing-is-here"
    async with served(queries) as api:
        size = len((await api.send("GET", path)).content)
    async with served(queries, answers=AnswerLimits(bytes_at_once=size, bytes_reserved=0)) as api:
        # The room of each answer is free again.
        assert [(await api.send("GET", path)).status for _ in range(3)] == [200, 200, 200]
    async with served(queries, answers=AnswerLimits(bytes_at_once=size - 1, bytes_reserved=0)) as api:
        assert_problem(await api.send("GET", path), 503, "overloaded")
    async with served(queries, answers=AnswerLimits(made_at_once=0, patience_seconds=0.05)) as api:
        assert_problem(await api.send("GET", path), 503, "overloaded")
        assert_problem(await api.send("GET", f"{LIST}/{uuid.uuid4()}"), 503, "overloaded")


async def test_an_identity_that_floods_leaves_the_others_alone(queries: ArchiveQueries) -> None:
    few = Allowances(AllowanceLimits(tokens_per_second=0.01, burst=20, at_once=3))
    async with served(queries, allowances=few) as api:
        path = f"{LIST}?namespace=nothing-is-here"
        flood = [await api.send("GET", path, token="flood") for _ in range(25)]
        assert [answer.status for answer in flood] == [200] * 20 + [429] * 5
        assert_problem(flood[-1], 429, "too-many-requests")
        assert int(flood[-1].headers["retry-after"]) > 1
        assert_problem(await api.send("POST", STORE, RECORD, JSON, token="flood"), 429, "too-many-requests")
        assert (await api.send("GET", path)).status == 200

        # A caller that was not authenticated has no tokens to take.
        assert_problem(await api.send("GET", path, token="forged"), 401, "not-authenticated")


async def test_an_identity_with_many_requests_under_way_leaves_room(queries: ArchiveQueries) -> None:
    async with served(queries, allowances=Allowances(AllowanceLimits(at_once=3))) as api:
        api.storing.clear()
        flood = [asyncio.create_task(api.send("POST", STORE, RECORD, JSON, token="flood")) for _ in range(5)]
        await eventually(lambda: sum(task.done() for task in flood) == 2)
        for task in flood:
            if task.done():
                assert_problem(task.result(), 429, "too-many-requests")
        waiting = asyncio.create_task(api.send("POST", STORE, RECORD, JSON))
        api.storing.set()
        assert (await waiting).status == 201
        answers = await asyncio.gather(*flood)
        assert sorted(answer.status for answer in answers) == [201] * 3 + [429] * 2
        # The places are free again.
        assert (await api.send("POST", STORE, RECORD, JSON, token="flood")).status == 201


async def test_a_batch_takes_the_tokens_of_its_records(queries: ArchiveQueries) -> None:
    few = Allowances(AllowanceLimits(tokens_per_second=0.01, burst=20, records_per_token=5))
    async with served(queries, allowances=few) as api:
        batch = json.dumps([body() for _ in range(100)]).encode()
        assert (await api.send("POST", STORE, batch, JSON)).status == 207
        assert_problem(await api.send("POST", STORE, RECORD, JSON), 429, "too-many-requests")


MIB = 1024 * 1024
BOMBS = {
    "arrays": b"[" + b"[]," * (2 * MIB) + b"1]",
    "one item": b"[[" + b"[]," * MIB + b"1]]",
    "levels": b'{"metadata":' + b"[" * (2 * MIB),
    "lines": b"\n" * (7 * MIB),
    "surrogates": b'"' + b"\\ud800" * (MIB // 3) + b'"',
    "numbers": b"[" + b"1.5," * MIB + b"1]",
}


@pytest.mark.parametrize("name", BOMBS)
async def test_no_body_holds_the_loop(api: Served, name: str) -> None:
    headers = {"Content-Type": "application/x-ndjson"} if name == "lines" else JSON
    answer, yards = await longest_hold(lambda: api.send("POST", STORE, BOMBS[name], headers))
    assert answer.status in {400, 413}, answer.content
    assert yards < MOST_YARDS


async def test_a_large_array_is_stored_in_its_order(api: Served) -> None:
    # Brackets, commas and quotes in texts divide nothing.
    odd = [body(name=f"record-{n}", annotations={"a/b": f'],[{{"\\ {n}'}) for n in range(500)]
    for one in odd:
        one["spec"] = {**one["spec"], "message": "é" * 100}
    content = json.dumps(odd, indent=1, ensure_ascii=False).encode()
    assert len(content) > 100_000
    answer = await api.send("POST", STORE, content, JSON)
    assert (answer.status, answer.json["stored"]) == (207, 500), answer.content
    assert [record.name for record in api.stored] == [one["metadata"]["name"] for one in odd]
    broken = await api.send("POST", STORE, content[:-2] + b',{"a":1e999}]', JSON)
    assert_problem(broken, 413, "too-many-records")
    broken = await api.send("POST", STORE, b'[{"a":1e999},' + b" " * 100_000 + b"1]", JSON)
    assert_problem(broken, 400, "invalid-json")
    assert broken.json["errors"][0]["pointer"] == "/0/a"


async def test_a_read_of_others_namespaces_is_logged(api: Served, caplog: pytest.LogCaptureFixture) -> None:
    def logged() -> list[Any]:
        return [each for each in caplog.records if each.message == "Read with the right in the whole cluster"]

    with caplog.at_level(logging.INFO):
        await api.send("GET", f"{LIST}?namespace=payments", token=IN_PAYMENTS)
        assert not logged()
        await api.send("GET", f"{LIST}?namespace=shop", token=IN_PAYMENTS)
        await api.send("GET", "/query/semantic?mode=text&q=secretword&phase=Completed")
    of_shop, of_all = logged()
    assert (of_shop.user, of_shop.filter) == (IN_PAYMENTS, {"namespace": "shop", "pageSize": 50})
    assert (of_all.user, of_all.verb, of_all.count) == ("robot", "list", 0)
    assert of_all.filter["phase"] == "Completed"
    assert "secretword" not in str(of_all.__dict__)


async def test_many_connections_leave_room_for_the_probes(api: Served) -> None:
    port = int(api.url.rpartition(":")[2])
    # Two identities: one alone may not take all places.
    slow = [
        b"POST /api/v1/store/workflow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
        b"Content-Length: 9\r\n\r\n" % name
        for name in (b"robot", b"flood")
    ]
    # More bodies that do not come than requests are served, and more silent connections than are kept.
    writers = []
    try:
        for request in slow * 205 + [b"GET /"] * 450:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(request)
        refused = await api.send("GET", LIST)
        assert_problem(refused, 503, "overloaded")
        health = await api.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert health.startswith(b"HTTP/1.1 200 "), health
    finally:
        for writer in writers:
            writer.close()
    for writer in writers:
        with suppress(OSError):
            await writer.wait_closed()
    answer = await api.send("POST", STORE, RECORD, JSON)
    assert answer.status == 201, answer.content


FLOOD = """
import resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
opened = []
print("begun", flush=True)
while True:  # until it is ended: always 2,000 connections, the oldest of which makes room
    try:
        opened.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=1))
        opened[-1].sendall(b"GET /health HTTP/1.1\\r\\nHost:")
    except OSError:
        pass
    if len(opened) == 2000:
        print("full", flush=True)
    if len(opened) >= 2000:
        opened.pop(0).close()
"""


async def test_a_flood_of_connections_leaves_the_probes_alone(api: Served) -> None:
    port = free_port()
    probes = metrics_server(health_routes(health={}, ready={}, notes={}), addresses="127.0.0.1", port=port)
    await probes.start()
    flood = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FLOOD, api.url.rpartition(":")[2], stdout=asyncio.subprocess.PIPE
    )
    try:
        assert flood.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"full" not in await flood.stdout.readline():
                pass
            for path in ["/health", "/ready"] * 10:
                request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                answer = await Served(f"http://127.0.0.1:{port}").raw(request.encode())
                assert answer.startswith(b"HTTP/1.1 200 "), answer
    finally:
        flood.kill()
        await flood.wait()
        await probes.stop()
    assert (await api.send("POST", STORE, RECORD, JSON)).status == 201


async def test_a_body_without_an_end_is_refused_at_the_limit(api: Served) -> None:
    """100 MB would come if the server read on."""
    head = b"POST /api/v1/store/workflow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer robot\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    piece, sent = b"100000\r\n" + b" " * 0x100000 + b"\r\n", 0
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    answer = asyncio.create_task(reader.readline())
    writer.write(head)
    with suppress(ConnectionError):
        while not answer.done() and sent < 100:
            writer.write(piece)
            await writer.drain()
            sent += 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await answer).startswith(b"HTTP/1.1 413 ")
    assert sent < 100
    writer.close()
    assert (await api.send("POST", STORE, RECORD, JSON)).status == 201


async def test_nobody_chooses_who_recorded_it(api: Served) -> None:
    forged = body(annotations={"kubernaut.io/recorded-by": "admin", "recordedBy": "admin"})
    headers = {**JSON, "X-Remote-User": "admin", "Impersonate-User": "admin", "X-Forwarded-User": "admin"}
    answer = await api.send("POST", STORE, json.dumps(forged).encode(), headers)
    assert (answer.status, answer.json["recordedBy"], answer.json["via"]) == (201, "robot", "api")
    assert [record.recorded_by for record in api.stored] == ["robot"]
    spec = {**body()["spec"], "recordedBy": "admin", "via": "cluster"}
    for place in ({**body(), "recordedBy": "admin"}, body(recordedBy="admin"), {**body(), "spec": spec}):
        refused = await api.send("POST", STORE, json.dumps(place).encode(), JSON)
        assert_problem(refused, 400, "invalid-record")
