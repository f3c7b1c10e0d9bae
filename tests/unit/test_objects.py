"""Requests to the API server, and the meaning of each answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest
import pytest_asyncio
from aiohttp import web

from datastorage.errors import (
    ClusterUnavailableError,
    DataStorageError,
    ForbiddenError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    ObjectTooLargeError,
    RequestRefusedError,
)
from datastorage.kube.endpoint import Endpoint
from datastorage.kube.objects import ObjectClient
from datastorage.kube.transport import Transport
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.selection import Selection
from harness.apiserver import FakeApiServer
from tests.support.referable import Referable, alive

MIB = 2**20
TOO_DEEP = "[" * 200_000
"""JSON that no version of Python reads."""
BASE = "/apis/datastorage.kubernaut.io/v1alpha1"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    """An API server whose answers the test sets."""
    async with FakeApiServer().serve() as running:
        yield running


@pytest_asyncio.fixture
async def client(server: FakeApiServer) -> AsyncIterator[ObjectClient]:
    """A client for all namespaces."""
    async with server.transport() as transport:
        yield ObjectClient(transport)


async def call(client: ObjectClient, verb: str) -> Any:
    match verb:
        case "patch_status":
            return await client.patch_status(
                AUDIT_RECORD, "shop", "a", resource_version="7", status={"phase": "Stored"}
            )
        case "delete":
            return await client.delete(AUDIT_RECORD, "shop", "a", uid="u-1", resource_version="7")
        case "get":
            return await client.get(AUDIT_RECORD, "shop", "a")
    return [page async for page in client.pages(AUDIT_RECORD, field_selector="x=y", page_size=2)]


async def test_a_status_patch_is_tied_to_the_version(server: FakeApiServer, client: ObjectClient) -> None:
    server.answer(200, {"metadata": {"resourceVersion": "8"}})
    assert await call(client, "patch_status") == "8"
    (request,) = server.requests
    assert (request.method, request.path) == ("PATCH", f"{BASE}/namespaces/shop/auditrecords/a/status")
    assert request.body == {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Stored"}}
    assert request.headers["Content-Type"] == "application/merge-patch+json"
    assert "PartialObjectMetadata" in request.headers["Accept"]
    assert request.headers["Authorization"] == "Bearer the-token"


async def test_a_deletion_names_uid_and_version(server: FakeApiServer, client: ObjectClient) -> None:
    await call(client, "delete")
    (request,) = server.requests
    assert (request.method, request.path) == ("DELETE", f"{BASE}/namespaces/shop/auditrecords/a")
    assert request.body["preconditions"] == {"uid": "u-1", "resourceVersion": "7"}


async def test_get_returns_the_object(server: FakeApiServer, client: ObjectClient) -> None:
    server.answer(200, {"metadata": {"name": "a"}, "spec": {"big": 2**63 - 1, "text": "\ud800\0"}})
    body = await call(client, "get")
    assert body["spec"] == {"big": 2**63 - 1, "text": "\ud800\0"}


@pytest.mark.parametrize("verb", ["patch_status", "delete", "get", "pages"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestRefusedError),
        (401, ClusterUnavailableError),
        (403, ForbiddenError),
        (404, ObjectGoneError),
        (408, ClusterUnavailableError),
        (409, ObjectChangedError),
        (410, ObjectGoneError),
        (413, ObjectTooLargeError),
        (422, RequestRefusedError),
        (429, ClusterUnavailableError),
        (500, ClusterUnavailableError),
        (502, ClusterUnavailableError),
        (503, ClusterUnavailableError),
        (504, ClusterUnavailableError),
    ],
)
async def test_each_status_has_its_error(
    server: FakeApiServer, client: ObjectClient, verb: str, status: int, expected: type[DataStorageError]
) -> None:
    server.refuse(status, "the reason")
    with pytest.raises(DataStorageError) as caught:
        await call(client, verb)
    assert type(caught.value) is expected
    named = "AuditRecord" if verb == "pages" else "AuditRecord shop/a"
    assert str(caught.value) == f"{named}: API server ({status}): the reason"


async def test_the_size_limit_of_etcd_is_no_outage(server: FakeApiServer, client: ObjectClient) -> None:
    server.refuse(500, "etcdserver: request is too large")
    with pytest.raises(ObjectTooLargeError):
        await call(client, "patch_status")


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", "", "[]", '{"message": 5}', "\ufffd" * 9000])
async def test_an_answer_that_is_no_status_is_still_an_error(
    server: FakeApiServer, client: ObjectClient, body: str
) -> None:
    server.answers.append(web.Response(status=502, text=body))
    with pytest.raises(ClusterUnavailableError) as caught:
        await call(client, "get")
    assert len(str(caught.value)) < 600


async def test_a_missing_object_and_an_answer_that_is_nested_too_deeply(
    server: FakeApiServer, client: ObjectClient
) -> None:
    server.answers.append(web.Response(status=404, text=TOO_DEEP))
    with pytest.raises(NotServedError):
        await call(client, "get")


async def test_an_absent_server_is_transient() -> None:
    async with FakeApiServer().serve() as server:
        gone = server.transport()
    async with gone as transport:
        with pytest.raises(ClusterUnavailableError, match=r"^AuditRecord shop/a: API server: no connection"):
            await call(ObjectClient(transport), "get")


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "404 Not Found", "500 Internal Server Error"])
@pytest.mark.parametrize("verb", ["patch_status", "pages"])
async def test_an_answer_without_an_end_is_given_up(status: str, verb: str) -> None:
    sent = 0

    async def spaces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n".encode())
        with suppress(ConnectionError):
            while sent < 512 * MIB:
                writer.write(b" " * MIB)
                sent += MIB
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(spaces, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Transport(lambda: Endpoint("test", f"http://127.0.0.1:{port}")) as transport:
            with pytest.raises(ClusterUnavailableError, match=r"has more than [0-9,]+ bytes"):
                await call(ObjectClient(transport), verb)
    assert sent < 256 * MIB


async def test_a_connection_cut_in_the_middle_is_transient(
    server: FakeApiServer, client: ObjectClient
) -> None:
    def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.answers = [cut, cut, cut]
    with pytest.raises(ClusterUnavailableError):
        await call(client, "get")


def page(*names: str, more: str | None = None) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": name}} for name in names], "metadata": {"continue": more}}


async def names_of(client: ObjectClient) -> list[list[str]]:
    return [
        [body["metadata"]["name"] for body in items]
        async for items in client.pages(ACTION_TRACE, field_selector="status.phase!=Stored", page_size=2)
    ]


async def test_a_list_comes_page_by_page(server: FakeApiServer, client: ObjectClient) -> None:
    server.answer(200, page("a", "b", more="token/1=+"))
    server.answer(200, page("c", more=""))
    assert await names_of(client) == [["a", "b"], ["c"]]
    assert [request.path for request in server.requests] == [f"{BASE}/actiontraces"] * 2
    assert server.requests[0].query["fieldSelector"] == "status.phase!=Stored"
    assert [request.query["limit"] for request in server.requests] == ["2", "2"]
    assert [request.query["continue"] for request in server.requests] == ["", "token/1=+"]


async def test_a_list_whose_continuation_expires_begins_again(
    server: FakeApiServer, client: ObjectClient
) -> None:
    server.answer(200, page("a", "b", more="old"))
    server.refuse(410, "The provided continue parameter is too old")
    server.answer(200, page("a", "b", more="new"))
    server.answer(200, page("c"))
    assert await names_of(client) == [["a", "b"], ["a", "b"], ["c"]]
    assert [request.query["continue"] for request in server.requests] == ["", "old", "", "new"]


async def test_a_resource_that_is_not_there_is_no_endless_list(
    server: FakeApiServer, client: ObjectClient
) -> None:
    server.answer(404, {"message": "the server could not find the requested resource", "details": {}})
    with pytest.raises(NotServedError):
        await names_of(client)
    assert len(server.requests) == 1


@pytest.mark.parametrize("verb", ["patch_status", "delete", "get", "pages"])
async def test_an_unknown_path_is_no_missing_object(
    server: FakeApiServer, client: ObjectClient, verb: str
) -> None:
    server.answers.append(web.Response(status=404, text="404 page not found"))
    with pytest.raises(NotServedError):
        await call(client, verb)


async def test_a_namespace_that_may_not_be_read_does_not_hide_the_others(server: FakeApiServer) -> None:
    async with server.transport() as transport:
        client = ObjectClient(transport, Selection(("shop", "pay")))
        server.refuse(403, "forbidden")
        server.answer(200, page("b"))
        pages = client.pages(ACTION_TRACE, field_selector="x=y", page_size=2)
        assert [body["metadata"]["name"] for body in await anext(pages)] == ["b"]
        with pytest.raises(RequestRefusedError, match=r"^ActionTrace in namespace shop: API server \(403\)"):
            await anext(pages)


async def test_only_the_chosen_namespaces_are_listed(server: FakeApiServer) -> None:
    async with server.transport() as transport:
        client = ObjectClient(transport, Selection(("shop", "pay")))
        server.answer(200, page("a"))
        server.answer(200, page("b"))
        assert await names_of(client) == [["a"], ["b"]]
    assert [request.path for request in server.requests] == [
        f"{BASE}/namespaces/shop/actiontraces",
        f"{BASE}/namespaces/pay/actiontraces",
    ]


async def test_only_the_chosen_kinds_are_listed(server: FakeApiServer) -> None:
    async with server.transport() as transport:
        client = ObjectClient(transport, Selection(kinds=(AUDIT_RECORD,)))
        assert await names_of(client) == []
    assert server.requests == []


async def test_a_shard_asks_for_its_range(server: FakeApiServer) -> None:
    selection = Selection(shard=1, shards=4)
    async with server.transport() as transport:
        for chosen in (selection, Selection()):
            server.answer(200, page())
            assert await names_of(ObjectClient(transport, chosen)) == [[]]
    ranges = [request.query.get("shardSelector") for request in server.requests]
    assert ranges == [selection.shard_selector, None]


async def test_a_page_of_large_objects_is_asked_for_again_shorter(server: FakeApiServer) -> None:
    large = page("a", "b", more="")
    large["items"][0]["spec"] = "x" * 2000
    alone = {"items": large["items"][:1], "metadata": {"continue": "rest"}}
    server.answer(200, large)
    server.answer(200, alone)
    server.answer(200, page("b"))
    async with server.transport() as transport:
        assert await names_of(ObjectClient(transport, max_page_bytes=1000)) == [["a"], ["b"]]
    assert [request.query["limit"] for request in server.requests] == ["2", "1", "2"]
    assert [request.query["continue"] for request in server.requests] == ["", "", "rest"]


@pytest.mark.parametrize("verb", ["patch_status", "delete", "get", "pages"])
@pytest.mark.parametrize(
    "body", ["<html>Log in</html>", "[]", "", "null", TOO_DEEP], ids=lambda body: body[:9]
)
async def test_an_answer_of_something_else_is_no_success(
    server: FakeApiServer, client: ObjectClient, verb: str, body: str
) -> None:
    """A proxy's page has status 200: it must not count as the answer to a deletion."""
    server.answers = [web.Response(text=body)]
    with pytest.raises(
        ClusterUnavailableError, match=r"^AuditRecord.*: API server: the answer is not a JSON object"
    ):
        await call(client, verb)


@pytest.mark.parametrize("verb", ["patch_status", "pages"])
async def test_an_object_of_something_else_is_no_success(
    server: FakeApiServer, client: ObjectClient, verb: str
) -> None:
    server.answer(200, {"status": "up"})
    with pytest.raises(
        ClusterUnavailableError, match=r"^AuditRecord.*: API server: the answer has no metadata"
    ):
        await call(client, verb)


@pytest.mark.parametrize("items", [5, True, "x", {"a": 1}])
async def test_items_that_are_no_list_are_no_success(
    server: FakeApiServer, client: ObjectClient, items: object
) -> None:
    server.answer(200, {"metadata": {"resourceVersion": "7"}, "items": items})
    with pytest.raises(ClusterUnavailableError, match=r"^AuditRecord.*: API server: the answer has no list"):
        await call(client, "pages")


async def test_a_status_answer_without_a_version_is_no_success(
    server: FakeApiServer, client: ObjectClient
) -> None:
    server.answer(200, {"metadata": {"name": "one"}})
    with pytest.raises(ClusterUnavailableError, match=r"^AuditRecord.*: the answer has no resourceVersion"):
        await call(client, "patch_status")


async def test_a_page_is_let_go_before_the_next_one_is_asked_for() -> None:
    """A page of large objects takes some 50 MiB."""
    pages, left = [Referable() for _ in range(3)], []

    class Pages:
        async def call(self, *_: Any, **__: Any) -> dict[str, Any]:
            left.append(alive(pages))
            page = pages[len(left) - 1]
            return {"metadata": {"continue": "more" if len(left) < len(pages) else ""}, "items": page.made()}

    client = ObjectClient(cast("Transport", Pages()))
    async for page in client.pages(AUDIT_RECORD, field_selector="x=y", page_size=1):
        assert len(page) == 1
        del page
    assert left == [0, 0, 0]
