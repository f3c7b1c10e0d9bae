"""The connection pool. It lends connections, and replaces them when they may lead to the wrong server."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import asyncpg

from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    MissingRightsError,
    PoolExhaustedError,
    TransientError,
    WorkRefusedError,
)
from datastorage.resilience.cancellation import cancellation_kept
from datastorage.secrets import Origin, Secret, TriedSecret
from datastorage.storage.connection.errortranslation import translated_errors
from datastorage.storage.connection.hosts import refuse_read_only
from datastorage.storage.connection.servers import Servers
from datastorage.storage.connection.sessions import Connector, Session, StatementCache
from datastorage.storage.connection.urls import check_url, files_in
from datastorage.storage.inspection import check_state, missing_in, what_is_gone
from datastorage.storage.schema import ARCHIVE, Chain, check_schema_version

# Errors that concern a single statement: it was too slow or too large, broke a rule, or lacked a right.
_ABOUT_THE_STATEMENT: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
    asyncpg.RaiseError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.InsufficientPrivilegeError,
)
# Errors of a schema that is gone, or is not the one of this program.
_ABOUT_THE_SCHEMA: Final = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a pool waits, and how long it trusts a connection."""

    command_seconds: float = 30.0
    """A statement is given up after this long without an answer. A server that is gone can't be noticed in
    any other way."""
    release_seconds: float = 1.0
    """After a statement was given up, the server has to cancel it before its connection can be used again. If
    the server does not do so within this time, the connection is discarded."""
    trusted_seconds: float = 1.0
    """A connection that was idle for longer is checked before it is used: otherwise a statement would wait
    for its whole time-out if the server went away silently."""
    answer_seconds: float = 2.0
    """The time limit of that check."""
    refused_seconds: float = 3.0
    """Between two renewals of the connections while a server refuses statements. They have to be renewed,
    because a change to a role applies only to new sessions."""
    max_age_seconds: float = 600.0
    """Connections are renewed after this long: a host name may lead to another server by then, while the
    former one still serves."""


async def _keep_session(connection: asyncpg.Connection) -> None:
    """Skip the reset, a round trip: no statement of this program leaves anything in its session.

    It would also undo the settings that belong there (sessions.py), which ``reading`` relies on.
    """
    assert isinstance(connection, Session)
    connection.idle_since = time.monotonic()


class Database:
    """A lazily connecting pool: it can be built while PostgreSQL is away.

    An open connection proves nothing about the server: it may have been demoted, or restarted behind a proxy,
    or its name may lead to another server now. So no connection is trusted for long, and all are replaced
    after one of them has failed for a reason other than the data.
    """

    def __init__(
        self,
        url: str | Origin,
        *,
        pool_size: int,
        chain: Chain = ARCHIVE,
        writable: bool = False,
        statement_cache: StatementCache = "auto",
        session_settings: Sequence[str] = (),
        pace: Pace = Pace(),
    ) -> None:
        """``url`` is a libpq URL, ``pool_size`` the largest number of connections open at once.

        ``chain`` is the schema that the database is used for. With ``writable``, a read-only server counts as
        away. The ``session_settings`` are such as "jit = off"; a pooler's sessions do without. Raises
        ConfigurationError for a URL that can't be used.
        """
        origin = Origin(chain.setting, url) if isinstance(url, str) else url
        secret = Secret(origin, partial(check_url, setting=chain.setting), files_in)
        self._url = TriedSecret(secret, self._try, on_change=self.expire_connections)
        self._chain = chain
        self._writable = writable
        self._pace = pace
        connector = Connector(
            statement_cache=statement_cache, command_seconds=pace.command_seconds, settings=session_settings
        )
        self._servers = Servers(chain, connector, writable=writable)
        self._pool = asyncpg.create_pool(
            connect=self._connect,
            connection_class=Session,
            min_size=0,
            max_size=pool_size,
            reset=_keep_session,
        )
        self._opened = False
        self._expired = False
        self._refused = False
        self._renewed_at = time.monotonic()
        self._generation = 0

    @property
    def generation(self) -> int:
        """A number that grows whenever the server or its schema may have changed.

        Anything that was learned under an earlier number may not be true any more.
        """
        return self._generation

    async def close(self) -> None:
        """Close all connections at once. A statement that is running may or may not take effect."""
        await self._url.close()
        if self._opened:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self, chain: Chain | None = None) -> AsyncIterator[Session]:
        """Lend a connection. Driver errors within the block are translated.

        ``chain`` is the schema that the block works on, if that may be another one than the database's own:
        the vectors may be beside the records. An error about a right names what is missing there.
        """
        try:
            with cancellation_kept(), self._expiring_on_error(), translated_errors(self._chain):
                connection = await self._acquire()
                try:
                    yield connection
                finally:
                    await self._release(connection)
        except MissingRightsError as error:
            # The server names only the object, and not the role and the right.
            missing = await self._found(missing_in, chain or self._chain)
            if missing is None and chain is not None:
                missing = await self._found(missing_in, self._chain)
            raise (MissingRightsError(f"{error}; {missing}") if missing else error) from error.__cause__
        except WorkRefusedError as error:
            if not isinstance(error.__cause__, _ABOUT_THE_SCHEMA):
                raise
            # The server names only what it has missed first, and not the remedy.
            gone = await self._found(what_is_gone, self._chain)
            raise (WorkRefusedError(f"{error}; {gone}") if gone else error) from error.__cause__

    async def _found(
        self, inspect: Callable[[Session, Chain], Awaitable[str | None]], chain: Chain
    ) -> str | None:
        """Return what an inspection of a schema finds, or None if it can't be made."""
        try:
            with translated_errors(self._chain):
                connection = await self._acquire()
                try:
                    return await inspect(connection, chain)
                finally:
                    await self._release(connection)
        except DataStorageError:
            return None

    def expire_connections(self) -> None:
        """Use new connections from now on, and begin a new generation."""
        self._expired = True
        self._generation += 1

    @contextmanager
    def _expiring_on_error(self) -> Iterator[None]:
        """Expire the connections when one of them fails for a reason other than the data."""
        try:
            yield
        except PoolExhaustedError:
            raise
        except WorkRefusedError as error:
            # The server works, but its schema may have changed.
            self._generation += 1
            if isinstance(error.__cause__, _ABOUT_THE_STATEMENT):
                self._refused = True
            else:
                self.expire_connections()
            raise
        except TransientError:
            self.expire_connections()
            raise

    async def _acquire(self) -> Session:
        self._url.follow()
        if not self._opened:
            await self._pool
            self._opened = True
        connection = await self._take()
        if time.monotonic() - connection.idle_since < self._pace.trusted_seconds:
            return connection
        serves = False
        try:
            serves = await self._serves(connection)
        finally:
            if not serves:
                connection.terminate()
                await self._release(connection)
        if serves:
            return connection
        self.expire_connections()
        return await self._take()

    async def _take(self) -> Session:
        age = time.monotonic() - self._renewed_at
        if age > self._pace.max_age_seconds or (self._refused and age > self._pace.refused_seconds):
            self.expire_connections()
        if self._expired:
            self._expired, self._refused, self._renewed_at = False, False, time.monotonic()
            await self._pool.expire_connections()
        seconds = self._pace.command_seconds
        try:
            # The time-out bounds the wait for a free connection and the opening of a new one.
            proxy = await self._pool.acquire(timeout=seconds)
            return cast("Session", proxy)  # the proxy has everything that a Session has
        except ConfigurationError as error:
            if not self._servers.have_served:
                raise
            # The setting worked before: perhaps a certificate or a file is being replaced. The process may
            # hold the last copies of objects, so it must not end because of that.
            raise TransientError(str(error)) from error
        except TimeoutError as error:
            size = self._pool.get_size()
            if size < self._pool.get_max_size() or self._pool.get_idle_size():
                server = self._servers.name_of(self._url.value)
                raise TransientError(f"{server} can't be reached: no answer in time") from error
            raise PoolExhaustedError(
                f"{self._chain.server}: all {size} connections have been in use for {seconds:g} s"
            ) from error

    async def _release(self, connection: Session) -> None:
        """Return a connection to the pool. Raises an error if the server does not cancel its statement."""
        proxy = cast("asyncpg.pool.PoolConnectionProxy", connection)
        await self._pool.release(proxy, timeout=self._pace.release_seconds)

    async def _serves(self, connection: Session) -> bool:
        """Return whether the connection's server answers quickly and, if required, accepts writes."""
        seconds = self._pace.answer_seconds
        try:
            with translated_errors(self._chain):
                if self._writable:
                    await refuse_read_only(connection, "", timeout_seconds=seconds)
                else:
                    await connection.execute("SELECT 1", timeout=seconds)
        except DataStorageError:
            return False
        return True

    async def _connect(self, *_: object, **__: object) -> Session:
        url = self._url.value
        try:
            return await self._servers.open(url)
        except (TransientError, ConfigurationError):
            # A process that was idle meets the end of its password only here, while the new one is tried.
            newer = await self._url.value_after(url)
            if newer is None:
                raise
            return await self._servers.open(newer)

    async def _try(self, url: str) -> None:
        """Open a connection with a URL and close it again. Raises the errors of ``Servers.open``."""
        with translated_errors(self._chain):
            (await self._servers.open(url)).terminate()

    async def check_schema_version(self, chain: Chain | None = None) -> None:
        """Raise SchemaVersionError unless the schema is the one that this program needs."""
        async with self.connection() as connection:
            await check_schema_version(connection, chain or self._chain)

    async def check_state(self, chain: Chain | None = None) -> None:
        """Raise ConfigurationError if the server, its schema or this role's rights are not as needed."""
        async with self.connection() as connection:
            await check_state(connection, chain or self._chain)
