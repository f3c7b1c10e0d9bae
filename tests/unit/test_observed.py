"""Every request has an identifier, is counted by the template of its path, and is logged if it fails."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from fastapi import APIRouter, FastAPI
from prometheus_client import generate_latest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from datastorage import __version__, metrics
from datastorage.api.app import api_app, api_server
from datastorage.api.health import health_routes
from datastorage.api.observed import LogPace, Observed, Served
from datastorage.errors import TransientError
from datastorage.logs import configure_logging
from datastorage.metrics import Method
from datastorage.tracing import NO_TRACES, Traces, open_traces
from harness.collector import Collector
from harness.polling import DEADLINE_SECONDS
from harness.ports import free_port
from tests.support.counted import changes, series
from tests.support.serving import serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
THING = "/api/v1/things/{name}"


class Bench:
    """The API port, with routes of its own."""

    def __init__(self, traces: Traces = NO_TRACES) -> None:
        self.port = free_port()
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        router = APIRouter(prefix="/api/v1")
        described: dict[int | str, dict[str, Any]] = {404: {}}
        router.add_api_route("/things/{name}", self._thing, methods=["GET"], responses=described)
        router.add_api_route("/teapot", self._teapot, methods=["GET"])
        router.add_api_route("/things/{name}", self._thing, methods=["POST"])
        router.add_api_route("/starts", self._starts, methods=["GET"])
        router.add_api_route("/away", self._away, methods=["GET"])
        router.add_api_route("/bug", self._bug, methods=["GET"])
        router.add_api_route("/slow", self._slow, methods=["GET"])
        self.app: FastAPI = api_app([router], health_routes(health={}, ready={}, notes={}))
        self.server = api_server(self.app, addresses="127.0.0.1", port=self.port, traces=traces)

    async def _thing(self, name: str) -> Response:
        return PlainTextResponse(name * 100)

    async def _teapot(self) -> Response:
        return PlainTextResponse("short and stout", 418)

    async def _starts(self) -> Response:
        async def log() -> None:
            logging.getLogger("datastorage").warning("during")
            self.asked.set()
            await self.go_on.wait()
            logging.getLogger("datastorage").warning("after")

        self.started = asyncio.create_task(log())
        await self.asked.wait()
        return PlainTextResponse("started")

    async def _away(self) -> Response:
        raise TransientError("PostgreSQL is away")

    async def _bug(self) -> Response:
        raise ValueError("a bug")

    async def _slow(self) -> Response:
        self.asked.set()
        await self.go_on.wait()
        return PlainTextResponse("done")

    async def send(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request; return status, headers and body of the answer."""
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session,
            session.request(method, path, headers=headers, data=body) as answer,
        ):
            return answer.status, answer.headers, await answer.read()


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with serving(made.server):
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield made


COUNT = "http_server_requests_total"  # its labels in order: method, status, route


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/api/v1/things/a?x=1", ("GET", "200", THING)),
        ("POST", "/api/v1/things/b", ("POST", "200", THING)),
        ("PUT", "/api/v1/things/c", ("_OTHER", "405", "_OTHER")),
        ("SING", "/api/v1/things/d", ("_OTHER", "405", "_OTHER")),
        ("POST", "/api/v1/away", ("POST", "405", "_OTHER")),
        ("GET", "/api/v1/teapot", ("GET", "_OTHER", "/api/v1/teapot")),
        ("HEAD", "/health", ("HEAD", "200", "/health")),
        ("GET", "/api/v1/nothing/e", ("GET", "404", "_OTHER")),
        ("SING", "/f", ("_OTHER", "404", "_OTHER")),
        ("GET", "/api/v1/away", ("GET", "503", "/api/v1/away")),
        ("GET", "/api/v1/bug", ("GET", "500", "/api/v1/bug")),
        ("GET", "/health", ("GET", "200", "/health")),
        ("GET", "/version", ("GET", "200", "/version")),
        ("GET", "/openapi.json", ("GET", "200", "/openapi.json")),
    ],
)
async def test_a_request_is_counted_by_the_template_of_its_path(
    bench: Bench, method: str, path: str, labels: tuple[str, ...]
) -> None:
    with (
        changes(COUNT) as counted,
        changes("http_server_request_duration_seconds_count") as timed,
        changes("http_server_response_body_size_bytes_count") as answered,
    ):
        status, _, _ = await bench.send(path, method)
    assert labels[1] in {str(status), "_OTHER"}
    assert counted == {labels: 1}
    method_and_route = (labels[0], labels[2])
    assert (timed, answered) == ({method_and_route: 1}, {method_and_route: 1})


async def test_requests_make_no_series(bench: Bench) -> None:
    """All are there from the start: a rate counts the first request as well."""
    before = generate_latest(metrics.REGISTRY).count(b"\nhttp_server_")
    for number in range(20):
        await bench.send(f"/nothing/{number}", f"SING{number}")
        await bench.send(f"/api/v1/things/{number}")
        await bench.send("/api/v1/things/x", "POST", body=b"x")
    await bench.send("/api/v1/teapot")
    await bench.send("/api/v1/bug", "PUT")
    assert generate_latest(metrics.REGISTRY).count(b"\nhttp_server_") == before


@pytest.mark.usefixtures("bench")
async def test_each_route_has_the_statuses_of_its_description() -> None:
    described = {status for method, status, route in series(COUNT) if (method, route) == ("GET", THING)}
    assert described == {"200", "404", "500", "503", "_OTHER"}


async def test_sizes_are_those_of_the_bodies(bench: Bench) -> None:
    with (
        changes("http_server_request_body_size_bytes_sum") as sent,
        changes("http_server_response_body_size_bytes_sum") as received,
    ):
        await bench.send("/api/v1/things/abc", "POST", body=b"x" * 50)
    assert (sent, received) == ({("POST", THING): 50}, {("POST", THING): 300})
    with changes("http_server_request_body_size_bytes_count") as sent:
        await bench.send("/api/v1/things/abc")
    assert sent == {}


async def test_requests_under_way_are_shown(bench: Bench) -> None:
    with changes("http_server_active_requests") as active:
        asking = asyncio.create_task(bench.send("/api/v1/slow"))
        await bench.asked.wait()
    assert active == {("GET",): 1}
    with changes("http_server_active_requests") as active:
        bench.go_on.set()
        await asking
        await bench.send("/api/v1/bug")
    assert active == {("GET",): -1}


PATHS = ["/api/v1/things/a", "/api/v1/away", "/api/v1/bug", "/nothing", "/health", "/version", "/docs"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_has_the_identifier_of_the_request(bench: Bench, path: str) -> None:
    _, headers, _ = await bench.send(path, headers={"X-Request-Id": "step-7.a_B"})
    assert headers.getall("X-Request-Id") == ["step-7.a_B"]  # type: ignore[attr-defined]
    made = [(await bench.send(path))[1]["X-Request-Id"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(each) == 16 for each in made)


async def test_what_is_no_http_gets_an_identifier_as_well(bench: Bench) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(b"hello\r\n\r\n")
    head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    [named] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-request-id: ")]
    assert named.partition(b": ")[2].decode() == json.loads(content)["requestID"]


@pytest.mark.parametrize("name", ["", " ", "a b", "a\tb", "x" * 65, "<b>", "ü", "a;b", '"a"', "{}"])
async def test_an_identifier_that_is_not_short_and_plain_is_replaced(bench: Bench, name: str) -> None:
    request = f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: {name}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(request.encode())
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.lower().count("x-request-id: ") == 1
    found = next(line for line in answer.split("\r\n") if line.lower().startswith("x-request-id"))
    assert len(found.partition(": ")[2]) == 16


async def test_of_two_identifiers_none_counts(bench: Bench) -> None:
    request = (
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(request)
    answer = (await reader.read()).lower()
    writer.close()
    assert answer.count(b"x-request-id: ") == 1
    assert b"x-request-id: a\r\n" not in answer
    assert b"x-request-id: b\r\n" not in answer


@pytest.mark.parametrize("path", ["/api/v1/away", "/api/v1/bug", "/nothing"])
async def test_a_problem_names_the_request(bench: Bench, path: str) -> None:
    _, _, content = await bench.send(path, headers={"X-Request-Id": "mine"})
    assert json.loads(content)["requestID"] == "mine"


class Lines:
    """The log, as the operator writes it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def read(self, level: str) -> list[dict[str, object]]:
        """Return the entries of a level that name a request."""
        entries = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [each for each in entries if each["level"] == level and "request_id" in each]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handlers, level = logging.root.handlers[:], logging.root.level
    found = Lines()
    configure_logging("DEBUG", "json")
    [handler] = logging.root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(found.stream)
    yield found
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


async def test_a_failed_request_is_logged_with_its_names_and_without_its_question(
    bench: Bench, lines: Lines
) -> None:
    await bench.send(
        "/api/v1/away?q=secretword", headers={"X-Request-Id": "mine", "traceparent": TRACEPARENT}
    )
    [line] = lines.read("WARNING")
    assert line["message"] == "Request failed"
    assert (line["request_id"], line["trace_id"], line["parent_span_id"]) == ("mine", TRACE, SPAN)
    assert (line["method"], line["route"], line["path"]) == ("GET", "/api/v1/away", "/api/v1/away")
    assert (line["status"], line["client"]) == (503, "127.0.0.1")
    assert line["error"] == "PostgreSQL is away"
    assert "secretword" not in lines.stream.getvalue()


async def test_a_request_that_is_recorded_is_logged_with_its_own_span(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with open_traces() as traces:
            bench = Bench(traces)
            async with serving(bench.server):
                await bench.send("/api/v1/away", headers={"traceparent": TRACEPARENT})
                await bench.send("/api/v1/away")
                await bench.send("/health")
    first, second = ((line["trace_id"], line["span_id"]) for line in lines.read("WARNING"))
    assert [(span.trace_id, span.span_id) for span in collector.spans] == [first, second], "no probe"
    assert first[0] == TRACE
    assert all(span.failed for span in collector.spans)


async def test_what_is_logged_while_a_request_is_served_names_it(bench: Bench, lines: Lines) -> None:
    await bench.send("/api/v1/bug", headers={"X-Request-Id": "mine"})
    logged = lines.read("ERROR")
    assert [line["request_id"] for line in logged] == ["mine"] * len(logged)
    assert "Request failed because of a bug" in {line["message"] for line in logged}


async def test_what_a_request_has_started_names_it_only_while_it_is_served(
    bench: Bench, lines: Lines
) -> None:
    await bench.send("/api/v1/starts", headers={"X-Request-Id": "mine"})
    bench.go_on.set()
    await bench.started
    entries = [json.loads(line) for line in lines.stream.getvalue().splitlines()]
    named = {each["message"]: each.get("request_id") for each in entries if each["level"] == "WARNING"}
    assert named == {"during": "mine", "after": None}


async def test_other_requests_are_logged_for_debugging_alone(bench: Bench, lines: Lines) -> None:
    for path in ("/api/v1/things/a?q=secretword", "/nothing", "/health"):
        await bench.send(path)
    assert [
        (line["status"], line["route"]) for line in lines.read("DEBUG") if line["message"] == "Request"
    ] == [
        (200, THING),
        (404, "_OTHER"),
        (200, "/health"),
    ]
    assert lines.read("WARNING") == []
    assert "secretword" not in lines.stream.getvalue()


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (TRACEPARENT, TRACE),
        (f"cc-{TRACE}-{SPAN}-01-more", TRACE),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (TRACEPARENT.upper(), None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
async def test_a_trace_is_logged_if_it_has_the_right_form(
    bench: Bench, lines: Lines, header: str, trace: str | None
) -> None:
    await bench.send("/api/v1/away", headers={"traceparent": header})
    [line] = lines.read("WARNING")
    assert line.get("trace_id") == trace


async def test_an_outage_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def away(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=503)(scope, receive, send)

    async def receive() -> Message:
        raise AssertionError

    async def ignore(_: Message) -> None: ...

    async def fail(app: Observed) -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/x", "raw_path": b"/api/x", "headers": []}
        await app(scope, receive, ignore)

    long = Observed(away, served=[Served(Method.GET, "/api/x")], pace=LogPace(lines=3, seconds=3600))
    for _ in range(10):
        await fail(long)
    assert len(caplog.records) == 3
    caplog.clear()
    short = Observed(away, served=[Served(Method.GET, "/api/x")], pace=LogPace(lines=1, seconds=0.2))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(caplog.records) < 2:
            await fail(short)
            await asyncio.sleep(0)
    assert vars(caplog.records[1])["left_out"] > 0


async def test_the_version_is_shown_to_everybody(bench: Bench) -> None:
    status, _, content = await bench.send("/version")
    assert status == 200
    assert json.loads(content) == {
        "name": "kubernaut-datastorage",
        "version": __version__,
        "revision": None,
        "apiVersion": "v1",
    }
