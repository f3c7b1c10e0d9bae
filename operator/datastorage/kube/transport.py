"""Sends requests to the API server: single ones, and those of Kopf's watches.

Proxy, TLS and credentials come from credentials.py for each request. The transport reports missing
credentials and rights to accessmonitor.py. It knows no particular resource.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.kube.accessmonitor import AccessMonitor, Right
from datastorage.kube.answers import error_of, message_of, parsed
from datastorage.kube.apirequest import ApiRequest
from datastorage.kube.credentials import ConnectionSettings, Credentials, CredentialsPace
from datastorage.kube.endpoint import Endpoint
from datastorage.resilience.causes import connection_trouble

USER_AGENT: Final = "kubernaut-datastorage"
# The total includes the body.
_CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
# The limit on unread data. It need not hold a whole event, which has up to 1.5 MiB.
_READ_BUFFER_BYTES: Final = 256 * 1024
# Several times what the largest object takes, and far more than a description of an error. What sends more
# is no API server, and must not fill the memory.
_MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 1024 * 1024
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
# The message of an error answer to a request with a secret.
_WITHHELD: Final = "its text is not shown, because the request contains a secret"


@dataclass(frozen=True, slots=True)
class TransportPace:
    """How long the transport waits."""

    headers_seconds: float = 30.0
    """From the opening of the connection to the last header of the answer, including proxies and handshakes.
    Even a watch sends its headers at once; its events come later."""
    credentials: CredentialsPace = field(default_factory=CredentialsPace)


class AnswerTooLargeError(Exception):
    """The answer is larger than the caller wants to hold."""


class Transport:
    """Sends each request with the current connection settings. It is a context manager, which closes it."""

    def __init__(
        self,
        load: Callable[[], Endpoint],
        pace: TransportPace = TransportPace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``load`` reads the API server's address and our identity (endpoint.py). ``clock`` is in seconds."""
        self.monitor = AccessMonitor()
        self._credentials = Credentials(load, pace.credentials, clock)
        self._headers_seconds = pace.headers_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Read the configuration. Raises ConfigurationError if there is none, or if it is wrong."""
        await self._credentials.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        request: ApiRequest,
        *,
        timeout: aiohttp.ClientTimeout = _CALL_TIMEOUT,  # noqa: ASYNC109  # also bounds the reading of the body
        max_bytes: int | None = None,
        repeated: bool = False,
        review_right: bool = False,
    ) -> dict[str, Any]:
        """Send a request and return the JSON object of the answer.

        ``repeated`` means that the caller repeats the request until it succeeds, so a missing right is noted
        until then. ``review_right`` means that the right is reviewed after a refusal (403); see
        rightsreview.py.

        Raises a ClusterError, which names the object, and AnswerTooLargeError for more than ``max_bytes``.
        """
        target = request.target
        try:
            response = await self.request(
                request.method,
                request.path,
                headers=request.headers,
                body=request.payload,
                timeout=timeout,
                right=f"{request.verb} {target.path}" if repeated else None,
                has_secret=request.has_secret,
            )
            async with response:
                answer = await _read(response, max_bytes)
        except ClusterUnavailableError as error:
            raise ClusterUnavailableError(f"{target}: {error}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterUnavailableError(f"{target}: API server: {connection_trouble(error)}") from error
        if response.status == _FORBIDDEN and review_right:
            self.monitor.suspect(Right.of(request))
        if response.status >= 400:
            raise error_of(response.status, _WITHHELD.encode() if request.has_secret else answer, target)
        return parsed(answer, target)

    async def request(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # also bounds the reading of the body, later on
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        right: str | None = None,
        has_secret: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer as soon as its headers have arrived, whatever its status.

        ``right`` names the right to a request that is repeated until it succeeds. ``has_secret``: see
        ApiRequest. Raises ClusterUnavailableError if there are no credentials or no answer.
        """
        response = await self._authenticated(method, path, headers=headers, body=body, timeout=timeout)
        if response.status >= 400:
            await _keep_description(response)
        if response.status == _UNAUTHORIZED:
            message = _WITHHELD if has_secret else await _message(response)
            self.monitor.not_authenticated(f"API server (401): it does not accept the credentials: {message}")
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
        """Send the request; after a 401, send it once more with other credentials, if there are any."""
        with self._credentials_monitored():
            connection = await self._credentials.current()
        response = await self._send(connection, method, path, **arguments)
        if response.status != _UNAUTHORIZED:
            return response
        try:
            with self._credentials_monitored():
                other = await self._credentials.renewed(connection)
        except BaseException:
            response.close()
            raise
        if other is None:
            return response
        response.close()
        return await self._send(other, method, path, **arguments)

    @contextmanager
    def _credentials_monitored(self) -> Iterator[None]:
        """Report to the monitor if there are no credentials, and why."""
        try:
            yield
        except (ClusterUnavailableError, ConfigurationError) as error:
            self.monitor.not_authenticated(str(error))
            # Files that were valid at the start have changed on disk, and may be corrected there.
            raise ClusterUnavailableError(str(error)) from error

    async def _send(
        self,
        connection: ConnectionSettings,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._headers_seconds):
                response = await self._open_session().request(
                    method,
                    connection.server + path,
                    headers=[*connection.headers, *(headers or {}).items()],
                    data=body,
                    timeout=timeout,
                    ssl=connection.tls if connection.tls is not None else True,
                    server_hostname=connection.server_name,
                    proxy=connection.proxy,
                    # Credentials are for this server alone, and an API server never redirects.
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ClusterUnavailableError(f"API server: {_trouble(error)}") from error
        if 300 <= response.status < 400:
            response.close()
            raise ClusterUnavailableError(
                f"API server ({response.status}): it redirects requests; "
                f"is {connection.server} an API server?"
            )
        return response

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The callers bound the number of requests; watches must not wait for each other.
                connector=aiohttp.TCPConnector(limit=0),
                headers={"User-Agent": USER_AGENT},
                # With a load balancer's cookie, all requests would go to one API server.
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER_BYTES,
                # aiohttp would look for a netrc file and for proxies before each request, through a thread: a
                # third of a request's CPU time. The environment's proxy is in the Endpoint.
                trust_env=False,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse, max_bytes: int | None) -> bytes:
    if response.status >= 400:  # its body has been read already
        return await response.read()
    try:
        return await _read_up_to(response, max_bytes or _MAX_ANSWER_BYTES)
    except AnswerTooLargeError:
        if max_bytes is not None:
            raise
        raise ClusterUnavailableError(
            f"API server: the answer has more than {_MAX_ANSWER_BYTES:,} bytes; "
            "is it an API server that answers?"
        ) from None


async def _read_up_to(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > max_bytes:
            response.close()
            raise AnswerTooLargeError
    return bytes(answer)


async def _keep_description(response: aiohttp.ClientResponse) -> None:
    """Read the body of an error, so that its readers get it from memory.

    Raises ClusterUnavailableError if it has no end. A body that breaks off raises at its first reader.
    """
    try:
        body = await _read_up_to(response, _MAX_ERROR_BYTES)
    except AnswerTooLargeError:
        raise ClusterUnavailableError(
            f"API server ({response.status}): the error has more than {_MAX_ERROR_BYTES:,} bytes; "
            "is it an API server that answers?"
        ) from None
    except (aiohttp.ClientError, OSError, TimeoutError):
        return
    response._body = body  # noqa: SLF001  # where the library keeps what it has read


def _trouble(error: Exception) -> str:
    """Return a description of the error without the password in a proxy's URL."""
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
    """Return the message of a refusal. The caller can read the body again."""
    try:
        body = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return response.reason or ""
    return message_of(body)
