"""One server of the REST API: sends requests that are bounded in time and size, and reads the answers.

A token goes to the server that was named, and to no other: redirects are not followed. It goes over TLS, or
to this machine itself, unless the caller allows plain HTTP (client/opening.py).
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol, Self

import aiohttp
from pydantic import SecretStr
from yarl import URL

from datastorage import __version__
from datastorage.client.problems import error_of, not_an_answer, retry_after
from datastorage.errors import ConfigurationError, DataStorageError, NotAuthenticatedError, TransientError
from datastorage.query.encoding import encoded
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.causes import connection_trouble

JSON: Final = "application/json"
# Answers that the same request may not get again a moment later.
BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a client waits, and how much it reads."""

    connect_seconds: float = 5.0
    """For a connection. A server in reach takes some milliseconds."""
    answer_seconds: float = 60.0
    """For a whole answer. The server takes 10 s at most to find it; the largest has some 40 MB."""
    patience_seconds: float = 15.0
    """A question is put again for so long while the server is busy (429, 503): a person waits for it."""
    first_pause_seconds: float = 0.5
    """Before the second try, if the server names no time. The pause doubles with each try."""
    max_pause_seconds: float = 5.0
    answer_bytes: int = 256 * 1024 * 1024
    """The records of an answer have 32 MiB and one record more, and JSON may spell them out at length."""


class TokenSource(Protocol):
    """Where the token of a request comes from (client/tokens.py)."""

    async def token(self) -> SecretStr | None:
        """Return the token as it is now, or None if there is none to send.

        Raises ConfigurationError if it can't be read, and TransientError if it can't be had now.
        """
        ...

    @property
    def advice(self) -> str:
        """A sentence for a caller whose token the server did not accept: what to do."""
        ...


@dataclass(frozen=True)
class Answer:
    """An answer of the server, whatever its status."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """The parsed body. Raises ConfigurationError if it is not JSON, as a proxy's page."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise not_an_answer(self.status) from None


class Server:
    """Sends requests to one server. It is a context manager, which closes the connections.

    Every method raises TransientError while the server can't be reached or can't serve, and the error of
    client/problems.py for a request that it refuses.
    """

    def __init__(
        self,
        url: URL,
        tokens: TokenSource,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        proxy: str | None = None,
        pace: Pace = Pace(),
    ) -> None:
        """``tls`` is for https alone. ``server_name`` is the name in its certificate, if another than in the
        URL.
        """
        self._url = str(url).rstrip("/")
        self._name = f"{url.host}:{url.port}"
        self._tokens = tokens
        self._tls = tls
        self._server_name = server_name
        self._proxy = proxy
        self._pace = pace
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Connect to nothing yet."""
        self._session = aiohttp.ClientSession(
            headers={"User-Agent": f"kubernaut-datastorage/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # The environment's proxies were looked at where the server was named; a netrc file is not.
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Put a question and return the answer's JSON; with a body, the question is a POST.

        While the server is busy, the question is put again for some seconds.
        """
        answer = await self.patiently(
            "GET" if body is None else "POST",
            path,
            query=query,
            content=None if body is None else encoded(body),
            content_type=None if body is None else JSON,
        )
        return answer.json

    async def patiently(self, method: str, path: str, **request: Any) -> Answer:
        """Send a question, again while the server is busy; return the answer, whose status is 2xx."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._pace.patience_seconds
        backoff = Backoff(self._pace.first_pause_seconds, self._pace.max_pause_seconds)
        while True:
            answer = await self.send(method, path, **request)
            if answer.status < 300:
                return answer
            pause = retry_after(answer.headers) or backoff.next()
            if answer.status not in BUSY or loop.time() + pause > deadline:
                raise await self.refusal(answer)
            await asyncio.sleep(pause)

    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """Put a question and yield the bytes of its answer as they come, however many.

        Raises TransientError where the connection breaks before the end.
        """
        # As long as something comes, there is no limit.
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._pace.connect_seconds, sock_read=self._pace.answer_seconds
        )
        async with self._responding("GET", path, timeout, query=query) as response:
            if response.status >= 300:
                raise await self.refusal(await self._answer(response))
            async for piece in response.content.iter_any():
                yield piece

    async def refusal(self, answer: Answer) -> DataStorageError:
        """Return the error that an answer of 300 or more is."""
        error = error_of(self._name, answer.status, answer.headers, answer.content)
        if isinstance(error, NotAuthenticatedError):
            return NotAuthenticatedError(f"{error}; {self._tokens.advice}")
        return error

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> Answer:
        """Send a request once and return the answer, whatever its status.

        Raises ConfigurationError and TransientError if there is no token or no answer.
        """
        timeout = aiohttp.ClientTimeout(
            total=self._pace.answer_seconds, sock_connect=self._pace.connect_seconds
        )
        async with self._responding(
            method, path, timeout, query=query, content=content, content_type=content_type
        ) as response:
            return await self._answer(response)

    @asynccontextmanager
    async def _responding(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # also bounds the reading of the body
        *,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give the answer, whose body is still to be read."""
        assert self._session is not None
        # Read again for each request: the kubelet replaces the file of a token before it expires.
        token = await self._tokens.token()
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._session.request(
                method,
                URL(self._url + path, encoded=True).with_query(query or None),
                data=content,
                headers={**headers, "Accept": f"{JSON}, application/problem+json, */*;q=0.1"},
                ssl=self._tls if self._tls is not None else True,
                server_hostname=self._server_name,
                proxy=self._proxy,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConfigurationError(
                f"{self._name}: its certificate is not trusted ({_reason(error)}): name the authority "
                "with --ca-file, and another name of the server with --tls-server-name"
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise TransientError(f"{self._name} can't be asked: {_trouble(error)}") from error

    async def _answer(self, response: aiohttp.ClientResponse) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, await self._read(response))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._pace.answer_bytes:
                response.close()
                raise not_an_answer(response.status)
        return bytes(body)


def _trouble(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    return connection_trouble(error)


def _reason(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Return why a certificate is not trusted, such as that it is for another name."""
    return getattr(error.certificate_error, "verify_message", "") or connection_trouble(error)
