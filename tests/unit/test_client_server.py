"""The client of the REST API: where a token goes, what answers mean, how long a question is put again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from yarl import URL

from datastorage.api.app import api_app, api_server
from datastorage.api.health import health_routes
from datastorage.client.access import Access
from datastorage.client.archive import RemoteArchive
from datastorage.client.opening import checked_url, open_server
from datastorage.client.server import Pace, Server
from datastorage.client.tokens import GivenToken
from datastorage.errors import (
    BodyTooLargeError,
    ConfigurationError,
    DataStorageError,
    InvalidQueryError,
    NotAllowedError,
    NotAuthenticatedError,
    OverloadedError,
    RecordNotFoundError,
    TransientError,
)
from datastorage.query.filters import Filter
from harness.polling import DEADLINE_SECONDS
from harness.ports import free_port
from harness.servingcertificates import Authority
from tests.support.answering import Answering, answering
from tests.support.secureserver import server_context
from tests.support.serving import serving

PACE = Pace(patience_seconds=30.0, first_pause_seconds=0.001, max_pause_seconds=0.01)
IMPATIENT = Pace(patience_seconds=0.0)


@pytest.fixture
async def remote() -> AsyncIterator[Answering]:
    async with answering() as opened:
        yield opened


@asynccontextmanager
async def connected(remote: Answering, pace: Pace = PACE) -> AsyncIterator[Server]:
    tokens = GivenToken(SecretStr("secret-token"), "a test", "datastorage")
    async with Server(URL(remote.url), tokens, pace=pace) as opened:
        yield opened


async def ask(remote: Answering, pace: Pace = PACE) -> Any:
    async with connected(remote, pace) as opened:
        return await opened.ask("/api/v1/query/records", {"namespace": "shop"})


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "invalid-query", InvalidQueryError),
        (401, "not-authenticated", NotAuthenticatedError),
        (403, "not-allowed", NotAllowedError),
        (404, "not-found", RecordNotFoundError),
        (409, "conflict", DataStorageError),
        (413, "body-too-large", BodyTooLargeError),
        (429, "too-many-requests", OverloadedError),
        (500, "internal", DataStorageError),
        (503, "overloaded", OverloadedError),
        (503, "unavailable", TransientError),
        (504, "timeout", TransientError),
    ],
)
async def test_each_problem_is_one_error_of_the_tree(
    remote: Answering, status: int, code: str, error: type[DataStorageError]
) -> None:
    remote.problem(status, code, "the reason\x1b[31m\nof it", X_Request_Id="r-1")
    with pytest.raises(error) as raised:
        await ask(remote, IMPATIENT)
    assert type(raised.value) is error
    text = str(raised.value)
    assert "the reason [31m of it" in text
    if status not in {400, 404}:  # their texts are those of the archive itself
        assert f"answers {status} Title: " in text
        assert "(request r-1)" in text
    assert "secret-token" not in text


async def test_a_page_that_is_no_answer_is_not_taken_for_one(remote: Answering) -> None:
    for status, error in ((200, ConfigurationError), (404, ConfigurationError), (502, TransientError)):
        remote.answers.clear()
        remote.say(status, b"<html>Log in</html>")
        with pytest.raises(error, match="but not as a Data Storage server does"):
            await ask(remote, IMPATIENT)
    remote.answers.clear()
    remote.say(200, {"items": [{"kind": "AuditRecord"}], "nextPageToken": None})
    async with connected(remote) as opened:
        with pytest.raises(ConfigurationError, match="but not as a Data Storage server does"):
            await RemoteArchive(opened).list(Filter(), limit=1, cursor=None)


async def test_the_clock_of_a_server_with_trouble_is_read() -> None:
    async def trouble() -> str:
        return "stuck"

    port = free_port()
    app = api_app([], health_routes(health={"loop": trouble}, ready={}, notes={}))
    server = api_server(app, addresses="127.0.0.1", port=port)
    access = Access(url=f"http://127.0.0.1:{port}")
    async with serving(server), open_server(access, {}, IMPATIENT) as opened:
        assert await RemoteArchive(opened).time() > 0


async def test_a_redirect_is_not_followed_with_the_token(remote: Answering) -> None:
    async with answering() as other:
        remote.say(307, b"", Location=f"{other.url}/login?next=secret")
        with pytest.raises(ConfigurationError, match=r"redirects to http://127\.0\.0\.1 ") as raised:
            await ask(remote)
        assert other.requests == []
    assert "secret" not in str(raised.value)
    assert remote.requests[0].headers["Authorization"] == "Bearer secret-token"


async def test_a_question_is_put_again_while_the_server_is_busy(remote: Answering) -> None:
    remote.problem(503, "unavailable", "PostgreSQL is away")
    remote.problem(429, "too-many-requests", "later", Retry_After="0")
    remote.say(200, {"items": []})
    assert await ask(remote) == {"items": []}
    assert len(remote.requests) == 3


async def test_a_server_that_asks_for_a_longer_pause_is_not_waited_for(remote: Answering) -> None:
    remote.problem(503, "unavailable", "PostgreSQL is away", Retry_After="3600")
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(TransientError, match="PostgreSQL is away"):
            await ask(remote)
    assert len(remote.requests) == 1


async def test_an_answer_without_end_is_cut(remote: Answering) -> None:
    remote.say(200, b"[" + b" " * 100_000)
    with pytest.raises(ConfigurationError, match="but not as"):
        await ask(remote, Pace(answer_bytes=1000))


async def test_a_server_that_is_away_is_a_transient_error(remote: Answering) -> None:
    remote.answers.append(ConnectionError())
    with pytest.raises(TransientError, match="can't be asked"):
        await ask(remote)


@pytest.mark.parametrize(
    "url",
    ["", "datastorage", "127.0.0.1:8080", "ftp://host", "http://", "https://user:secret@host", "https://host?a=b",
     "https://host/#a", "http://host:port"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be the URL of a Data Storage server") as raised:
        checked_url(url, insecure_http=True)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "[::1]", "localhost", "LOCALHOST."])
def test_plain_http_to_this_machine_is_allowed(host: str) -> None:
    assert checked_url(f"http://{host}:8080", insecure_http=False).scheme == "http"


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.example", "[2001:db8::1]", "127.0.0.1.example"])
def test_plain_http_to_another_machine_must_be_allowed(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"plain HTTP, which others can read: .*--insecure-http"):
        checked_url(f"http://{host}", insecure_http=False)
    assert checked_url(f"http://{host}", insecure_http=True)
    assert checked_url(f"https://{host}", insecure_http=False)


async def test_the_certificate_of_the_server_is_checked(tmp_path: Path) -> None:
    authority, other = Authority("authority"), Authority("other")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "other.pem").write_bytes(other.pem)

    def opened(remote: Answering, **access: Any) -> AbstractAsyncContextManager[Server]:
        return open_server(Access(url=remote.url, **access), {"DATASTORAGE_TOKEN": "t"})

    async with answering(server_context(authority.server("127.0.0.1"))) as remote:
        remote.say(200, {})
        async with opened(remote, ca_file=tmp_path / "ca.pem") as server:
            assert await server.ask("/x") == {}
        seen = len(remote.requests)
        for access in ({}, {"ca_file": tmp_path / "other.pem"}):
            async with opened(remote, **access) as server:
                with pytest.raises(ConfigurationError, match=r"its certificate is not trusted .*--ca-file"):
                    await server.ask("/x")
        wrong_name = {"ca_file": tmp_path / "ca.pem", "tls_server_name": "another.example"}
        async with opened(remote, **wrong_name) as server:
            with pytest.raises(
                ConfigurationError, match=r"its certificate is not trusted .*--tls-server-name"
            ):
                await server.ask("/x")
        assert len(remote.requests) == seen, "no token was sent"
    for path, message in ((tmp_path / "absent", "No such file"), (tmp_path / "empty", "no PEM certificate")):
        if message.startswith("no"):
            path.write_text("\n")
        with pytest.raises(ConfigurationError, match=rf"--ca-file .*{message}"):
            async with open_server(Access(url="https://127.0.0.1:1", ca_file=path), {}):
                pass
