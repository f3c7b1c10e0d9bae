"""A stop ends in time though a server or a client hangs in the middle of something."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from e2e.storing import Callers
from e2e.test_stop import LARGE_BYTES, SHUTDOWN_SECONDS
from e2e.workbench import Workbench, cluster_proxy
from harness.archive import rows
from harness.bulk import BulkClient
from harness.embeddings import OpenAIService, silence
from harness.manifests import action_trace, audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.proxy import FreezableProxy
from harness.redis import RedisServer

# More than the kernel keeps for a client that does not read.
EXPORT_RECORDS = 40
SMALL_BUFFER_BYTES = 4096


async def stopped(operator: OperatorProcess) -> int:
    """Stop the operator; return its exit code, which is another one if it takes longer than its pod has."""
    return await asyncio.to_thread(operator.terminate)


async def has_rows(workbench: Workbench, count: int, table: Table = Table.AUDIT_RECORDS) -> bool:
    return len(await rows(workbench.database_url, workbench.namespace, table)) >= count


@asynccontextmanager
async def hanging_embedder() -> AsyncIterator[OpenAIService]:
    """Run an embedding service that takes each request and answers none."""
    service = OpenAIService(4)
    service.behaviours = [silence] * 1000
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@asynccontextmanager
async def redis_proxy() -> AsyncIterator[FreezableProxy]:
    """Run a Redis behind a proxy that can be frozen."""
    with RedisServer() as server:
        async with FreezableProxy(server.url) as proxy:
            yield proxy


async def test_a_stop_while_the_embedder_hangs(workbench: Workbench, client: BulkClient) -> None:
    async with hanging_embedder() as service:
        operator = workbench.start_operator(
            wait=False, SHUTDOWN_SECONDS=SHUTDOWN_SECONDS, **service.settings()
        )
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record("record"))

        async def asked() -> bool:
            return service.at_once > 0

        await until(asked, what="a request hangs")
        assert await stopped(operator) == 0
    assert "Traceback" not in operator.log(), operator.log_tail()


async def test_a_stop_while_redis_hangs(workbench: Workbench, client: BulkClient) -> None:
    async with redis_proxy() as proxy:
        operator = workbench.start_operator(SHUTDOWN_SECONDS=SHUTDOWN_SECONDS, REDIS_URL=proxy.url)
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record("first"))
        await until(lambda: has_rows(workbench, 1), what="a record, with Redis")
        proxy.freeze()
        # Its text is asked for in Redis, which does not answer: the record is stored without it.
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record("second"))
        assert await stopped(operator) == 0
    assert "Traceback" not in operator.log(), operator.log_tail()


async def test_a_stop_while_the_first_list_of_large_objects_hangs(
    workbench: Workbench, client: BulkClient
) -> None:
    count = 12
    for n in range(count):
        body = action_trace(f"large-{n}", parameters={"text": "x" * 4 * LARGE_BYTES})
        await client.create(ACTION_TRACE, workbench.namespace, body, metadata_only=True)
    async with cluster_proxy(workbench) as (proxy, config):
        operator = workbench.start_operator(wait=False, kubeconfig=config, SHUTDOWN_SECONDS=SHUTDOWN_SECONDS)
        await until(lambda: has_rows(workbench, 1, Table.ACTION_TRACES), what="the first of them")
        proxy.freeze()
        assert await stopped(operator) == 0
    assert "Traceback" not in operator.log(), operator.log_tail()


@pytest.fixture
def callers(workbench: Workbench) -> Iterator[Callers]:
    made = Callers(workbench.cluster, workbench.namespace)
    yield made
    made.close()


async def test_a_stop_while_clients_hang_in_a_request_and_in_an_export(
    workbench: Workbench, client: BulkClient, callers: Callers
) -> None:
    roles = ("datastorage-writer", "datastorage-archive-reader", "datastorage-archive-exporter")
    token = callers.token("slow", *roles)
    operator = workbench.start_operator(SHUTDOWN_SECONDS=SHUTDOWN_SECONDS)
    for n in range(EXPORT_RECORDS):
        body = audit_record(f"large-{n}", details={"text": "x" * LARGE_BYTES})
        await client.create(AUDIT_RECORD, workbench.namespace, body, metadata_only=True)
    await until(lambda: has_rows(workbench, EXPORT_RECORDS), what="the records to export")
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with contextlib.ExitStack() as stack:
        export = stack.enter_context(_connected(operator))
        export.sendall(f"GET /api/v1/export?namespace={workbench.namespace} {head}\r\n".encode())
        # It has begun, and goes on until the client has to read.
        assert (await asyncio.to_thread(export.recv, 100)).startswith(b"HTTP/1.1 200")
        store = stack.enter_context(_connected(operator))
        store.sendall(f"POST /api/v1/store/workflow {head}Content-Length: 1000\r\n\r\n{{".encode())
        assert await stopped(operator) == 0
    assert "Traceback" not in operator.log(), operator.log_tail()


def _connected(operator: OperatorProcess) -> socket.socket:
    """Return a connection for whose data the client's kernel has hardly any room."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    connection.settimeout(60)
    address = urlsplit(operator.api_url)
    connection.connect((address.hostname, address.port))
    return connection
