"""The connection pool, and the one place where the driver's errors become the program's."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import asyncpg

from datastorage.cancellation import cancellation_kept
from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    MissingRightsError,
    RecordRefusedError,
    TransientError,
)
from datastorage.storage.connecting import connecting
from datastorage.storage.inspection import check_state, missing_in
from datastorage.storage.schema import ARCHIVE, Chain, check_schema_version
from datastorage.storage.sessions import Connector, Session, StatementCache
from datastorage.storage.urls import parse_url

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
_PING_TIMEOUT_SECONDS: Final = 5.0
# A statement that was given up has to be cancelled at the server before its connection can be used again. A
# server that has fallen silent will not answer that either: then the connection is thrown away.
_RELEASE_TIMEOUT_SECONDS: Final = 1.0


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


def one_line(error: BaseException) -> str:
    """Say what the driver says, without what it quotes."""
    # DETAIL and HINT are left out: a detail quotes the row, and the row is the user's data.
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("invalid input for query argument"):
        lines[0] = lines[0].partition(":")[0]  # what follows is the value
    return f"{lines[0]} ({type(error).__name__})" if lines else type(error).__name__


async def _keep_session(_: object) -> None:
    """Spare a round trip per use: no statement of this program leaves anything behind in its session."""


class Database:
    """A lazily connecting pool: it can be built while PostgreSQL is away."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        chain: Chain = ARCHIVE,
        statement_cache: StatementCache = "auto",
    ) -> None:
        """Take a libpq URL; ``pool_size`` is the most connections ever open at once.

        ``chain`` tells what the database is asked for. Raises ConfigurationError when the URL is not one.
        """
        parsed = parse_url(url, chain.setting)
        self._chain = chain
        self._server = f"{chain.server} at {parsed.address}"
        connector = Connector(
            parsed,
            self._server,
            statement_cache=statement_cache,
            command_seconds=_COMMAND_TIMEOUT_SECONDS,
            on_mistrust=self.expire_connections,
        )
        self._pool = asyncpg.create_pool(
            min_size=0,
            max_size=pool_size,
            connect=connector.connect,
            connection_class=Session,
            reset=_keep_session,
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
        try:
            with cancellation_kept(), translated_errors(self._chain):
                connection = await self._acquire()
                try:
                    yield connection
                finally:
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

    async def check_state(self, chain: Chain | None = None) -> None:
        """Raise ConfigurationError where the server, its schema or this role's rights won't do."""
        async with self.connection() as connection:
            await check_state(connection, chain or self._chain)

    def expire_connections(self) -> None:
        """Make new connections from now on: the open ones may know types that are no more."""
        if self._opened:
            self._expiring = asyncio.create_task(self._pool.expire_connections())

    async def ping(self) -> None:
        """Raise TransientError unless PostgreSQL answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1", timeout=_PING_TIMEOUT_SECONDS)
