"""Calls any service with an OpenAI-compatible ``/v1/embeddings``.

With this provider, texts leave the cluster. Errors and logs never contain the key. They also never contain
the text of a refusal, which may quote the key or a record, but name the status and its usual meaning.
"""

import asyncio
import base64
import math
import os
import ssl
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import aiohttp
import numpy as np
from yarl import URL

from datastorage.embedding.modelname import checked_model_name
from datastorage.embedding.openai_answer import (
    AnswerError,
    UnexpectedAnswerError,
    answer_limit,
    explain,
    matrix_of,
    retry_after_seconds,
    too_large,
)
from datastorage.embedding.provider import EmbedderBusyError
from datastorage.embedding.retiring import RetiredClients
from datastorage.errors import (
    ConfigurationError,
    EmbedderMisconfiguredError,
    EmbedderUnavailableError,
    EmbeddingRefusedError,
)
from datastorage.records.vector import EmbeddingModel, Matrix
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.causes import connection_trouble
from datastorage.secrets import Origin, Secret
from datastorage.settingsgroups import EmbeddingSettings
from datastorage.variables import PREFIX

T = TypeVar("T")

# The number of requests to the service at a time. Further ones wait; their time-outs begin after the wait.
_CONCURRENCY: Final = 3
# A request with all its tries and pauses may take this multiple of the time-out of one try.
_OVERALL_FACTOR: Final = 2.0
# Bytes of a refusal that are searched for the name of a field.
_MAX_REFUSAL_BYTES: Final = 8192
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}

_Options = Mapping[str, Any]


@dataclass(frozen=True)
class Pace:
    """The number of tries, and the pauses between them in seconds."""

    tries: int = 3
    """The number of tries of one request. No caller waits long enough for more."""
    first_pause: float = 0.5
    """The pause after the first failure, unless the service asks for another one; it doubles each time."""
    renew: float = 1.0
    """Between two new connections to a service that keeps refusing requests."""


class _TryAgainError(EmbedderUnavailableError):
    """The same request may succeed soon."""

    def __init__(self, message: str, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class _BusyError(_TryAgainError, EmbedderBusyError):
    """The service asks for a pause, whatever the text."""


class _FieldRefusedError(EmbeddingRefusedError):
    """The service seems to refuse an optional field of the request."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class OpenAIProvider:
    """Gets vectors of one model from one service."""

    def __init__(self, settings: EmbeddingSettings, *, url: Origin, key: Origin, pace: Pace = Pace()) -> None:
        """Nothing is sent yet. ``url`` and ``key`` may change later.

        Raises ConfigurationError when something is missing or malformed.
        """
        self._pace = pace
        self._model = EmbeddingModel("openai", _model_name(settings), settings.dimensions)
        self._url = Secret(url, _endpoint, lambda _: _trusted_files())
        self._key = Secret(key, _bearer)
        self._batch_size = settings.batch_size
        self._timeout_seconds = settings.timeout_seconds
        # A service may refuse or ignore these optional fields, so an answer is accepted in either format, and
        # its dimensions are checked. Base64 takes a quarter of the bytes, and is far quicker to parse.
        self._options: dict[str, Any] = {
            "encoding_format": "base64",
            "dimensions": settings.dimensions,
        }
        self._served_with: frozenset[str] = frozenset()
        self._turns = asyncio.Semaphore(_CONCURRENCY)
        self._session: aiohttp.ClientSession | None = None
        self._session_url = self._url.current()
        self._opened_at = 0.0
        self._was_refused = False
        self._retired = RetiredClients()

    @property
    def model(self) -> EmbeddingModel:
        """The model of the vectors."""
        return self._model

    @property
    def is_slow(self) -> bool:
        """False: most services take tenths of a second. Only the settings can know of another one."""
        return False

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text, in their order; see Provider."""
        size = self._batch_size
        chunks = [texts[start : start + size] for start in range(0, len(texts), size)]
        empty = np.empty((0, self._model.dimensions), np.float32)
        return np.concatenate([empty, *await _all(self._in_turn(chunk) for chunk in chunks)])

    async def close(self) -> None:
        """Close the connections."""
        await self._retired.close()
        if self._session is not None:
            await self._session.close()

    async def _in_turn(self, texts: Sequence[str]) -> Matrix:
        async with self._turns:
            seconds = self._timeout_seconds * _OVERALL_FACTOR
            try:
                async with asyncio.timeout(seconds) as overall:
                    return await self._until_done(texts, overall.when() or 0.0)
            except TimeoutError as error:
                raise self._unavailable(f"gave no answer within {seconds:g} s and several tries") from error

    async def _until_done(self, texts: Sequence[str], deadline: float) -> Matrix:
        pauses = Backoff(self._pace.first_pause, math.inf)
        for _ in range(1, self._pace.tries):
            try:
                return await self._try(texts)
            except _TryAgainError as error:
                pause = error.pause_seconds
                if pause is None:
                    pause = pauses.next()
                elif pause >= deadline - asyncio.get_running_loop().time():
                    raise  # the pause that the service asks for ends after the deadline
                await asyncio.sleep(pause)
        return await self._try(texts)

    async def _try(self, texts: Sequence[str]) -> Matrix:
        """Send the request; repeat it without an optional field that the service seems to refuse."""
        options = dict(self._options)
        while True:
            try:
                rows = await self._post(texts, options)
            except _FieldRefusedError as error:
                del options[error.field]
                continue
            # The field is dropped for later requests only after a success without it: a refusal may have
            # quoted a text that contains the field's name.
            for field in self._options.keys() - options.keys():
                self._options.pop(field, None)
            self._served_with = frozenset(options)
            return rows

    async def _post(self, texts: Sequence[str], options: _Options) -> Matrix:
        payload = {"model": self._model.name, "input": list(texts), **options}
        url, credentials = _endpoint(self._url.current().value)
        bearer = _bearer(self._key.current().value) or credentials
        headers = _HEADERS | ({"Authorization": bearer} if bearer else {})
        post = self._opened(url).post
        try:
            async with post(url, json=payload, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response, options, alone=len(texts) == 1)
                body = await _read_all(response, answer_limit(len(texts), self._model.dimensions))
                return matrix_of(
                    body, response.content_type, count=len(texts), dimensions=self._model.dimensions
                )
        except UnexpectedAnswerError as error:
            raise EmbedderMisconfiguredError(self._message(str(error))) from error
        except AnswerError as error:
            raise self._unavailable(str(error)) from error
        except TimeoutError as error:
            raise self._unavailable(f"gave no answer within {self._timeout_seconds:g} s") from error
        except aiohttp.ClientConnectorCertificateError as error:
            why = connection_trouble(error)
            raise EmbedderMisconfiguredError(
                self._message(
                    f"shows a certificate that is not trusted ({why}); name its authority in SSL_CERT_FILE"
                )
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _TryAgainError(self._message(f"can't be reached ({connection_trouble(error)})")) from error

    async def _refusal(
        self, response: aiohttp.ClientResponse, options: _Options, *, alone: bool
    ) -> Exception:
        status = response.status
        self._was_refused = True
        message = self._message(explain(status, self._model.name))
        if status in {400, 413, 422}:
            body = (await _read(response, _MAX_REFUSAL_BYTES)).lower()
            named = [field for field in options if field.encode() in body]
            # A service may refuse a field without naming it, if it never served a request with these fields
            # or was replaced since. So a single text is tried without them before it is refused.
            suspected = alone or not self._served_with.issuperset(options)
            field = next(iter(named or (options if suspected else [])), None)
            return _FieldRefusedError(message, field) if field else EmbeddingRefusedError(message)
        if status in {408, 429} or status >= 500:
            pause = retry_after_seconds(response.headers.get("Retry-After"), response.headers.get("Date"))
            busy = status == HTTPStatus.TOO_MANY_REQUESTS or pause is not None
            return _BusyError(message, pause) if busy else _TryAgainError(message)
        if status in {401, 403, 404, 405} or 300 <= status < 400:
            return EmbedderMisconfiguredError(message)
        return EmbedderUnavailableError(message)

    def _opened(self, url: URL) -> aiohttp.ClientSession:
        """Return the session to use; a new one after a refusal, or if address or certificates changed.

        After a refusal, the host name may lead to another server, while the connected one keeps refusing.
        """
        current, now = self._url.current(), asyncio.get_running_loop().time()
        is_refused = self._was_refused and now - self._opened_at >= self._pace.renew
        if self._session is not None and not is_refused and current == self._session_url:
            return self._session
        if self._session is not None:
            self._retired.add(self._session.close, after_seconds=self._timeout_seconds)
        self._session_url, self._opened_at, self._was_refused = current, now, False
        # The library's own context is not used: it reads the trusted certificates only once.
        trusted = ssl.create_default_context() if url.scheme == "https" else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            trust_env=False,
        )
        return self._session

    def _unavailable(self, predicate: str) -> EmbedderUnavailableError:
        return EmbedderUnavailableError(self._message(predicate))

    def _message(self, predicate: str) -> str:
        url, _ = _endpoint(self._url.current().value)
        return f"The embedding service at {url.origin()}{url.path} {predicate}"


def _model_name(settings: EmbeddingSettings) -> str:
    name = settings.model.strip()
    if not name:
        raise ConfigurationError(
            f"{PREFIX}EMBEDDING_MODEL is not set: give the name of a model that the service has"
        )
    return checked_model_name(name)


def _endpoint(value: str) -> tuple[URL, str | None]:
    """Return the endpoint without any secret, and the credentials from the setting's value."""
    name = f"{PREFIX}EMBEDDING_URL"
    if not value.strip():
        raise ConfigurationError(f"{name} is not set: give the service's base URL, like https://host/v1")
    try:
        url = URL(value.strip())
        # A "/", "?" or "#" in a password that is not percent-encoded ends the address before the host.
        beyond = f"{url.raw_path}{url.raw_query_string}{url.raw_fragment}"
        valid = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
        valid = valid and not url.raw_fragment and "@" not in beyond
    except ValueError:
        valid = False
    if not valid:  # the value may have a password in it
        raise ConfigurationError(f"{name} is not an http or https URL like https://host/v1")
    path = url.path.rstrip("/").removesuffix("/embeddings") + "/embeddings"
    return url.with_user(None).with_path(path, keep_query=True), _basic(url)


def _basic(url: URL) -> str | None:
    if url.user is None:
        return None
    pair = f"{url.user}:{url.password or ''}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _bearer(value: str) -> str | None:
    key = value.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"{PREFIX}EMBEDDING_API_KEY has characters that no key has: give it as the service issued it"
        )
    return f"Bearer {key}" if key else None


def _trusted_files() -> list[str]:
    """Return the file of trusted certificates if SSL_CERT_FILE names it, in a list."""
    path = ssl.get_default_verify_paths()
    return [path.cafile] if path.cafile and path.openssl_cafile_env in os.environ else []


async def _read_all(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = await _read(response, limit)
    if len(body) > limit:
        raise too_large()
    return body


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body, or little more than ``limit`` bytes of a longer one."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            break
    return bytes(body)


async def _all(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results, or raise the first error, with nothing left running."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
