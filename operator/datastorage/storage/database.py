"""The connection pool, and the one place where the driver's errors become the program's."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlsplit

import asyncpg
from pgvector.asyncpg import register_vector

from datastorage.cancellation import cancellation_kept
from datastorage.causes import connection_trouble
from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    MissingRightsError,
    PoolUsedUpError,
    RecordRefusedError,
    TransientError,
)
from datastorage.secrets import Origin, Secret, TriedSecret
from datastorage.storage.hosts import attempts, files_in, refuse_read_only
from datastorage.storage.schema import ARCHIVE, Chain, check_schema_version

# SQLSTATE classes that blame the data of the statement: bad values, violated constraints, and limits that
# a row exceeds. Everything else (missing rights or tables among it) is the state of the server, and
# must never cost a record.
_DATA_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
# After this long without an answer a statement is given up; a dead peer shows in no other way.
_COMMAND_TIMEOUT_SECONDS: Final = 30.0
_CONNECT_TIMEOUT_SECONDS: Final = 5.0
# A statement that was given up has to be cancelled at the server before its connection can be used again. A
# server that has fallen silent will not answer that either: then the connection is thrown away.
_RELEASE_TIMEOUT_SECONDS: Final = 1.0
# A connection that was used a moment ago is used again as it is; one that was idle for longer is asked first,
# and has this long to answer. A server that went away silently would else take a statement's whole time.
_TRUSTED_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 2.0
# Names lead elsewhere after a move, though the server that was there before may go on to serve.
_MAX_AGE_SECONDS: Final = 600.0
_MAX_PORT: Final = 65_535
_VECTOR_SCHEMA: Final = """
    SELECT n.nspname FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""


@contextmanager
def translated_errors(chain: Chain = ARCHIVE) -> Iterator[None]:
    """Raise RecordRefusedError for bad data and TransientError for everything else the driver raises.

    Of the latter, MissingRightsError where the role lacks a right.

    What the driver says of the URL's own parameters becomes ConfigurationError, which names the setting.
    """
    try:
        yield
    except _DATA_ERRORS as error:
        raise RecordRefusedError(one_line(error)) from error
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"{chain.setting}: {one_line(error)}") from error
    except asyncpg.InterfaceError as error:
        # The driver refuses a value that it can't encode with an error that is a ValueError too.
        if isinstance(error, ValueError):
            raise RecordRefusedError(one_line(error)) from error
        raise TransientError(f"{chain.server}: {one_line(error)}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MissingRightsError(f"{chain.server}: {one_line(error)}") from error
    except (asyncpg.PostgresError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise TransientError(f"{chain.server}: {one_line(error)}") from error


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


def one_line(error: BaseException) -> str:
    """Say what the driver says, without what it quotes."""
    # DETAIL and HINT are left out: a detail quotes the row, and the row is the user's data.
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("invalid input for query argument"):
        lines[0] = lines[0].partition(":")[0]  # what follows is the value
    return f"{lines[0]} ({type(error).__name__})" if lines else type(error).__name__


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


class _Session(asyncpg.Connection):  # type: ignore[misc]  # no type information shipped
    """A connection that knows when it was last given back."""

    idle_since = math.inf
    """By the monotonic clock; never, where it is new."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the driver's signature
        """Close, without waiting long for a server that may be silent: its pool hears no error of that."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            await super().close(timeout=min(timeout or math.inf, _RELEASE_TIMEOUT_SECONDS))


async def _keep_session(connection: _Session) -> None:
    """Spare a round trip per use: no statement of this program leaves anything behind in its session."""
    connection.idle_since = time.monotonic()


class Database:
    """A lazily connecting pool: it can be built while PostgreSQL is away.

    That a connection is open says nothing of the server behind it: it may have been demoted, restarted behind
    a proxy, or be another one than its name leads to by now. So no connection is trusted for long, and none
    is used any more after one of them has failed for another reason than its data.
    """

    def __init__(
        self, url: str | Origin, *, pool_size: int, chain: Chain = ARCHIVE, writable: bool = False
    ) -> None:
        """Take a libpq URL; ``pool_size`` is the most connections ever open at once.

        ``chain`` tells what the database is asked for. With ``writable`` a server that lets nobody write
        counts as away. Raises ConfigurationError when the URL is not one.
        """
        origin = Origin(chain.setting, url) if isinstance(url, str) else url
        secret = Secret(origin, partial(check_url, setting=chain.setting), files_in)
        self._url = TriedSecret(secret, self._try, on_change=self.expire_connections)
        self._chain = chain
        self._writable = writable
        self._served = ""
        self._options: dict[str, Any] = {
            "command_timeout": _COMMAND_TIMEOUT_SECONDS,
            "server_settings": {"application_name": "datastorage", "timezone": "UTC"},
        }
        self._pool = asyncpg.create_pool(
            connect=self._connect,
            connection_class=_Session,
            min_size=0,
            max_size=pool_size,
            init=_prepare_session,
            reset=_keep_session,
            **self._options,
        )
        self._opened = False
        self._expired = False
        self._renewed_at = time.monotonic()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Grows with every doubt. What was learnt in an earlier one may have been another server's."""
        return self._generation

    async def close(self) -> None:
        """Close all connections at once. A statement under way may or may not take effect."""
        await self._url.close()
        if self._opened:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"]:
        """Borrow a connection. Driver errors inside the block leave it translated."""
        with cancellation_kept(), self._doubting(), translated_errors(self._chain):
            connection = await self._acquire()
            try:
                yield connection
            finally:
                # It fails where a statement was cut off that a silent server never answered.
                await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_SECONDS)

    def expire_connections(self) -> None:
        """Make new connections from now on, to where the names lead then; believe nothing learnt so far."""
        self._expired = True
        self._generation += 1

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Expire the connections when one of them fails for another reason than its data."""
        try:
            yield
        except TransientError as error:
            if not isinstance(error, PoolUsedUpError):
                self.expire_connections()
            raise

    async def _acquire(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        self._url.follow()
        if not self._opened:
            await self._pool
            self._opened = True
        connection = await self._take()
        if time.monotonic() - connection.idle_since < _TRUSTED_SECONDS:
            return connection
        serves = False
        try:
            serves = await self._serves(connection)
        finally:
            if not serves:
                connection.terminate()
                await self._pool.release(connection)
        if serves:
            return connection
        self.expire_connections()
        return await self._take()

    async def _take(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        if time.monotonic() - self._renewed_at > _MAX_AGE_SECONDS:
            self.expire_connections()
        if self._expired:
            self._expired, self._renewed_at = False, time.monotonic()
            await self._pool.expire_connections()
        with connecting(self._server(self._url.value), self._chain.setting):
            try:
                # The time-out bounds the wait for a free connection and the making of a new one.
                return await self._pool.acquire(timeout=_COMMAND_TIMEOUT_SECONDS)
            except TimeoutError as error:
                size = self._pool.get_size()
                if size < self._pool.get_max_size() or self._pool.get_idle_size():
                    raise
                raise PoolUsedUpError(
                    f"{self._chain.server}: all {size} connections have been in use for "
                    f"{_COMMAND_TIMEOUT_SECONDS:g} s"
                ) from error

    async def _serves(self, connection: Any) -> bool:
        """Tell whether a connection's server answers at once and, where that is needed, lets it write."""
        try:
            with translated_errors(self._chain):
                if self._writable:
                    await refuse_read_only(connection, "", timeout_seconds=_ANSWER_SECONDS)
                else:
                    await connection.execute("SELECT 1", timeout=_ANSWER_SECONDS)
        except DataStorageError:
            return False
        return True

    async def _connect(self, *_: object, **options: Any) -> _Session:
        return await self._open(self._url.value, options)

    async def _open(self, url: str, options: Mapping[str, Any]) -> _Session:
        """Open a connection to the first server of the URL that will do."""
        failures: list[TransientError] = []
        # Of one kind, the one that served last comes first: those before it may be silent for all their time.
        for host, kind in sorted(
            attempts(url, writable=self._writable),
            key=lambda each: (each[1] == "any", each[0] != self._served),
        ):
            server = self._server(host)
            try:
                with connecting(server, self._chain.setting):
                    connection: _Session = await asyncpg.connect(
                        host, timeout=_CONNECT_TIMEOUT_SECONDS, target_session_attrs=kind, **options
                    )
                    try:
                        if self._writable:
                            await refuse_read_only(
                                connection, server, timeout_seconds=_CONNECT_TIMEOUT_SECONDS
                            )
                    except BaseException:
                        connection.terminate()
                        raise
            except asyncpg.TargetServerAttributeNotMatched:
                failures.append(TransientError(f"{server} is not what its target_session_attrs asks for"))
            except TransientError as error:
                failures.append(error)
            else:
                self._served = host
                return connection
        raise failures[0] if len(failures) == 1 else TransientError("; ".join(map(str, failures)))

    def _server(self, url: str) -> str:
        return f"{self._chain.server} at {address_in(url)}"

    async def _try(self, url: str) -> None:
        """Return when a connection by a URL comes about."""
        with translated_errors(self._chain):
            (await self._open(url, self._options)).terminate()

    async def check_schema_version(self, chain: Chain | None = None) -> None:
        """Raise SchemaVersionError unless the schema is the one this program needs."""
        async with self.connection() as connection:
            await check_schema_version(connection, chain or self._chain)

    async def ping(self) -> None:
        """Raise TransientError unless PostgreSQL answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1", timeout=_CONNECT_TIMEOUT_SECONDS)
