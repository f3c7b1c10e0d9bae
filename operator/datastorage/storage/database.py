"""The connection pool, and what can be wrong with the way to the server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlsplit

import asyncpg
from pgvector.asyncpg import register_vector

from datastorage.cancellation import cancellation_kept
from datastorage.causes import connection_trouble
from datastorage.errors import ConfigurationError, MissingRightsError, TransientError
from datastorage.storage.schema import ARCHIVE, Chain, check_schema_version
from datastorage.storage.translation import one_line, translated_errors

# After this long without an answer a statement is given up; a dead peer shows in no other way.
_COMMAND_TIMEOUT_SECONDS: Final = 30.0
_CONNECT_TIMEOUT_SECONDS: Final = 5.0
# A statement that was given up has to be cancelled at the server before its connection can be used again. A
# server that has fallen silent will not answer that either: then the connection is thrown away.
_RELEASE_TIMEOUT_SECONDS: Final = 1.0
_MAX_PORT: Final = 65_535
_VECTOR_SCHEMA: Final = """
    SELECT n.nspname FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""


@asynccontextmanager
async def transaction(connection: Any, *, readonly: bool = False) -> AsyncIterator[None]:
    """Open a transaction, or a savepoint within one: commit it in the end, roll it back on an error.

    When the task is cancelled the connection is closed, which rolls back too: to be told so by a server that
    may be silent takes up to half a minute.
    """
    opened = connection.transaction(readonly=readonly)
    try:
        await opened.start()
        try:
            yield
        except Exception:
            await opened.rollback()
            raise
        await opened.commit()
    except asyncio.CancelledError:
        with suppress(asyncpg.InterfaceError):  # a savepoint within has closed it already
            connection.terminate()
        raise


@contextmanager
def connecting(server: str, setting: str) -> Iterator[None]:
    """Raise TransientError, which names the server, when no connection to it comes about.

    Where the driver can't make sense of the URL: ConfigurationError, which names the setting.
    """
    try:
        yield
    except asyncpg.InterfaceError:
        raise  # some are ValueErrors too
    except (OSError, TimeoutError) as error:  # first: a certificate that is not trusted is a ValueError too
        why = connection_trouble(error)
        if why == type(error).__name__:  # the system has no word for it, and the driver may have
            why = one_line(error)
        raise TransientError(f"{server} can't be reached: {why}") from error
    except (ValueError, IndexError, OverflowError):
        raise _malformed(setting) from None  # they quote parts of the URL
    except asyncpg.InsufficientPrivilegeError as error:
        raise MissingRightsError(f"{server} refuses the connection: {one_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise TransientError(f"{server} refuses the connection: {one_line(error)}") from error


def address_in(url: str) -> str:
    """Return where a URL leads, without user and password."""
    parts = urlsplit(url)
    # A socket's folder stands among the options.
    return parts.netloc.rpartition("@")[2] or ",".join(parse_qs(parts.query).get("host", ())) or "localhost"


def check_url(url: str, setting: str) -> None:
    """Raise ConfigurationError, which names the setting, unless the URL is one of PostgreSQL's.

    The driver would find out only when it connects, and quote parts of the URL, which holds the password.
    """
    try:
        parts = urlsplit(url)
        _check_parts(url, parts)
    except ValueError:
        raise _malformed(setting) from None
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ConfigurationError(f"{setting} must start with postgresql://")


def _check_parts(url: str, parts: SplitResult) -> None:
    """Raise ValueError where a part of the URL is not what it should be, or may be a part of the password."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    user, at, address = parts.netloc.rpartition("@")
    # Where the user's part ends too early, its "@" stands in what follows.
    cut_off = not at and "user" not in options and "@" in f"{parts.path}{parts.query}"
    if not url.isprintable() or "#" in url or "@" in user or cut_off:
        raise ValueError
    for hosts in (address.split(","), options.get("host", "").split(",")):
        if len(hosts) > 1 and not all(hosts):
            raise ValueError
    for host in address.split(","):
        _ = urlsplit(f"//{host}").port  # raises for what is no number
        if not host.lower().startswith("%2f"):  # the folder of a socket
            host.encode("idna")
    if any(int(port) > _MAX_PORT for port in options.get("port", "0").split(",")):  # int raises too
        raise ValueError


def _malformed(setting: str) -> ConfigurationError:
    return ConfigurationError(
        f"{setting} is not a valid URL: special characters, also of the password, must be percent-encoded"
    )


async def _prepare_session(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Make vectors known to a new connection, wherever pgvector is installed, if it is."""
    schema = await connection.fetchval(_VECTOR_SCHEMA)
    if schema is not None:
        # The type and its operators are then found by their bare names, wherever they were installed.
        await connection.execute("SELECT set_config('search_path', quote_ident($1), false)", schema)
        await register_vector(connection, schema=schema)


async def _keep_session(_: object) -> None:
    """Spare a round trip per use: no statement of this program leaves anything behind in its session."""


class Database:
    """A lazily connecting pool: it can be built while PostgreSQL is away."""

    def __init__(self, url: str, *, pool_size: int, chain: Chain = ARCHIVE) -> None:
        """Take a libpq URL; ``pool_size`` is the most connections ever open at once.

        ``chain`` tells what the database is asked for. Raises ConfigurationError when the URL is not one.
        """
        check_url(url, chain.setting)
        self._chain = chain
        self._server = f"{chain.server} at {address_in(url)}"
        self._pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=pool_size,
            timeout=_CONNECT_TIMEOUT_SECONDS,
            command_timeout=_COMMAND_TIMEOUT_SECONDS,
            init=_prepare_session,
            reset=_keep_session,
            server_settings={"application_name": "datastorage", "timezone": "UTC"},
        )
        self._opened = False
        self._expiring: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close all connections at once. A statement under way may or may not take effect."""
        if self._opened:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"]:
        """Borrow a connection. Driver errors inside the block leave it translated."""
        with cancellation_kept(), translated_errors(self._chain):
            connection = await self._acquire()
            try:
                yield connection
            finally:
                await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_SECONDS)

    async def _acquire(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        with connecting(self._server, self._chain.setting):
            if not self._opened:
                await self._pool
                self._opened = True
            try:
                # The time-out bounds the wait for a free connection and the making of a new one.
                return await self._pool.acquire(timeout=_COMMAND_TIMEOUT_SECONDS)
            except TimeoutError as error:
                size = self._pool.get_size()
                if size < self._pool.get_max_size() or self._pool.get_idle_size():
                    raise
                raise TransientError(
                    f"{self._chain.server}: all {size} connections have been in use for "
                    f"{_COMMAND_TIMEOUT_SECONDS:g} s"
                ) from error

    async def check_schema_version(self, chain: Chain | None = None) -> None:
        """Raise SchemaVersionError unless the schema is the one this program needs."""
        async with self.connection() as connection:
            await check_schema_version(connection, chain or self._chain)

    def expire_connections(self) -> None:
        """Make new connections from now on: the open ones may know types that are no more."""
        if self._opened:
            self._expiring = asyncio.create_task(self._pool.expire_connections())

    async def ping(self) -> None:
        """Raise TransientError unless PostgreSQL answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1", timeout=_CONNECT_TIMEOUT_SECONDS)
