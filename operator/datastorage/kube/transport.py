"""How a request gets to the API server: the same way for single requests and for Kopf's watches.

Proxy, TLS and credentials come from credentials.py with each request. What the answers say of our rights
goes to accessmonitor.py. What else an answer means is judged by the callers.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import aiohttp

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.kube.access import Access
from datastorage.kube.accessmonitor import AccessMonitor
from datastorage.kube.credentials import Credentials, Way
from datastorage.resilience.causes import connection_trouble

USER_AGENT: Final = "kubernaut-datastorage"
# From the first byte sent to the last header received, through proxies and handshakes. Watches too are
# answered at once; their events come later.
_HEADERS_SECONDS: Final = 30.0
# One event is up to 1.5 MiB; this is only what may wait unread.
_READ_BUFFER_BYTES: Final = 256 * 1024
_MAX_MESSAGE_CHARACTERS: Final = 500
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403


class Transport:
    """Sends requests, each with what is true now; a context manager."""

    def __init__(self, load: Callable[[], Access]) -> None:
        """``load`` reads where the API server is and who we are; see access.py."""
        self.monitor = AccessMonitor()
        self._credentials = Credentials(load)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Raises ConfigurationError where there is no cluster."""
        await self._credentials.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # also bounds the reading of the body, later on
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        right: str | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer as soon as its headers are here, whatever its status.

        ``right`` names what is needed for a request that is repeated until it succeeds.
        Raises ClusterUnavailableError when there are no credentials, or no answer.
        """
        response = await self._authenticated(method, path, headers=headers, body=body, timeout=timeout)
        if response.status == _UNAUTHORIZED:
            self.monitor.not_authenticated(
                f"API server (401): it does not accept the credentials: {await _message(response)}"
            )
        elif response.status == _FORBIDDEN and right is not None:
            self.monitor.forbidden(right, await _message(response))
        else:
            self.monitor.accepted(right)
        if response.status != _UNAUTHORIZED:
            self._credentials.accepted()
        if response.status == _UNAUTHORIZED or response.status >= 500:
            self._credentials.reconnect()
        return response

    async def _authenticated(self, method: str, path: str, **arguments: Any) -> aiohttp.ClientResponse:
        with self._credentials_told():
            way = await self._credentials.current()
        response = await self._send(way, method, path, **arguments)
        if response.status != _UNAUTHORIZED:
            return response
        try:
            with self._credentials_told():
                other = await self._credentials.renewed(way)
        except BaseException:
            response.close()
            raise
        if other is None:
            return response
        response.close()
        return await self._send(other, method, path, **arguments)

    @contextmanager
    def _credentials_told(self) -> Iterator[None]:
        """Tell the monitor why there are no credentials."""
        try:
            yield
        except (ClusterUnavailableError, ConfigurationError) as error:
            self.monitor.not_authenticated(str(error))
            # What was in order at the start has changed on disk, and may be mended there.
            raise ClusterUnavailableError(str(error)) from error

    async def _send(
        self,
        way: Way,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(_HEADERS_SECONDS):
                response = await self._opened().request(
                    method,
                    way.server + path,
                    headers=[*way.headers, *(headers or {}).items()],
                    data=body,
                    timeout=timeout,
                    ssl=way.tls if way.tls is not None else True,
                    server_hostname=way.server_name,
                    proxy=way.proxy,
                    # Credentials are for this server alone, and an API server sends nobody elsewhere.
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ClusterUnavailableError(f"API server: {_trouble(error)}") from error
        if 300 <= response.status < 400:
            response.close()
            raise ClusterUnavailableError(
                f"API server ({response.status}): it sends requests elsewhere; is {way.server} an API server?"
            )
        return response

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The callers bound how many requests are under way; watches must not wait for each other.
                connector=aiohttp.TCPConnector(limit=0),
                headers={"User-Agent": USER_AGENT},
                # A load balancer's cookie would bind us to one API server.
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER_BYTES,
                # aiohttp would look for a netrc file and for proxies before each request, through a thread: a
                # third of a request's CPU time. The environment's proxy is part of the Access.
                trust_env=False,
            )
        return self._session


def _trouble(error: Exception) -> str:
    """Say what went wrong in words that show no password of a proxy's URL."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers {error.status} to CONNECT ({error.message})"
        case aiohttp.ClientProxyConnectionError():
            return f"no connection to the proxy {error.host}:{error.port}: {connection_trouble(error)}"
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return f"no connection to {error.host}:{error.port}: {connection_trouble(error)}"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
    return connection_trouble(error)


async def _message(response: aiohttp.ClientResponse) -> str:
    """Return what a refusal says. The body stays there for the caller."""
    try:
        body = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return response.reason or ""
    return message_of(body)


def message_of(body: bytes) -> str:
    """Return the message of an answer with an error, which is a Status or, from a proxy, any text."""
    try:
        status = json.loads(body)
        message = str(status.get("message", "")) if isinstance(status, dict) else ""
    except (ValueError, RecursionError):
        message = body.decode("utf-8", "replace")
    return message[:_MAX_MESSAGE_CHARACTERS]
