"""Reads `/metrics` of one replica, bounded in time and size."""

from dataclasses import dataclass
from typing import Final, Self

import aiohttp
from yarl import URL

from datastorage import __version__
from datastorage.errors import ConfigurationError, TransientError
from datastorage.replicas.page import Page
from datastorage.resilience.causes import connection_trouble

_PATH: Final = "/metrics"
_NO_SUCH_PAGE: Final = (
    "it answers 404, as the port of the API does: give the port of the metrics (DATASTORAGE_METRICS_PORT)"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a reader waits, and how much it reads."""

    seconds: float = 10.0
    """For a whole page. A replica takes some hundredths; one without a free CPU takes seconds, and then its
    numbers are wanted most."""
    page_bytes: int = 8 * 1024 * 1024
    """A replica has 2,000 series at most, which take less than 300 KB."""


class PageReader:
    """Reads pages. It is a context manager, which closes the connections."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Connect to nothing yet."""
        self._session = aiohttp.ClientSession(
            # A kept connection may have been closed at its far end, and a forwarded port does not show that.
            connector=aiohttp.TCPConnector(force_close=True),
            headers={"User-Agent": f"kubernaut-datastorage/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # Replicas are in reach without a proxy, and a netrc file has no password for them.
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, url: URL) -> Page:
        """Return the page. Raises TransientError, whose message says why there is none."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=self._limits.seconds)
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                if response.status == 404:
                    raise TransientError(_NO_SUCH_PAGE)
                if response.status != 200:
                    raise TransientError(f"it answers {response.status}")
                text = await self._text(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TransientError(_trouble(error)) from error
        return Page.parsed(text)

    async def _text(self, response: aiohttp.ClientResponse) -> str:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._limits.page_bytes:
                response.close()
                raise TransientError(f"the answer has more than {self._limits.page_bytes:,} bytes")
        return body.decode("utf-8", "replace")


def metrics_url(text: str) -> URL:
    """Return the URL of a page; without a path, it is `/metrics`. Raises ConfigurationError."""
    try:
        url = URL(text)
        fits = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        fits = False
    if not fits or url.user is not None or url.password is not None:
        raise ConfigurationError(
            "--metrics-url must be the URL of a replica's metrics, such as http://127.0.0.1:9090"
        )
    return url.with_path(_PATH) if url.path in {"", "/"} else url


def _trouble(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    return connection_trouble(error)
