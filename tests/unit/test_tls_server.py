"""The API port with TLS: real handshakes, and clients that do not finish theirs."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from datastorage import metrics
from datastorage.api.certificate import CertificatePace, ServingCertificate
from datastorage.api.handshakes import HandshakeLimits
from datastorage.api.listening import Listening
from datastorage.api.server import HttpServer, Limits
from harness.polling import DEADLINE_SECONDS, until
from harness.ports import free_port
from harness.servingcertificates import Authority, MountedSecret, Pair
from tests.support.counted import changes
from tests.support.serving import serving

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
AUTHORITY = Authority()

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def pair() -> Pair:
    return AUTHORITY.server("127.0.0.1")


class Served:
    """A running server with TLS, whose certificate may be replaced."""

    def __init__(self, folder: Path, limits: HandshakeLimits) -> None:
        self.port = free_port()
        self.first = pair()
        self.secret = MountedSecret(folder / "tls", self.first)
        listening = Listening(addresses="127.0.0.1", port=self.port, port_setting="")
        certificate = ServingCertificate(self.secret.folder, pace=CertificatePace(look_seconds=0.02))
        app = Starlette(routes=[Route("/", self._answer)])
        self.server = HttpServer(app, listening, Limits(handshakes=limits), certificate)

    async def _answer(self, request: Request) -> Response:
        return PlainTextResponse(request.url.scheme)

    async def connect(self, *, tls: ssl.TLSVersion | None = None) -> Connection:
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as in the tests of the cluster's authorities
        if tls is not None:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")  # otherwise the client itself refuses old versions
            context.minimum_version = context.maximum_version = tls
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def connect_plainly(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def served(folder: Path, limits: HandshakeLimits = HandshakeLimits()) -> AsyncIterator[Served]:
    made = Served(folder, limits)
    async with serving(made.server):
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield made


async def ask(connection: Connection) -> bytes:
    """Send a request; return the body of the answer."""
    reader, writer = connection
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK"), head
    return await reader.readexactly(5)


def seen(connection: Connection) -> bytes:
    """Return the server's certificate that a connection has."""
    found: bytes = connection[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
    return found


def der(of: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(of.certificate.decode())


def handshakes(outcome: str) -> float:
    value = metrics.REGISTRY.get_sample_value("datastorage_tls_handshakes_total", {"outcome": outcome})
    return value or 0.0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_are_answered_over_tls(tmp_path: Path, version: ssl.TLSVersion) -> None:
    before = handshakes("success")
    async with served(tmp_path) as bench:
        connection = await bench.connect(tls=version)
        assert seen(connection) == der(bench.first)
        assert connection[1].get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        assert [await ask(connection) for _ in range(3)] == [b"https"] * 3
        connection[1].close()
    assert handshakes("success") == before + 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_are_refused(
    tmp_path: Path, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = handshakes("failed")
    async with served(tmp_path) as bench:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await bench.connect(tls=version)
    [failed] = [each for each in caplog.records if each.message == "A TLS handshake has failed"]
    assert "UNSUPPORTED_PROTOCOL" in failed.error  # type: ignore[attr-defined]
    assert handshakes("failed") == before + 1


async def test_the_certificate_is_replaced_under_traffic(tmp_path: Path) -> None:
    async with served(tmp_path) as bench:
        old = await bench.connect()
        stop, answers = asyncio.Event(), 0

        async def ask_on() -> None:
            nonlocal answers
            while not stop.is_set():
                assert await ask(old) == b"https"
                connection = await bench.connect()
                assert await ask(connection) == b"https"
                connection[1].close()
                answers += 1

        traffic = asyncio.create_task(ask_on())
        for fresh in (pair(), pair(), pair()):
            bench.secret.show(fresh)

            async def is_shown(fresh: Pair = fresh) -> bool:
                connection = await bench.connect()
                connection[1].close()
                return seen(connection) == der(fresh)

            await until(is_shown, what="the new certificate is shown")
        stop.set()
        await traffic
        assert answers > 0
        assert seen(old) == der(bench.first)
        assert await ask(old) == b"https"
        old[1].close()


async def test_a_client_without_tls_is_told_to_use_it(tmp_path: Path) -> None:
    before = handshakes("plain_http")
    async with served(tmp_path) as bench:
        reader, writer = await bench.connect_plainly()
        writer.write(REQUEST)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Content-Type: application/problem+json" in head
        assert json.loads(content)["code"] == "tls-required"
        writer.close()
    assert handshakes("plain_http") == before + 1


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00"], ids=["silent", "begun"])
async def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path, begun: bytes) -> None:
    before = handshakes("timeout")
    async with served(tmp_path, HandshakeLimits(seconds=0.05)) as bench:
        reader, writer = await bench.connect_plainly()
        writer.write(begun)
        assert await reader.read() == b""
        writer.close()
    assert handshakes("timeout") == before + 1


async def test_noise_ends_the_handshake(tmp_path: Path) -> None:
    before = handshakes("failed")
    async with served(tmp_path) as bench:
        reader, writer = await bench.connect_plainly()
        writer.write(b"\x00" * 100)
        await reader.read()
        writer.close()
    assert handshakes("failed") == before + 1


async def test_silent_clients_do_not_keep_others_out(tmp_path: Path) -> None:
    with changes("datastorage_limits_hit_total") as hit:
        await _silent_clients(tmp_path)
    assert hit == {("handshakes",): 18}


async def _silent_clients(tmp_path: Path) -> None:
    async with served(tmp_path, HandshakeLimits(seconds=DEADLINE_SECONDS, at_once=3)) as bench:
        silent = [await bench.connect_plainly() for _ in range(20)]
        connection = await bench.connect()
        assert await ask(connection) == b"https"
        for reader, _ in silent[:17]:  # the oldest have lost their places
            assert await reader.read() == b""
        for _, writer in [*silent, connection]:
            writer.close()


async def test_no_client_holds_the_stop(tmp_path: Path) -> None:
    async with served(tmp_path) as bench:
        silent = await bench.connect_plainly()
        connection = await bench.connect()
        assert await ask(connection) == b"https"
        await bench.server.stop()
        for reader, writer in (silent, connection):
            assert await reader.read() == b""
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await bench.connect_plainly()


@pytest.mark.parametrize(
    "scenario",
    [
        partial(test_requests_are_answered_over_tls, version=ssl.TLSVersion.TLSv1_3),
        test_the_certificate_is_replaced_under_traffic,
        test_a_client_without_tls_is_told_to_use_it,
        partial(test_a_handshake_that_does_not_come_is_not_waited_for, begun=b""),
        test_silent_clients_do_not_keep_others_out,
        test_no_client_holds_the_stop,
    ],
)
def test_the_loop_of_the_operator_does_the_same(
    tmp_path: Path, scenario: Callable[[Path], Coroutine[Any, Any, None]]
) -> None:
    """It has an implementation of TLS of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario(tmp_path))
