"""The server of /metrics answers whatever a client sends."""

import asyncio

import pytest

from datastorage.api.app import metrics_server
from datastorage.api.health import health_routes
from harness.polling import DEADLINE_SECONDS
from harness.ports import free_port
from tests.support.serving import serving


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"", b"200"),
        (b"Accept: application/openmetrics-text;version=1.0.0\r\n", b"200"),
        (b"Accept: \xff\xfe\r\n", b"400"),
        (b"Accept-Encoding: \xff\r\n", b"400"),
    ],
)
async def test_a_header_that_is_not_text_is_the_clients_fault(
    header: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    server = metrics_server([], addresses="127.0.0.1", port=port)
    async with serving(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\n" + header + b"\r\n")
        line = await asyncio.wait_for(reader.readline(), DEADLINE_SECONDS)
        writer.close()
    assert line.split(b" ")[1] == status
    assert caplog.records == []


async def test_the_probes_are_on_this_port_too() -> None:
    port = free_port()
    probes = health_routes(health={}, ready={}, notes={})
    server = metrics_server(probes, addresses="127.0.0.1", port=port)
    async with serving(server):
        for path in ("/health", "/ready", "/metrics"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            line = await asyncio.wait_for(reader.readline(), DEADLINE_SECONDS)
            assert line.split(b" ")[1] == b"200", path
            writer.close()
