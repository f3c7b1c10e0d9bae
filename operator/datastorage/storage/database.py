"""The connection pool: which server its connections lead to, and how long that is believed."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

import asyncpg

from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    MissingRightsError,
    PoolUsedUpError,
    TransientError,
    WorkRefusedError,
)
from datastorage.resilience.cancellation import cancellation_kept
from datastorage.secrets import Origin, Secret, TriedSecret
from datastorage.storage.connecting import connecting
from datastorage.storage.hosts import attempts, files_in, refuse_read_only
from datastorage.storage.inspection import check_state, missing_in
from datastorage.storage.schema import ARCHIVE, Chain, check_schema_version
from datastorage.storage.sessions import Connector, Session, StatementCache
from datastorage.storage.translation import translated_errors
from datastorage.storage.urls import ServerUrl, address_in, check_url, parse_url

# After this long without an answer a statement is given up; a dead peer shows in no other way.
_COMMAND_TIMEOUT_SECONDS: Final = 30.0
_PING_SECONDS: Final = 5.0
# A statement that was given up has to be cancelled at the server before its connection can be used again. A
# server that has fallen silent will not answer that either: then the connection is thrown away.
_RELEASE_TIMEOUT_SECONDS: Final = 1.0
# A connection that was used a moment ago is used again as it is; one that was idle for longer is asked first,
# and has this long to answer. A server that went away silently would else take a statement's whole time.
_TRUSTED_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 2.0
# A server that refuses a statement is there, and may go on to refuse it: connections are made anew no more
# often than this then. At last they have to be: what is changed for a role holds for new sessions alone.
_REFUSED_SECONDS: Final = 3.0
# What a server says of a statement alone: it was too slow or too much, broke a rule, or lacked a right.
_OF_THE_STATEMENT: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
    asyncpg.RaiseError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.InsufficientPrivilegeError,
)
# Names lead elsewhere after a move, though the server that was there before may go on to serve.
_MAX_AGE_SECONDS: Final = 600.0


async def _keep_session(connection: Session) -> None:
    """Spare a round trip per use: no statement of this program leaves anything behind in its session."""
    connection.idle_since = time.monotonic()


class Database:
    """A lazily connecting pool: it can be built while PostgreSQL is away.

    That a connection is open says nothing of the server behind it: it may have been demoted, restarted behind
    a proxy, or be another one than its name leads to by now. So no connection is trusted for long, and none
    is used any more after one of them has failed for another reason than its data.
    """

    def __init__(
        self,
        url: str | Origin,
        *,
        pool_size: int,
        chain: Chain = ARCHIVE,
        writable: bool = False,
        statement_cache: StatementCache = "auto",
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
        self._connector = Connector(statement_cache=statement_cache, command_seconds=_COMMAND_TIMEOUT_SECONDS)
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
        try:
            with cancellation_kept(), self._doubting(), translated_errors(self._chain):
                connection = await self._acquire()
                try:
                    yield connection
                finally:
                    # It fails where a statement was cut off that a silent server never answered.
                    await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_SECONDS)
        except MissingRightsError as error:
            raise await self._with_the_right(error) from error.__cause__

    async def _with_the_right(self, error: MissingRightsError) -> MissingRightsError:
        """Name the role and the right: the server names only the object."""
        try:
            with translated_errors(self._chain):
                connection = await self._acquire()
                try:
                    missing = await missing_in(connection, self._chain)
                finally:
                    await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_SECONDS)
        except DataStorageError:
            return error
        return MissingRightsError(f"{error}; {missing}") if missing is not None else error

    def expire_connections(self) -> None:
        """Make new connections from now on, to where the names lead then; believe nothing learnt so far."""
        self._expired = True
        self._generation += 1

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Expire the connections when one of them fails for another reason than its data."""
        try:
            yield
        except PoolUsedUpError:
            raise
        except WorkRefusedError as error:
            # What was learnt may have been of another schema, though the connection leads to a server.
            self._generation += 1
            if isinstance(error.__cause__, _OF_THE_STATEMENT):
                self._refused = True
            else:
                self.expire_connections()
            raise
        except TransientError:
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
        age = time.monotonic() - self._renewed_at
        if age > _MAX_AGE_SECONDS or (self._refused and age > _REFUSED_SECONDS):
            self.expire_connections()
        if self._expired:
            self._expired, self._refused, self._renewed_at = False, False, time.monotonic()
            await self._pool.expire_connections()
        with connecting(self._server(self._url.value), self._chain.setting):
            try:
                # The time-out bounds the wait for a free connection and the making of a new one.
                return await self._pool.acquire(timeout=_COMMAND_TIMEOUT_SECONDS)
            except ConfigurationError as error:
                if not self._served:
                    raise
                # It was right before: a certificate or a file is being exchanged, or somebody has to mend it
                # where it is. That ends no process that may have the last copies of objects.
                raise TransientError(str(error)) from error
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

    async def _connect(self, *_: object, **__: object) -> Session:
        return await self._open(self._url.value)

    async def _open(self, value: str) -> Session:
        """Open a connection to the first server of the URL that will do."""
        url = parse_url(value, self._chain.setting)
        failures: list[DataStorageError] = []
        # Of one kind, the one that served last comes first: those before it may be silent for all their time.
        for one, kind in sorted(
            attempts(url, writable=self._writable),
            key=lambda each: (each[1] == "any", each[0].driver_url != self._served),
        ):
            try:
                connection = await self._open_one(one, kind)
            except asyncpg.TargetServerAttributeNotMatched:
                server = self._server(one.driver_url)
                failures.append(TransientError(f"{server} is not what its target_session_attrs asks for"))
            except (TransientError, ConfigurationError) as error:
                failures.append(error)
            else:
                self._served = one.driver_url
                return connection
        if len(failures) == 1:
            raise failures[0]
        # One server that may come back is enough to wait.
        hopeless = all(isinstance(error, ConfigurationError) for error in failures)
        raise (ConfigurationError if hopeless else TransientError)("; ".join(map(str, failures)))

    async def _open_one(self, url: ServerUrl, kind: str | None) -> Session:
        server = self._server(url.driver_url)
        with connecting(server, self._chain.setting):
            connection = await self._connector.connect(url, server, kind)
            try:
                if self._writable:
                    await refuse_read_only(connection, server, timeout_seconds=url.connect_seconds)
            except BaseException:
                connection.terminate()
                raise
            return connection

    def _server(self, url: str) -> str:
        return f"{self._chain.server} at {address_in(url)}"

    async def _try(self, url: str) -> None:
        """Return when a connection by a URL comes about."""
        with translated_errors(self._chain):
            (await self._open(url)).terminate()

    async def check_schema_version(self, chain: Chain | None = None) -> None:
        """Raise SchemaVersionError unless the schema is the one this program needs."""
        async with self.connection() as connection:
            await check_schema_version(connection, chain or self._chain)

    async def check_state(self, chain: Chain | None = None) -> None:
        """Raise ConfigurationError where the server, its schema or this role's rights won't do."""
        async with self.connection() as connection:
            await check_state(connection, chain or self._chain)

    async def ping(self) -> None:
        """Raise TransientError unless PostgreSQL answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1", timeout=_PING_SECONDS)
