"""Both ports listen on the addresses of DATASTORAGE_LISTEN_ADDRESS, or fail with one line."""

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from datastorage.api import listening
from datastorage.api.app import api_app, api_server, metrics_server
from datastorage.api.health import health_routes
from datastorage.api.server import HttpServer
from datastorage.errors import ConfigurationError
from harness.ports import free_port
from tests.support.ipv6 import needs_ipv6

pytestmark = needs_ipv6

Make = Callable[[str, int], HttpServer]

IPV4, IPV6 = "127.0.0.1", "[::1]"


def api(addresses: str, port: int) -> HttpServer:
    app = api_app([], health_routes(health={}, ready={}, notes={}))
    return api_server(app, addresses=addresses, port=port)


def numbers(addresses: str, port: int) -> HttpServer:
    return metrics_server([], addresses=addresses, port=port)


BOTH_PORTS = pytest.mark.parametrize(
    ("make", "path", "setting"),
    [(api, "/health", "DATASTORAGE_API_PORT"), (numbers, "/metrics", "DATASTORAGE_METRICS_PORT")],
)


@asynccontextmanager
async def running(make: Make, addresses: str) -> AsyncIterator[int]:
    """Serve on a port that is free in both families."""
    with socket.socket(socket.AF_INET6) as free:
        free.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        free.bind(("::", 0))
        port: int = free.getsockname()[1]
    listener = make(addresses, port)
    try:
        await listener.start()
        yield port
    finally:
        await listener.stop()


async def answers(host: str, port: int, path: str) -> bool:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://{host}:{port}{path}") as response:
                return response.status == 200
        except aiohttp.ClientConnectorError:
            return False


@BOTH_PORTS
@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ("", {IPV4, IPV6}),
        ("::", {IPV4, IPV6}),
        ("[::]", {IPV4, IPV6}),
        ("::,0.0.0.0", {IPV4, IPV6}),
        ("::,127.0.0.1", {IPV4, IPV6}),
        ("0.0.0.0", {IPV4}),
        ("127.0.0.1", {IPV4}),
        ("::1", {IPV6}),
        ("::1, 127.0.0.1, ::1", {IPV4, IPV6}),
    ],
)
async def test_each_address_means_what_it_says(
    make: Make, path: str, setting: str, addresses: str, expected: set[str]
) -> None:
    del setting
    async with running(make, addresses) as port:
        assert {host for host in (IPV4, IPV6) if await answers(host, port, path)} == expected


@BOTH_PORTS
async def test_a_host_name_means_all_its_addresses(make: Make, path: str, setting: str) -> None:
    del setting
    places = {place[0] for *_, place in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
    async with running(make, "localhost") as port:
        for place in places:
            assert await answers(f"[{place}]" if ":" in str(place) else str(place), port, path)


@BOTH_PORTS
@pytest.mark.parametrize("addresses", ["", "127.0.0.1", "::", "localhost"])
async def test_a_taken_port_is_one_line(make: Make, path: str, setting: str, addresses: str) -> None:
    del path
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listener = make(addresses, port)
        with pytest.raises(ConfigurationError) as caught:
            await listener.start()
        await listener.stop()
    said = str(caught.value)
    assert said.startswith(f"{setting}: cannot listen on port {port} of ")
    assert "Address already in use" in said
    assert "\n" not in said
    assert {"": "::"}.get(addresses, addresses) in said


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ("192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("2001:db8::1", "2001:db8::1 is not an address of this machine"),
        ("fe80::1%none", "can't be resolved"),
        ("no.such.host.invalid", "can't be resolved"),
        ("127.0.0.1,192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("a" * 300, "can't be resolved"),
    ],
)
async def test_an_address_of_others_is_refused(addresses: str, reason: str) -> None:
    listener = api(addresses, free_port())
    with pytest.raises(ConfigurationError) as caught:
        await listener.start()
    await listener.stop()
    assert str(caught.value).startswith("DATASTORAGE_LISTEN_ADDRESS: ")
    assert reason in str(caught.value)


def without(family: int) -> Callable[..., socket.socket]:
    """Behave like a kernel without this address family."""
    real = listening._open

    def open_one(wanted: int, place: tuple[Any, ...], *, dual: bool) -> socket.socket:
        if wanted == family:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(wanted, place, dual=dual)

    return open_one


@BOTH_PORTS
@pytest.mark.parametrize("addresses", ["", "localhost,127.0.0.1"])
async def test_a_kernel_without_ipv6_serves_ipv4(
    make: Make, path: str, setting: str, addresses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del setting
    monkeypatch.setattr(listening, "_open", without(socket.AF_INET6))
    async with running(make, addresses) as port:
        assert await answers(IPV4, port, path)


@pytest.mark.parametrize("addresses", ["::", "::1"])
async def test_a_kernel_without_ipv6_refuses_ipv6_addresses(
    addresses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_open", without(socket.AF_INET6))
    listener = api(addresses, free_port())
    with pytest.raises(ConfigurationError, match=f"{addresses} is not an address of this machine"):
        await listener.start()
    await listener.stop()


async def test_metrics_come_in_the_form_that_is_asked_for() -> None:
    async with running(numbers, "127.0.0.1") as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/metrics"
        async with session.get(url) as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
            assert "datastorage_build_info" in await response.text()
        openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(url, headers=openmetrics) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert (await response.text()).endswith("# EOF\n")
        async with session.get(url, params={"name[]": "datastorage_build_info"}) as response:
            assert {line.partition("{")[0] for line in (await response.text()).splitlines()[2:]} == {
                "datastorage_build_info"
            }
        async with session.get(url, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
