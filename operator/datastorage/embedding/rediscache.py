"""Caches values in the Redis that all replicas share. While Redis fails or is slow, it is not used."""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from datastorage import metrics
from datastorage.embedding.retiring import RetiredClients
from datastorage.errors import ConfigurationError, TransientError
from datastorage.resilience.breaker import Breaker, Pace
from datastorage.resilience.cancellation import cancellation_kept
from datastorage.resilience.causes import connection_trouble
from datastorage.secrets import Origin, Secret
from datastorage.variables import PREFIX

T = TypeVar("T")

# Far more than are in use at a time. If none is free, that counts as a failure.
_MAX_CONNECTIONS: Final = 64
# The key of a value that is never read: a read-only replica answers pings, so only a write shows that vectors
# can be kept.
_CHECK_KEY: Final = "datastorage:vector:check"
# The options that a URL may have. Others would override the limits that make a use short and safe.
_OPTIONS: Final = re.compile(r"db|username|password|ssl_[a-z_]+")
# The options that name files. Their contents may change, for example when a certificate is renewed.
_FILE_OPTIONS: Final = re.compile(r"ssl_(certfile|keyfile|ca_certs|ca_path)")


@dataclass(frozen=True)
class Limits:
    """Limits on the time that Redis may take."""

    use_seconds: float = 0.05
    """For each use, including connecting. Making a batch's vectors again takes about as long."""
    connect_seconds: float = 1.0
    """For the first connection, in several tries. Only the program's start waits for it."""
    pace: Pace = Pace(first=1.0, max=5.0, remind=math.inf, quiet=30.0)
    """The pauses after failures. An absent Redis must take almost no time. On a busy machine, where uses are
    often too slow for a moment, the log must not be flooded."""


class RedisStore:
    """Stores bytes by key for a limited time. No method raises.

    While Redis does not answer, or refuses writes, it is not used, not even for reads.
    """

    def __init__(self, url: str | Origin, ttl_seconds: int, *, limits: Limits = Limits()) -> None:
        """Nothing is sent yet. Raises ConfigurationError if the URL is malformed."""
        origin = Origin(f"{PREFIX}REDIS_URL", url) if isinstance(url, str) else url
        self._limits = limits
        self._secret = Secret(origin, self._new_client, _files_in)
        self._using = self._secret.current()
        self._client = self._new_client(self._using.value)
        self._retired = RetiredClients()
        self._ttl_seconds = ttl_seconds
        # The probe is a write, so it shows as much as a use: an outage ends although no record comes.
        self._breaker = Breaker(metrics.Dependency.REDIS, self._probe, trial=self._probe, pace=limits.pace)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return a value or None for each key, in their order."""
        values = await self._use(lambda client: client.mget(keys))
        if not isinstance(values, list) or len(values) != len(keys):
            return [None] * len(keys)
        return [value if isinstance(value, bytes) else None for value in values]

    async def set(self, values: Mapping[str, bytes]) -> None:
        """Store values by key for ``ttl_seconds``."""

        async def send(client: Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for key, value in values.items():
                pipeline.set(key, value, ex=self._ttl_seconds)
            await pipeline.execute()

        await self._use(send)

    async def connect(self) -> None:
        """Connect before the first use: while the program starts, that may take longer than a use may."""
        deadline = time.monotonic() + self._limits.connect_seconds
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(self._limits.use_seconds):
                    await self._client.ping()
            except Exception:  # noqa: BLE001  # whatever it is, check() reports it
                await asyncio.sleep(self._limits.use_seconds)
            else:
                break
        await self.check()

    async def check(self) -> str | None:
        """Write a value that is never read; return a description of what is wrong with Redis, or None."""
        if self._breaker.serving:
            await self._use(self._write)
        return self._breaker.reason

    async def close(self) -> None:
        """Close the connections."""
        await self._breaker.close()  # first, because its probe uses the connections
        await self._retired.close()
        await _close(self._client)

    async def _use(self, operation: Callable[[Redis], Awaitable[T]]) -> T | None:
        try:
            return await self._breaker.attempt(lambda: self._ask(operation))
        except TransientError:
            metrics.CACHE_ERRORS.labels(metrics.CacheError.UNAVAILABLE).inc()
            return None

    async def _probe(self) -> None:
        await self._ask(self._write)

    async def _write(self, client: Redis) -> None:
        await client.set(_CHECK_KEY, b"", ex=self._ttl_seconds)

    async def _ask(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """Return the operation's result. Raises TransientError whenever Redis does not give one."""
        current = self._secret.current()
        if current != self._using:
            self._using = current
            self._renew()
        client = self._client
        try:
            with cancellation_kept():
                async with asyncio.timeout(self._limits.use_seconds):
                    return await operation(client)
        except Exception as error:  # an unexpected error of a library must not cost a record either
            if client is self._client:  # only one of the uses that fail with a client replaces it
                # The host name may lead to another server, and this one may have become a replica.
                self._renew()
            raise TransientError(self._cause(error)) from error

    def _renew(self) -> None:
        """Use new connections from now on.

        While a file is missing or broken, raises TransientError, and the old connections stay in use. The
        file is read again after the next failure or change.
        """
        try:
            client = self._new_client(self._using.value)
        except ConfigurationError as error:
            raise TransientError(str(error)) from error
        self._retired.add(partial(_close, self._client), after_seconds=2 * self._limits.use_seconds)
        self._client = client

    def _new_client(self, url: str) -> Redis:
        return _client(url, self._limits.use_seconds)

    def _cause(self, error: Exception) -> str:
        """Return a description of the error that contains no password."""
        if isinstance(error, TimeoutError | RedisTimeoutError):
            return f"no answer within {self._limits.use_seconds * 1000:g} ms"
        if isinstance(error, AuthenticationError):
            return "it refuses the password"
        if isinstance(error, ResponseError):
            return f"it refuses to serve ({type(error).__name__})"
        return f"no connection ({connection_trouble(error)})"


async def _close(client: Redis) -> None:
    with contextlib.suppress(RedisError, OSError):
        await client.aclose()


def _files_in(url: str) -> list[str]:
    return [
        values[-1] for name, values in parse_qs(urlsplit(url).query).items() if _FILE_OPTIONS.fullmatch(name)
    ]


def _client(url: str, timeout_seconds: float) -> Redis:
    try:
        _check_url(url)
        client = Redis.from_url(
            url,
            protocol=2,  # one round trip less per connection, and no push messages
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            max_connections=_MAX_CONNECTIONS,
        )
        # The connection is not opened, but its constructor checks the options.
        connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        # The library quotes the URL, which has a password in it.
        raise ConfigurationError(
            f"{PREFIX}REDIS_URL is not a Redis URL like redis://:password@host:6379/0"
        ) from None
    if isinstance(connection, SSLConnection):
        _check_tls(connection)
    return client


def _check_tls(connection: SSLConnection) -> None:
    """Load the files that a connection would load: a missing one would look like an absent Redis."""
    context = connection.ssl_context
    files = {"ca_certs": context.ca_certs, "certfile": context.certfile, "keyfile": context.keyfile}
    for option, path in files.items():
        try:
            if path is not None:
                Path(path).open("rb").close()
        except (OSError, ValueError) as error:  # ValueError for an invalid path
            raise ConfigurationError(
                f"{PREFIX}REDIS_URL: ssl_{option} names {path}, which can't be read "
                f"({connection_trouble(error)})"
            ) from None
    try:
        context.get()
    except (OSError, ValueError, TypeError) as error:  # an SSLError is an OSError
        raise ConfigurationError(
            f"{PREFIX}REDIS_URL: its certificates or TLS options can't be used ({connection_trouble(error)})"
        ) from None


def _check_url(url: str) -> None:
    """Raise ValueError if a URL has elements that are not allowed, or that the library would ignore."""
    parts = urlsplit(url)
    if parts.fragment:
        raise ValueError("a password that is not percent-encoded")
    if parts.scheme != "unix" and not re.fullmatch("/?|/[0-9]+/?", parts.path):
        raise ValueError("no number of a database")
    for option in parse_qs(parts.query, keep_blank_values=True):
        if not _OPTIONS.fullmatch(option):
            raise ValueError(option)
