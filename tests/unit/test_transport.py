"""Requests reach the API server in the same way alone and in a watch, with the current settings."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.kube.credentials import Credentials, CredentialsPace
from datastorage.kube.endpoint import Endpoint
from datastorage.kube.transport import Transport, TransportPace
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.kube.watchretry import WatchRetry
from datastorage.kube.watchsession import WatchSession
from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD, KINDS
from harness.connectproxy import ConnectProxy
from harness.polling import eventually
from harness.servingcertificates import Authority
from tests.support.ipv6 import needs_ipv6
from tests.support.kubeconfig import inline, transport_of, write_kubeconfig
from tests.support.secureserver import SecureServer, server_context, status

Send = Callable[..., Awaitable[int]]

TIMEOUT = aiohttp.ClientTimeout(total=20)
# Files are looked at, and connections may be renewed, before each request.
AT_ONCE = TransportPace(credentials=CredentialsPace(look_seconds=0.0, reconnect_seconds=0.0))
HOST = "kubernetes.default.svc"  # no resolver of a test machine knows it
PASSWORD = "s3cr3t"
RECORDS = f"/apis/{API_VERSION}/{AUDIT_RECORD.plural}"


async def single(transport: Transport, path: str, timeout: aiohttp.ClientTimeout = TIMEOUT) -> int:  # noqa: ASYNC109
    async with await transport.request("GET", path, timeout=timeout) as response:
        await response.read()
        return response.status


class _NoRetry(WatchRetry):
    def __init__(self) -> None:
        """Do not repeat requests."""

    async def answer(self, path: str, send: Any, *, watches: bool) -> aiohttp.ClientResponse:  # noqa: ARG002
        response: aiohttp.ClientResponse = await send()
        return response


def session_of(transport: Transport) -> WatchSession:
    retry = WatchRetry(AUDIT_RECORD, WatchMonitor(KINDS), on_recovery=lambda *_: None, on_gone=lambda: None)
    return WatchSession(transport, retry, lambda _: False)


async def watch(transport: Transport, path: str, timeout: aiohttp.ClientTimeout = TIMEOUT) -> int:  # noqa: ASYNC109
    """Watch as Kopf does, without repeating requests."""
    session = WatchSession(transport, _NoRetry(), lambda _: False)
    async with await session.request("get", f"{path}?watch=true", timeout=timeout) as response:
        await response.read()
        return response.status


BOTH_WAYS = pytest.mark.parametrize("send", [single, watch])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest_asyncio.fixture
async def server(authority: Authority) -> AsyncIterator[SecureServer]:
    """A server with the names of a cluster's Service and of this machine; it asks for client certificates."""
    pair = authority.server(HOST, "127.0.0.1")
    async with SecureServer(pair, client_authority=authority.pem) as running:
        yield running


def cluster_of(server: SecureServer, authority: Authority, **other: Any) -> dict[str, Any]:
    return {"server": server.url, "certificate-authority-data": inline(authority.pem), **other}


@BOTH_WAYS
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("user", [None, f"ann:{PASSWORD}"])
async def test_the_kubeconfigs_proxy_is_used(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send, scheme: str, user: str | None
) -> None:
    tls = server_context(authority.server("127.0.0.1")) if scheme == "https" else None
    async with ConnectProxy(tls=tls, user=user) as proxy:
        cluster = cluster_of(server, authority, **{"proxy-url": proxy.url})
        cluster["server"] = f"https://{HOST}:{server.port}"
        async with transport_of(write_kubeconfig(tmp_path / "config", cluster)) as transport:
            assert await send(transport, "/a") == 200
    assert proxy.tunnels == [f"{HOST}:{server.port}"]
    assert server.seen("Proxy-Authorization") == [None]


@BOTH_WAYS
async def test_the_environments_proxy_is_used(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    cluster = cluster_of(server, authority)
    cluster["server"] = f"https://{HOST}:{server.port}"
    config = write_kubeconfig(tmp_path / "config", cluster)
    async with ConnectProxy() as proxy, transport_of(config, HTTPS_PROXY=proxy.url) as transport:
        assert await send(transport, "/a") == 200
        assert len(proxy.tunnels) == 1


async def test_a_proxy_that_refuses_is_named_without_its_password(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    async with ConnectProxy(user="ann:right") as proxy:
        url = proxy.url.replace("right", PASSWORD)
        config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority, **{"proxy-url": url}))
        async with transport_of(config) as transport:
            with pytest.raises(
                ClusterUnavailableError, match="API server: the proxy answers 407 to CONNECT"
            ) as caught:
                await single(transport, "/a")
    assert PASSWORD not in str(caught.value)
    async with transport_of(config) as transport:
        gone = f"no connection to the proxy 127.0.0.1:{proxy_port(url)}: Connection refused"
        with pytest.raises(ClusterUnavailableError, match=gone):
            await single(transport, "/a")
        assert transport.monitor.problem() is None, "this says nothing of our credentials"


def proxy_port(url: str) -> str:
    return url.rpartition(":")[2]


@BOTH_WAYS
async def test_the_tls_server_name_is_used(tmp_path: Path, send: Send) -> None:
    authority = Authority()
    async with SecureServer(authority.server("kubernetes")) as server:
        config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority))
        async with transport_of(config) as transport:
            with pytest.raises(ClusterUnavailableError, match="IP address mismatch"):
                await send(transport, "/a")
        named = cluster_of(server, authority, **{"tls-server-name": "kubernetes"})
        async with transport_of(write_kubeconfig(tmp_path / "named", named)) as transport:
            assert await send(transport, "/a") == 200


@BOTH_WAYS
async def test_only_a_trusted_authority_is_accepted(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    url = {"server": server.url}
    for trust in ({}, {"certificate-authority-data": inline(Authority().pem)}):
        async with transport_of(write_kubeconfig(tmp_path / "config", url | trust)) as transport:
            with pytest.raises(ClusterUnavailableError, match="CERTIFICATE_VERIFY"):
                await send(transport, "/a")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    for trusted in ({"certificate-authority": "ca.crt"}, {"insecure-skip-tls-verify": True}):
        async with transport_of(write_kubeconfig(tmp_path / "config", {**url, **trusted})) as transport:
            assert await send(transport, "/a") == 200


@BOTH_WAYS
async def test_every_header_of_ours_is_sent(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    user = {"token": "abc", "as": "ann", "as-groups": ["dev", "ops"]}
    cluster = cluster_of(server, authority, **{"disable-compression": True})
    async with transport_of(write_kubeconfig(tmp_path / "config", cluster, user)) as transport:
        assert await send(transport, "/a") == 200
    headers = server.visits[0].headers
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Impersonate-User"] == "ann"
    assert headers.getall("Impersonate-Group") == ["dev", "ops"]
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"] == "kubernaut-datastorage"
    assert "Cookie" not in headers


@BOTH_WAYS
async def test_files_that_change_are_read_again(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    authority.client("ann").write(tmp_path, "client")
    cluster = {"server": server.url, "certificate-authority": "ca.crt"}
    user = {"tokenFile": "token", "client-certificate": "client.crt", "client-key": "client.key"}
    async with transport_of(write_kubeconfig(tmp_path / "config", cluster, user), pace=AT_ONCE) as transport:
        await send(transport, "/a")
        (tmp_path / "token.new").write_text("two\n")
        (tmp_path / "token.new").rename(tmp_path / "token")
        await send(transport, "/a")
        authority.client("bob").write(tmp_path, "client")
        await send(transport, "/a")
        other = Authority("other")
        server.serve_with(other.server("127.0.0.1"))
        (tmp_path / "ca.crt").write_bytes(other.pem)
        await send(transport, "/a")
    assert server.seen("Authorization") == ["Bearer one", "Bearer two", "Bearer two", "Bearer two"]
    assert [visit.user for visit in server.visits] == ["ann", "ann", "bob", "bob"]


@BOTH_WAYS
async def test_a_kubeconfig_that_changes_is_read_again(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    """Kubelet, kubectl and cloud tools rewrite it; a half-written file is not used."""
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"token": "one"})
    async with (
        transport_of(config, pace=AT_ONCE) as transport,
        SecureServer(authority.server("127.0.0.1")) as moved,
    ):
        await send(transport, "/a")
        config.write_text("clusters:\n- name: te")
        await send(transport, "/a")
        write_kubeconfig(config, cluster_of(moved, authority), {"token": "two"})
        await send(transport, "/a")
    assert server.seen("Authorization") == ["Bearer one", "Bearer one"]
    assert moved.seen("Authorization") == ["Bearer two"]


@BOTH_WAYS
async def test_a_token_that_is_refused_is_read_again(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    (tmp_path / "token").write_text("one")
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"tokenFile": "token"})
    async with transport_of(config) as transport:
        assert await send(transport, "/a") == 200
        (tmp_path / "token").write_text("two!")
        server.answers = [status(401, "Unauthorized")]
        assert await send(transport, "/a") == 200
        assert transport.monitor.problem() is None
    assert server.seen("Authorization") == ["Bearer one", "Bearer one", "Bearer two!"]


async def test_a_body_is_sent_again_after_a_refusal(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    (tmp_path / "token").write_text("one")
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"tokenFile": "token"})
    async with transport_of(config) as transport:
        await single(transport, "/a")
        (tmp_path / "token").write_text("two!")
        server.answers = [status(401, "Unauthorized")]
        async with await transport.request("PATCH", "/a", body=b"{}", timeout=TIMEOUT) as response:
            assert response.status == 200
    assert [visit.body for visit in server.visits[1:]] == [b"{}", b"{}"]


async def test_unchanged_files_are_not_asked_about_twice(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"token": "one"})
    async with transport_of(config) as transport:
        server.always = status(401, "token expired")
        assert await single(transport, "/a") == 401
        assert transport.monitor.problem() == (
            "API server (401): it does not accept the credentials: token expired"
        )
        assert len(server.visits) == 1, "with the same credentials the answer would be the same"
        server.always = None
        assert await single(transport, "/a") == 200
        assert transport.monitor.problem() is None


async def test_kopf_waits_while_credentials_are_refused(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    """Kopf would take a 401 for the end of its session, and log in again at once, forever."""
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"token": "one"})
    async with transport_of(config) as transport:
        server.always = status(401, "token expired")
        request = asyncio.create_task(session_of(transport).request("get", "/api", timeout=TIMEOUT))
        await eventually(lambda: "(401)" in (transport.monitor.problem() or ""))
        assert not request.done()
        server.always = None
        assert (await request).status == 200


async def test_a_missing_right_is_named_until_it_is_there(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority))
    async with transport_of(config) as transport:
        server.always = status(403, 'User "x" cannot watch resource "auditrecords"')
        request = asyncio.create_task(
            session_of(transport).request("get", f"{RECORDS}?watch=true", timeout=TIMEOUT)
        )
        problem = (
            f'API server (403): no right to watch {RECORDS}: User "x" cannot watch resource "auditrecords"'
        )
        await eventually(lambda: transport.monitor.problem() == problem)
        server.answers = []
        # Another request is no proof of this right.
        monitor = transport.monitor
        monitor.accepted("list /other")
        assert monitor.problem() == problem
        server.always = None
        assert (await request).status == 200
        assert transport.monitor.problem() is None


@pytest.mark.parametrize("code", [401, 500, 503, 504])
async def test_a_server_in_trouble_is_left_for_another_connection(
    tmp_path: Path, server: SecureServer, authority: Authority, code: int
) -> None:
    """Behind a load balancer, only a new connection reaches an API server that works."""
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"token": "one"})
    async with transport_of(config, pace=AT_ONCE) as transport:
        await single(transport, "/a")
        await single(transport, "/a")
        server.answers = [status(code, "etcd is away")]
        await single(transport, "/a")
        await single(transport, "/a")
        await single(transport, "/a")
    first, second, third, fourth, fifth = (visit.connection for visit in server.visits)
    assert first == second == third
    assert third != fourth
    assert fourth == fifth


@BOTH_WAYS
async def test_redirects_are_not_followed(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    server.always = lambda _: web.Response(status=302, headers={"Location": "https://login.example/"})
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), {"token": "one"})
    async with transport_of(config) as transport:
        with pytest.raises(ClusterUnavailableError, match=r"API server \(302\)"):
            await send(transport, "/a")
    assert len(server.visits) == 1


@pytest.mark.timeout(60)
@BOTH_WAYS
async def test_a_proxy_that_falls_silent_is_not_waited_for(
    tmp_path: Path, server: SecureServer, authority: Authority, send: Send
) -> None:
    """A watch has no time limit as a whole, and aiohttp has none for the answer of a proxy."""

    class Silent(ConnectProxy):
        async def _serve(self, reader: Any, writer: Any) -> None:
            del writer
            await reader.read()

    async with Silent() as proxy:
        cluster = cluster_of(server, authority, **{"proxy-url": proxy.url})
        config = write_kubeconfig(tmp_path / "config", cluster)
        async with transport_of(config, pace=TransportPace(headers_seconds=0.1)) as transport:
            with pytest.raises(ClusterUnavailableError, match="no answer in time"):
                await send(transport, "/a", aiohttp.ClientTimeout(total=None))


@needs_ipv6
@BOTH_WAYS
async def test_an_ipv6_address_of_the_server(tmp_path: Path, authority: Authority, send: Send) -> None:
    async with SecureServer(authority.server("::1"), host="::1") as server:
        config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority))
        async with transport_of(config) as transport:
            assert await send(transport, "/a") == 200


@pytest.mark.parametrize("part", ["client-certificate", "client-key"])
async def test_a_pair_that_does_not_fit_is_one_line(
    tmp_path: Path, server: SecureServer, authority: Authority, part: str
) -> None:
    one, other = authority.client("ann"), authority.client("bob")
    user = {
        "client-certificate-data": inline(one.certificate),
        "client-key-data": inline(other.key if part == "client-key" else b"none"),
    }
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority), user)
    with pytest.raises(ConfigurationError, match="client-certificate and client-key do not fit together"):
        async with transport_of(config):
            pass


async def test_a_closed_session_says_so_as_aiohttp_does(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    config = write_kubeconfig(tmp_path / "config", cluster_of(server, authority))
    async with transport_of(config) as transport:
        session = session_of(transport)
        await session.close()
        assert session.closed
        with pytest.raises(RuntimeError):
            await session.request("get", "/a", timeout=TIMEOUT)
        assert await single(transport, "/a") == 200, "the transport goes on"


async def test_authorities_without_key_identifiers_are_accepted() -> None:
    """Python 3.13 refuses them by default. kubectl accepts them, and many clusters have them."""
    authority = Authority()
    endpoint = Endpoint(source="a test", server="https://x", authorities=authority.pem.decode())
    connection = await Credentials(lambda: endpoint, CredentialsPace(), time.monotonic).current()
    assert connection.tls is not None
    assert not connection.tls.verify_flags & ssl.VERIFY_X509_STRICT


async def test_files_that_could_not_be_read_are_tried_again(
    tmp_path: Path, server: SecureServer, authority: Authority
) -> None:
    """The cause need not show in the file: missing rights on a folder, or no memory for a moment."""
    seen = tmp_path / "seen"
    seen.write_text("one")
    loads = 0

    def load() -> Endpoint:
        nonlocal loads
        loads += 1
        if loads == 3:  # the first look at a new set of files is followed by another one
            raise ConfigurationError("out of reach")
        return Endpoint(
            source="a test", server=server.url, authorities=authority.pem.decode(),
            authorization=f"Bearer {seen.read_text()}", files=(seen,),
        )  # fmt: skip

    async with Transport(load, AT_ONCE) as transport:
        await single(transport, "/a")
        seen.write_text("two!")
        await single(transport, "/a")
        await single(transport, "/a")
        await single(transport, "/a")
    assert loads == 4, "and not once more"
    assert server.seen("Authorization") == [
        "Bearer one",
        "Bearer one",
        "Bearer two!",
        "Bearer two!",
    ]
