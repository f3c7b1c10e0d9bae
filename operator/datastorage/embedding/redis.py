"""The Redis that all replicas share: used while it answers at once, left alone for a while when not."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from datastorage.errors import ConfigurationError
from datastorage.resilience.cancellation import cancellation_kept
from datastorage.resilience.causes import connection_trouble
from datastorage.secrets import Origin, Secret
from datastorage.settings import PREFIX

T = TypeVar("T")
_log = logging.getLogger(__name__)

# For each use, connecting included. Making a batch's vectors anew takes about as long.
_TIMEOUT_SECONDS: Final = 0.05
# For the first connection, in several tries. Nothing waits for it but the start.
_CONNECT_SECONDS: Final = 1.0
# How long it is left alone after the first, the second and every further failure in a row: an absent Redis
# must cost the write path next to nothing.
_PAUSES_SECONDS: Final = (1.0, 2.0, 5.0)
# Far more than there are uses at once: to want one more counts as a failure.
_MAX_CONNECTIONS: Final = 64
# From the end of one outage to the first word about the next: a busy machine may cause many short ones.
_QUIET_SECONDS: Final = 30.0
# What a URL may ask for beside its address. The rest would override what makes a use short and safe.
_OPTIONS: Final = re.compile(r"db|username|password|ssl_[a-z_]+")
# Those of them that name files, whose contents are exchanged as passwords are.
_FILE_OPTIONS: Final = re.compile(r"ssl_(certfile|keyfile|ca_certs|ca_path)")


class RedisStore:
    """Bytes by key that live for a while. Nothing here raises once it is made."""

    def __init__(self, url: str | Origin, ttl_seconds: int) -> None:
        """Nothing is asked yet. Raises ConfigurationError when the URL is malformed."""
        origin = Origin(f"{PREFIX}REDIS_URL", url) if isinstance(url, str) else url
        self._secret = Secret(origin, _client, _files_in)
        self._using = self._secret.current()
        self._client = _client(self._using.value)
        self._retiring: set[asyncio.Task[None]] = set()
        self._ttl_seconds = ttl_seconds
        self._outage = _Outage()

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return a value or None for each key, in their order."""
        values = await self._use("get", lambda client: client.mget(keys))
        if not isinstance(values, list) or len(values) != len(keys):
            return [None] * len(keys)
        return [value if isinstance(value, bytes) else None for value in values]

    async def set(self, values: Mapping[str, bytes]) -> None:
        """Keep values."""

        async def send(client: "Redis") -> None:
            pipeline = client.pipeline(transaction=False)
            for key, value in values.items():
                pipeline.set(key, value, ex=self._ttl_seconds)
            await pipeline.execute()

        await self._use("set", send)

    async def connect(self, key: str) -> None:
        """Connect before the first use: amid the start that may take longer than a use may. See ``check``."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await self._client.ping()
            except Exception:  # noqa: BLE001  # whatever it is, the check below tells of it
                await asyncio.sleep(_TIMEOUT_SECONDS)
            else:
                break
        await self.check(key)

    async def check(self, key: str) -> str | None:
        """Return what is wrong, or None. It writes ``key``, which nobody reads: a replica answers pings."""
        if self._outage.refuses("set"):
            await self._use("ping", lambda client: client.ping())
        else:
            await self._use("set", lambda client: client.set(key, b"", ex=self._ttl_seconds))
        return self._outage.reason

    async def close(self) -> None:
        """Close the connections."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await _close(self._client)

    async def _use(self, use: str, operation: Callable[["Redis"], Awaitable[T]]) -> T | None:
        current = self._secret.current()
        trouble: Exception | None = None
        if current != self._using:
            self._using = current
            trouble = self._renew()
        elif not self._outage.may_try(use):
            return None
        elif self._outage.refuses(use):
            # What is still done well goes on over connections to the server that refused this.
            trouble = self._renew()
        if trouble is not None:
            self._outage.failed(use, trouble)
            return None
        client = self._client
        try:
            with cancellation_kept():
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    result = await operation(client)
        except Exception as error:  # noqa: BLE001  # a library's surprise must not cost a record either
            if client is self._client:  # once for all uses that fail by it
                # The name may lead elsewhere by now, and the server that was connected may be a replica.
                trouble = self._renew()
            self._outage.failed(use, trouble or error)
            return None
        self._outage.succeeded(use)
        return result

    def _renew(self) -> ConfigurationError | None:
        """Make all connections anew from now on; return what keeps the old ones in use.

        That is a file which is missing or broken by now. It is read again with the next failure or change.
        """
        try:
            client = _client(self._using.value)
        except ConfigurationError as error:
            return error
        task = asyncio.create_task(_retire(self._client))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        self._client = client
        return None


class _Outage:
    """Whether Redis is left alone, and one line in the log for the beginning and the end of that."""

    def __init__(self) -> None:
        self.reason: str | None = None
        # Until when each use is left alone that Redis answers but refuses, a write to a full one for example.
        # The other uses go on, and each of these has to succeed before the outage is over. While there are
        # none, Redis as a whole is away.
        self._refused: dict[str, float] = {}
        self._failures = 0
        self._told = False
        self._skipped = 0
        self._since = self._until = self._quiet_until = 0.0
        self._up = metrics.DEPENDENCY_UP.labels("redis")
        self._errors = metrics.DEPENDENCY_ERRORS.labels("redis")
        self._unused = metrics.CACHE_ERRORS.labels("unavailable")
        self._up.set(1)

    def refuses(self, use: str) -> bool:
        return use in self._refused

    def may_try(self, use: str) -> bool:
        if self.reason is None or (self._refused and use not in self._refused):
            return True
        if time.monotonic() < self._refused.get(use, self._until):
            self._skip()
            return False
        self._pause(use)  # one tries, while the others go on without
        return True

    def failed(self, use: str, error: Exception) -> None:
        self._errors.inc()
        if self.reason is None:
            self._failures, self._since = 0, time.monotonic()
            self._up.set(0)
        self._skip()
        self.reason = _cause(error)
        if not self._told and time.monotonic() >= self._quiet_until:
            self._told = True
            _log.warning("redis does not serve", extra={"error": self.reason})
        self._failures += 1
        if isinstance(error, ResponseError):
            self._refused[use] = 0.0
        else:
            self._refused.clear()
        self._pause(use)

    def succeeded(self, use: str) -> None:
        if self.reason is None:
            return
        self._refused.pop(use, None)
        if self._refused:
            return
        self.reason = None
        self._up.set(1)
        if self._told:
            away = round(time.monotonic() - self._since, 1)
            _log.warning("redis serves again", extra={"away_seconds": away, "skipped_uses": self._skipped})
            self._told, self._skipped = False, 0
            self._quiet_until = time.monotonic() + _QUIET_SECONDS

    def _skip(self) -> None:
        self._skipped += 1
        self._unused.inc()

    def _pause(self, use: str) -> None:
        until = time.monotonic() + _PAUSES_SECONDS[min(self._failures, len(_PAUSES_SECONDS)) - 1]
        if use in self._refused:
            self._refused[use] = until
        else:
            self._until = until


async def _retire(client: "Redis") -> None:
    """Close a client when the uses that have begun with it have ended."""
    try:
        await asyncio.sleep(2 * _TIMEOUT_SECONDS)
    finally:
        await _close(client)


async def _close(client: "Redis") -> None:
    with contextlib.suppress(RedisError, OSError):
        await client.aclose()


def _files_in(url: str) -> list[str]:
    return [
        values[-1] for name, values in parse_qs(urlsplit(url).query).items() if _FILE_OPTIONS.fullmatch(name)
    ]


def _client(url: str) -> "Redis":
    try:
        _check_url(url)
        client = Redis.from_url(
            url,
            protocol=2,  # one round trip less at the beginning, and no messages that nobody asked for
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            max_connections=_MAX_CONNECTIONS,
        )
        # Not opened: only now the options are looked at.
        connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        # The library quotes the URL, which has a password in it.
        raise ConfigurationError(
            f"{PREFIX}REDIS_URL is no URL of a Redis like redis://:password@host:6379/0"
        ) from None
    if isinstance(connection, SSLConnection):
        _check_tls(connection)
    return client


def _check_tls(connection: SSLConnection) -> None:
    """Load what a connection would load: a file that is missing would look like a Redis that is away."""
    context = connection.ssl_context
    files = {"ca_certs": context.ca_certs, "certfile": context.certfile, "keyfile": context.keyfile}
    for option, path in files.items():
        try:
            if path is not None:
                Path(path).open("rb").close()
        except (OSError, ValueError) as error:  # the latter for what is no path
            raise ConfigurationError(
                f"{PREFIX}REDIS_URL: ssl_{option} names {path}, which can't be read "
                f"({connection_trouble(error)})"
            ) from None
    try:
        context.get()
    except (OSError, ValueError, TypeError) as error:  # an error of TLS is one of the system
        raise ConfigurationError(
            f"{PREFIX}REDIS_URL: its certificates or TLS options can't be used ({connection_trouble(error)})"
        ) from None


def _check_url(url: str) -> None:
    """Raise ValueError for what the library would obey or pass over in silence."""
    parts = urlsplit(url)
    if parts.fragment:
        raise ValueError("a password that is not percent-encoded")
    if parts.scheme != "unix" and not re.fullmatch("/?|/[0-9]+/?", parts.path):
        raise ValueError("no number of a database")
    for option in parse_qs(parts.query, keep_blank_values=True):
        if not _OPTIONS.fullmatch(option):
            raise ValueError(option)


def _cause(error: Exception) -> str:
    """Return what is wrong, in words that contain no password."""
    if isinstance(error, ConfigurationError):
        return str(error)
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS * 1000:g} ms"
    if isinstance(error, AuthenticationError):
        return "it refuses the password"
    if isinstance(error, ResponseError):
        return f"it refuses to serve ({type(error).__name__})"
    return f"no connection ({connection_trouble(error)})"
