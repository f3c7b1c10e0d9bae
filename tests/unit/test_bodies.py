"""The bodies of requests: what is read, and each reason to refuse one."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from datastorage.api.bodies import RequestLimits, invalid, items_of
from datastorage.api.errorcodes import CODES
from datastorage.api.problems import Problem, problem_of
from datastorage.errors import DataStorageError
from datastorage.resources.validation.problems import Code, FieldProblem

LIMITS = RequestLimits(body_bytes=40, items=3)
NDJSON = {"content-type": "application/x-ndjson"}


def request(chunks: Sequence[bytes | None], headers: dict[str, str] | None = None) -> Request:
    """Return a request whose body comes in chunks; None stands for the end of the connection."""
    messages: list[Message] = [
        {"type": "http.disconnect"}
        if chunk is None
        else {"type": "http.request", "body": chunk, "more_body": True}
        for chunk in chunks
    ]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    found = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "headers": found}, receive)


@pytest.mark.parametrize(
    ("chunks", "headers", "bodies", "is_batch"),
    [
        ([b'{"a"', b": 1}"], {}, [{"a": 1}], False),
        ([b"[1, 2]"], {"content-type": "Application/JSON; charset=utf-8"}, [1, 2], True),
        ([b"[[1]]"], {"content-encoding": "Identity"}, [[1]], True),
        ([b"1\n\n  \r\n2"], NDJSON, [1, 2], True),
        ([b"[1]"], NDJSON, [[1]], True),
        ([b"[" + b" " * 38 + b"]"], {}, None, True),
    ],
)
async def test_one_record_an_array_and_lines_are_read(
    chunks: list[bytes], headers: dict[str, str], bodies: list[Any] | None, *, is_batch: bool
) -> None:
    if bodies is None:  # as large as the limit: refused only because it has no record
        with pytest.raises(DataStorageError, match="records: send 1 to 3"):
            await items_of(request(chunks, headers), LIMITS)
        return
    items = await items_of(request(chunks, headers), LIMITS)
    assert (items.bodies, items.is_batch) == (bodies, is_batch)


@pytest.mark.parametrize(
    ("chunks", "headers", "code", "words"),
    [
        ([b"{}"], {"content-type": "text/plain"}, "unsupported-media-type", "not 'text/plain'"),
        ([b"{}"], {"content-encoding": "gzip"}, "unsupported-media-type", "must not be compressed"),
        ([b" " * 41], {}, "body-too-large", "larger than 40 bytes"),
        ([b" " * 30, b" " * 11], NDJSON, "body-too-large", "larger than 40 bytes"),
        ([b"{", None], {}, "incomplete", "the connection ended"),
        ([b""], {}, "invalid-json", "not JSON at byte 0"),
        ([b"{"], {}, "invalid-json", "not JSON at byte 1"),
        ([b'{"a": 1, "a": 2}'], {}, "invalid-json", "'a' more than once"),
        ([b"[1, NaN]"], {}, "invalid-json", "/1 is NaN"),
        ([b"\xff"], {}, "invalid-json", "not UTF-8"),
        ([b"[]"], {}, "no-records", "records: send 1 to 3"),
        ([b"\n \n"], NDJSON, "no-records", "records: send 1 to 3"),
        ([b"[1, 2, 3, 4]"], {}, "too-many-records", "records: send 1 to 3"),
        ([b"1\n2\n3\n4\n"], NDJSON, "too-many-records", "records: send 1 to 3"),
    ],
)
async def test_each_refusal_has_its_code(
    chunks: list[bytes | None], headers: dict[str, str], code: str, words: str
) -> None:
    with pytest.raises(DataStorageError) as refused:
        await items_of(request(chunks, headers), LIMITS)
    problem = problem_of(refused.value)
    assert (problem.code, problem.status) == (code, CODES[code].status)
    assert words in problem.detail


async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    chunks: list[bytes | None] = [b" " * 41, *[b" "] * 100]
    sent = request(chunks)
    with pytest.raises(DataStorageError) as refused:
        await items_of(sent, LIMITS)
    assert problem_of(refused.value).headers == {"Connection": "close"}
    unread = 0
    while (await sent.receive())["more_body"]:
        unread += 1
    assert unread == 100


async def test_a_line_that_is_not_json_fails_alone() -> None:
    items = await items_of(request([b'{"a": 1}\n{\n3'], NDJSON), LIMITS)
    first, second, third = items.bodies
    assert (first, third) == ({"a": 1}, 3)
    assert isinstance(second, Problem)
    assert second.code == "invalid-json"


def test_a_wrong_record_names_its_first_mistakes_in_a_sentence() -> None:
    errors = [FieldProblem(f"/spec/{n}", "is wrong", Code.BAD_FORMAT) for n in range(5)]
    problem = invalid(errors)
    assert (problem.status, problem.code) == (HTTPStatus.BAD_REQUEST, "invalid-record")
    assert problem.detail == "/spec/0: is wrong; /spec/1: is wrong; /spec/2: is wrong"
    assert len(problem.as_json()["errors"]) == 5
