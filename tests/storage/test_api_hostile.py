"""Contents and parameters that mean harm, against the real way to a real database: none breaks anything."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from datastorage.api.document import document
from datastorage.storage.connection.database import Database
from harness.apiclient import Answer
from tests.support.apiserved import body
from tests.support.storedapi import StoredApi, stored_api

STORE, SEARCH = "/store/workflow", "/query/semantic"
JSON = {"Content-Type": "application/json"}
MIB = 1024 * 1024


@pytest_asyncio.fixture
async def api(database: Database, owner: Any) -> AsyncIterator[StoredApi]:
    async with stored_api(database, owner) as made:
        yield made


def with_details(text: str) -> bytes:
    """Return a request whose free field has this JSON."""
    made = body()
    made["spec"] = {**made["spec"], "details": "HERE"}
    return json.dumps(made).replace('"HERE"', text).encode("utf-8", "surrogatepass")


def nested(levels: int, *, opens: str = "[", closes: str = "]") -> str:
    return opens * levels + "1" + closes * levels


REFUSED = {
    "a key twice": '{"a": 1, "a": 2}',
    "a key twice, once escaped": '{"a": 1, "\\u0061": 2}',
    "NaN": "NaN",
    "Infinity": "[-Infinity]",
    "1e400": "1e400",
    "-1e400": '{"a": [-1e400]}',
    "a number without end": "1" * 400,
    "a bare surrogate in UTF-8": '"\ud800"',
    "too deep": nested(10_001),
    "too deep objects": nested(10_001, opens='{"a":', closes="}"),
    "too many values": "[" + "[]," * 200_000 + "1]",
    "a comment": "/* */ 1",
    "single quotes": "'a'",
    "a raw control character": '"\x01"',
    "no end": "[1",
}
KEPT = {
    "NUL": '"a\\u0000b"',
    "a key of NUL": '{"\\u0000": 1}',
    "a lone surrogate": '"\\ud800"',
    "surrogates in the wrong order": '"\\udc00\\ud800"',
    "a pair": '"\\ud83d\\ude00"',
    "the smallest number": "5e-324",
    "no number any more": "1e-400",
    "an integer beyond 64 bits": "18446744073709551616",
    "deep": nested(500),
    "prototype": '{"__proto__": {"a": 1}, "constructor": 1}',
    "SQL": '"\'; DROP TABLE datastorage.audit_records; --"',
    "markup": '"<script>alert(1)</script>"',
    "directions": '"\\u202etxt.exe"',
}


def assert_problem(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, answer.content
    assert answer.headers["content-type"] == "application/problem+json"
    for word in (b"Traceback", b"asyncpg", b"SELECT ", b"INSERT "):
        assert word not in answer.content


@pytest.mark.parametrize("name", REFUSED)
async def test_content_that_the_api_server_refuses_is_refused(api: StoredApi, name: str) -> None:
    content = with_details(REFUSED[name])
    for path in (STORE, f"{STORE}?atomic=true"):
        assert_problem(await api.post(path, content), 400, 413)
        assert_problem(await api.post(path, b"[" + content + b"]"), 400, 413, 422)
    good = json.dumps(body()).encode()
    lines = await api.post(STORE, good + b"\n" + content.replace(b"\n", b""), "application/x-ndjson")
    assert [item["status"] for item in lines.json["items"]] in ([201, 400], [201, 413])
    question = json.dumps({"q": "x", "mode": "text", "phase": "HERE"}).replace('"HERE"', REFUSED[name])
    asked = await api.api.send("POST", SEARCH, question.encode("utf-8", "surrogatepass"), JSON)
    assert_problem(asked, 400, 413)
    assert await api.counts() == (1, 0, 0)


@pytest.mark.parametrize(
    "uid",
    [
        "+f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41",
        "0x0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41",
        "5f_c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41",
        " f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41",
        "\u0665f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41",
        "5f0c2b1e7a3d4c559d0e2f6c1b8a9e41----",
        "urn:5f0c2b1e7a3d4c559d0e2f6c1b8a9e41",
        "5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e4",
        5,
    ],
)
async def test_a_uid_that_is_none_is_not_stored_as_another(api: StoredApi, uid: Any) -> None:
    refused = await api.post(STORE, json.dumps(body(uid=uid)).encode())
    assert_problem(refused, 400)
    assert refused.json["errors"][0]["pointer"] == "/metadata/uid"
    assert await api.counts() == (0, 0, 0)


async def test_a_uid_in_capitals_is_the_same(api: StoredApi) -> None:
    uid = "5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41"
    answers = [await api.post(STORE, json.dumps(body(uid=each)).encode()) for each in (uid, uid.upper())]
    assert [answer.status for answer in answers] == [201, 200]
    assert answers[0].json == answers[1].json


@pytest.mark.parametrize("name", KEPT)
async def test_content_that_the_api_server_takes_is_stored_and_comes_back(api: StoredApi, name: str) -> None:
    stored = await api.post(STORE, with_details(KEPT[name]))
    assert stored.status == 201, stored.content
    found = await api.api.send("GET", f"/query/records/{stored.json['uid']}?namespace=payments")
    assert found.status == 200, found.content
    assert found.json["intact"]
    assert "details" in found.json["record"]["spec"]
    listed = await api.api.send("GET", "/query/workflow?namespace=payments")
    assert [each["uid"] for each in listed.json["items"]] == [stored.json["uid"]]
    assert await api.counts() == (1, 0, 0)


SYNTAX = (
    "' OR '1'='1", "'; DROP TABLE datastorage.audit_records; --", '") union select null --', "$1", "%", "_",
    "\\", "a & !b | (c", "<->", ":*", "a:*B", "!!", "'a'", '"', '"unbalanced', "-a -b", "a\\", "()", "*",
    "a\u202eb", "{{7*7}}", "${jndi:ldap://x}", "../../etc/passwd", "a\tb", "NULL", "\ufeff", "0x1F",
    "\U0001f993" * 100,
)  # fmt: skip


def questions(value: str) -> Iterator[tuple[str, str]]:
    """Yield each path with a parameter of each question set to a value, by the document."""
    for path, methods in document()["paths"].items():
        described = methods.get("get")
        if described is None or not path.startswith("/api/v1/"):
            continue
        # The references lead to the headers of every request.
        given = [each for each in described.get("parameters", ()) if "$ref" not in each]
        needed = {each["name"]: "x" for each in given if each["in"] == "query" and each["required"]}
        for each in given:
            if each["in"] == "header":
                continue
            filled, query = path.removeprefix("/api/v1"), dict(needed)
            for other in given:
                if other["in"] == "path":
                    text = value if other is each else {"type": "records"}.get(other["name"], "x")
                    filled = filled.replace(f"{{{other['name']}}}", quote(text, safe=""))
            if each["in"] == "query":
                query[each["name"]] = value
            yield each["name"], f"{filled}?{urlencode(query)}"


def found_in(answer: Answer) -> Any:
    """Return the records of an answer; none if it is of another form."""
    return answer.json.get("items") if answer.headers["content-type"] == "application/json" else None


@pytest.mark.parametrize("value", SYNTAX)
async def test_the_syntax_of_other_languages_is_plain_text(api: StoredApi, value: str) -> None:
    assert (await api.post(STORE, json.dumps(body()).encode())).status == 201
    for name, path in questions(value):
        answer = await api.api.send("GET", path)
        if answer.status == 200:  # a filter that no record meets, or words that it does not have
            assert name == "q" or not found_in(answer), (path, answer.content)
        else:
            assert_problem(answer, 400, 404)
        asked = json.dumps({"q": value, "mode": "text", "namespace": "payments"}).encode()
    assert (await api.api.send("POST", SEARCH, asked, JSON)).status in {200, 400}
    for key in (value, value * 9):
        headers = {**JSON, "Idempotency-Key": key.encode().decode("latin-1").replace("\t", " ")}
        answer = await api.api.send("POST", STORE, json.dumps(body()).encode(), headers)
        assert answer.status in {200, 201, 400}, answer.content
    rows, claims, rejected = await api.counts()
    assert rows == claims + 1
    assert rejected == 0


def compressed() -> dict[str, bytes]:
    bomb = b" " * (100 * MIB)
    return {
        "gzip": gzip.compress(bomb),
        "deflate": zlib.compress(bomb),
        "br": b"\x0b",
        "zstd": b"\x28\xb5\x2f\xfd",
    }


async def test_compressed_bodies_are_neither_unpacked_nor_taken_for_json(api: StoredApi) -> None:
    for coding, content in compressed().items():
        for path in (STORE, SEARCH):
            coded = await api.api.send("POST", path, content, {**JSON, "Content-Encoding": coding})
            assert_problem(coded, 415)
            assert_problem(await api.api.send("POST", path, content, JSON), 400, 413)
    assert await api.counts() == (0, 0, 0)


async def test_a_body_without_end_is_cut_off(api: StoredApi) -> None:
    """100 MB that are not announced: the answer comes when the limit is passed, and the rest is not read."""
    head = (
        "POST /api/v1/store/workflow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer robot\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.api.url.rpartition(":")[2]))
    sent = 0
    try:
        writer.write(head.encode())
        chunk = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        while not answer.done() and sent < 100:
            writer.write(chunk)
            sent += 1
            await writer.drain()
            await asyncio.sleep(0)
        assert (await answer).startswith(b"HTTP/1.1 413 ")
        assert sent < 100
    except ConnectionError:
        assert sent < 100
    finally:
        writer.close()
    assert (await api.post(STORE, json.dumps(body()).encode())).status == 201
