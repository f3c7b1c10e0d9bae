"""The HTTP server limits its clients' memory and time, and leaves signals and logs alone."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from datastorage.api.listening import Listening
from datastorage.api.server import HttpServer, Limits
from harness.polling import DEADLINE_SECONDS, eventually
from harness.ports import free_port
from tests.support.counted import changes
from tests.support.serving import serving

WHOLE = b"GET /quick HTTP/1.1\r\nHost: here\r\n\r\n"


class Served:
    """A running server with a route that answers at once, one that never does, and one that never ends."""

    def __init__(self, limits: Limits) -> None:
        self.port = free_port()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.sent = 0
        routes = [
            Route("/quick", self._quick),
            Route("/slow", self._slow),
            Route("/endless", self._endless),
            Route("/broken", self._broken),
            Route("/body", self._body, methods=["POST"]),
            Route("/gated", self._gated),
        ]
        listening = Listening(addresses="127.0.0.1", port=self.port, port_setting="")
        self.server = HttpServer(Starlette(routes=routes), listening, limits)

    async def _quick(self, _: Request) -> Response:
        return PlainTextResponse("done")

    async def _slow(self, _: Request) -> Response:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def _endless(self, _: Request) -> Response:
        self.asked.set()
        return StreamingResponse(self._zeros())

    async def _zeros(self) -> AsyncIterator[bytes]:
        while True:
            yield bytes(65_536)
            self.sent += 1
            await asyncio.sleep(0)

    async def _broken(self, _: Request) -> Response:
        raise ValueError("a secret")

    async def _body(self, request: Request) -> Response:
        self.asked.set()
        try:
            return PlainTextResponse(str(len(await request.body())))
        except ClientDisconnect:  # as the API's routes do
            return Response(status_code=400)

    async def _gated(self, _: Request) -> Response:
        self.asked.set()
        await self.gate.wait()
        return PlainTextResponse("done")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncIterator[Served]:
    made = Served(limits or Limits())
    async with serving(made.server):
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield made


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what comes before the server ends the connection, in order or not."""
    received = b""
    try:
        while chunk := await reader.read(65_536):
            received += chunk
    except ConnectionError:
        pass
    return received


@pytest.mark.parametrize("begun", [b"", b"GET /quick HTTP/1.1\r\nHost: here\r\n"])
async def test_a_request_that_does_not_come_is_not_waited_for(begun: bytes) -> None:
    async with served(Limits(stage_seconds=0.05)) as bench:
        reader, writer = await bench.connect()
        writer.write(begun)
        assert await ended(reader) == b""
        writer.close()


async def test_a_byte_now_and_then_does_not_keep_a_connection() -> None:
    async with served(Limits(stage_seconds=0.2)) as bench:
        reader, writer = await bench.connect()
        end = asyncio.create_task(ended(reader))
        writer.write(b"GET /quick HTTP/1.1\r\n")
        while not end.done():
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.01)
        assert await end == b""
        writer.close()


async def test_a_body_that_comes_byte_by_byte_does_not_keep_a_connection() -> None:
    async with served(Limits(stage_seconds=0.2)) as bench:
        reader, writer = await bench.connect()
        end = asyncio.create_task(ended(reader))
        writer.write(b"POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n")
        while not end.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        assert b"200" not in await end
        writer.close()


async def test_an_answer_that_is_not_read_is_not_waited_for() -> None:
    async with served(Limits(stage_seconds=0.2)) as bench:
        reader, writer = await bench.connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
        await bench.asked.wait()
        # The data that the client reads from now on was sent before the server gave up.
        before = -1
        while before != bench.sent:
            before = bench.sent
            await asyncio.sleep(0.5)
        assert b"200 OK" in await ended(reader)
        writer.close()


async def test_a_connection_may_have_requests_one_after_the_other() -> None:
    async with served(Limits(idle_seconds=1_000)) as bench:
        reader, writer = await bench.connect()
        for _ in range(3):
            writer.write(WHOLE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert b"server:" not in head.lower()
            assert await reader.readexactly(4) == b"done"
        writer.close()


async def test_a_connection_without_a_further_request_ends() -> None:
    async with served(Limits(stage_seconds=1_000, idle_seconds=1)) as bench:
        reader, writer = await bench.connect()
        writer.write(WHOLE)
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"done")
        writer.close()


async def test_headers_have_a_limit() -> None:
    async with served() as bench:
        reader, writer = await bench.connect()
        writer.write(b"GET /quick HTTP/1.1\r\nHost: here\r\na: " + b"b" * 100_000)
        assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")
        writer.close()


@pytest.mark.parametrize(
    "flood", [b"a: b\r\n" * 50_000, b"a" * 300_000, b"a: " + b"b" * 300_000], ids=["many", "name", "value"]
)
async def test_a_flood_of_headers_ends_the_connection(flood: bytes) -> None:
    async with served(Limits(stage_seconds=1_000)) as bench:  # so no time-out ends it
        head = b"GET /quick HTTP/1.1\r\nHost: here\r\n"
        # Also on a connection that has been good, and after a body.
        chunked = b"POST /body HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        for before in (head, WHOLE + head, chunked):
            reader, writer = await bench.connect()
            end = asyncio.create_task(ended(reader))
            writer.write(before)
            with suppress(ConnectionError):
                for start in range(0, len(flood), 4096):
                    writer.write(flood[start : start + 4096])
                    await writer.drain()
            received = await end
            assert received.count(b"HTTP/1.1 200 ") == before.count(WHOLE)
            writer.close()
        reader, writer = await bench.connect()
        writer.write(WHOLE)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_stop_answers_the_requests_under_way_and_takes_no_others() -> None:
    async with served(Limits(close_seconds=60)) as bench:  # more than a busy machine takes
        reader, writer = await bench.connect()
        writer.write(b"GET /gated HTTP/1.1\r\nHost: here\r\n\r\n")
        await bench.asked.wait()
        stopping = asyncio.create_task(bench.server.stop())

        async def is_refused() -> bool:
            try:
                _, other = await bench.connect()
            except ConnectionRefusedError:
                return True
            except ConnectionError:  # the port closed in this very moment
                return False
            other.close()
            return False

        await eventually(is_refused)
        assert not stopping.done()
        bench.gate.set()
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"done")
        assert b"connection: close" in answer.lower()
        await stopping
        writer.close()


async def test_a_connection_beyond_the_limit_takes_the_place_of_the_one_that_has_waited_longest() -> None:
    async with served(Limits(connections=3)) as bench:
        with changes("datastorage_limits_hit_total") as hit:
            idle = [await bench.connect() for _ in range(3)]
            idle[2][1].write(WHOLE)
            await idle[2][0].readuntil(b"done")
        assert hit == {}
        with changes("datastorage_limits_hit_total") as hit:
            reader, writer = await bench.connect()
            writer.write(WHOLE)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        assert hit == {("connections",): 1}
        assert await ended(idle[0][0]) == b""
        idle[1][1].write(WHOLE)
        assert (await idle[1][0].readline()).startswith(b"HTTP/1.1 200 ")
        for _, opened in [*idle, (reader, writer)]:
            opened.close()


async def test_a_burst_of_connections_leaves_no_more_than_the_limit() -> None:
    """The server accepts all of them in one turn of its loop, in which none of them can end."""
    async with served(Limits(connections=3)) as bench:
        opened = []
        for _ in range(30):  # without a pause, in which the server would accept the first ones
            client = socket.socket()
            client.connect(("127.0.0.1", bench.port))
            opened.append(client)
        for client in opened:
            client.settimeout(0)
        loop = asyncio.get_running_loop()
        for client in opened[:-3]:
            with suppress(ConnectionError):
                assert await loop.sock_recv(client, 1) == b""
        for client in opened[-3:]:
            await loop.sock_sendall(client, WHOLE)
            assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200 ")
        for client in opened:
            client.close()


@pytest.mark.parametrize(
    "begun",
    ["GET /slow HTTP/1.1", "GET /endless HTTP/1.1", "POST /body HTTP/1.1\r\nContent-Length: 9"],
    ids=["slow", "endless", "half a body"],
)
async def test_no_client_holds_the_stop(begun: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with served(Limits(close_seconds=1)) as bench:
        idle_reader, idle = await bench.connect()
        reader, writer = await bench.connect()
        writer.write(f"{begun}\r\nHost: here\r\n\r\n".encode())
        await bench.asked.wait()
        await bench.server.stop()
        assert not caplog.records, "it is no fault of the program that a client is slow"
        assert await ended(idle_reader) == b""
        await ended(reader)
        with pytest.raises(ConnectionRefusedError):
            await bench.connect()
        for opened in (idle, writer):
            opened.close()


async def test_signals_are_left_to_the_runtime() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with served():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_requests_are_not_logged_and_a_bug_is(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with served() as bench:
        for request, status in ((WHOLE, b"200"), (WHOLE.replace(b"quick", b"broken"), b"500")):
            reader, writer = await bench.connect()
            writer.write(request)
            assert (await reader.readline()).split()[1] == status
            answer = await reader.read(1000)
            assert b"secret" not in answer
            writer.close()
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert messages == ["Exception in ASGI application\n"]
    assert not [record for record in caplog.records if record.name == "uvicorn.access"]
    assert capfd.readouterr() == ("", "")
