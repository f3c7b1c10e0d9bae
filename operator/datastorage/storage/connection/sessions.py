"""Opens connections that leave no state behind in their sessions at a pooler.

A pooler between the program and PostgreSQL may give each transaction another session (PgBouncer with
pool_mode = transaction). Then another client would get the prepared statements and session settings that this
program left behind, and this program would not find them again.
"""

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Final, Literal

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from pgvector import Vector

from datastorage.errors import TransientError
from datastorage.storage.connection.connecting import connecting
from datastorage.storage.connection.opening import open_connection
from datastorage.storage.connection.urls import ServerUrl
from datastorage.variables import PREFIX

_log = logging.getLogger(__name__)

StatementCache = Literal["auto", "on", "off"]
"""Whether prepared statements are kept: "auto" if that is safe, "on" always, "off" never."""

# The driver's own default.
_CACHED_STATEMENTS: Final = 100
_CLOSE_SECONDS: Final = 1.0
# Errors of a transaction that a pooler gave another session than that of its prepared statement.
_LOST_STATEMENTS: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
# A server that waits for a lock does not notice by itself that its client has gone, and goes on waiting. Each
# statement that was given up behind a lock would leave a session, until the server has no more of them.
_END_WITH_CLIENT: Final = "SET client_connection_check_interval = '5s'"
_VECTOR_SCHEMA: Final = """
    SELECT n.nspname AS name, pg_catalog.quote_ident(n.nspname) AS quoted FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
# Some operating systems lack some of these options. As libpq does, the program skips those.
_SOCKET_OPTIONS: Final[Mapping[str, str]] = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


class NoVectorsError(TransientError):
    """The database had no pgvector when the connection was opened."""


@asynccontextmanager
async def transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Open a transaction, or a savepoint within one; commit it at the end, or roll it back on an error."""
    opened = connection.transaction()
    with _closed_when_cancelled(connection):
        await opened.start()
        try:
            yield
        except Exception:
            await opened.rollback()
            raise
        await opened.commit()


@asynccontextmanager
async def readonly_transaction(
    connection: asyncpg.Connection, settings: Sequence[str], statements: Sequence[str] = ()
) -> AsyncIterator[None]:
    """Open a read-only transaction with settings and after statements, all in one message; end it at the end.

    Without any of either, none is opened before ``set_until_commit`` does it. A statement of the block may
    fail and be caught: then the transaction is rolled back at the end. It can have no savepoints, because the
    driver does not know of it.
    """
    with _closed_when_cancelled(connection):
        try:
            if settings or statements:
                await set_until_commit(connection, settings, statements)
            yield
        except Exception:
            # The pool takes a connection back when it has ended, and then refuses every call.
            with suppress(asyncpg.InterfaceError):
                # After a BEGIN without an answer, a ROLLBACK would wait as long again.
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
            raise
        if connection.is_in_transaction():
            await connection.execute("COMMIT")


async def set_until_commit(
    connection: asyncpg.Connection, settings: Iterable[str], statements: Iterable[str] = ()
) -> None:
    """Change settings until the end of ``readonly_transaction``, which opens here if it has not yet."""
    opening = () if connection.is_in_transaction() else ("BEGIN READ ONLY",)
    changes = (f"SET LOCAL {each}" for each in settings)
    await connection.execute("; ".join((*opening, *changes, *statements)))


@contextmanager
def _closed_when_cancelled(connection: asyncpg.Connection) -> Iterator[None]:
    """Close the connection if the task is cancelled, which also rolls back its transaction.

    A ROLLBACK would wait up to half a minute for a server that may be silent.
    """
    try:
        yield
    except asyncio.CancelledError:
        with suppress(asyncpg.InterfaceError):  # a savepoint within has closed it already
            connection.terminate()
        raise


class Session(asyncpg.Connection):
    """A connection of the driver that knows whether a pooler stands between it and PostgreSQL."""

    # Attributes of the driver that its type annotations lack.
    _server_caps: Any
    _transport: asyncio.Transport
    idle_since = math.inf
    """The monotonic time of the last return to the pool; infinity for a new connection."""
    pooled = False
    """Whether a transaction may get another session than the one before it."""
    settings: frozenset[str] = frozenset()
    """The settings of the whole session, such as "jit = off"; never any where ``pooled`` is true."""
    _vector_schema: str | None = None
    on_lost_statement: Callable[[Exception], None] | None = None

    @property
    def vector_schema(self) -> str:
        """The schema that pgvector is installed in, quoted for a statement.

        Statements qualify type and operators with it, because a search path is a setting of the session.
        Raises NoVectorsError if there was no pgvector when the connection was opened.
        """
        if self._vector_schema is None:
            raise NoVectorsError(
                "the database of the vectors has no pgvector: run 'datastorage migrate' as the owner role"
            )
        return self._vector_schema

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the driver's signature
        """Close without a long wait for a server that may be silent, and without an error for the pool."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            await super().close(timeout=min(timeout or math.inf, _CLOSE_SECONDS))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Return the command tag of a query, as the driver does. Without arguments it is not prepared."""
        if not args:
            return str(await super().execute(query, **options))
        return str(await self._in_one_session(super().execute, query, *args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Return the rows of a query, as the driver does."""
        return await self._in_one_session(super().fetch, query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Return the first row of a query or None, as the driver does."""
        return await self._in_one_session(super().fetchrow, query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Return the first value of the first row of a query or None, as the driver does."""
        return await self._in_one_session(super().fetchval, query, *args, **options)

    async def _in_one_session(self, method: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Send all messages of one statement to one session. Behind a pooler, that takes a transaction."""
        try:
            if not self.pooled or self.is_in_transaction():
                return await method(*args, **options)
            async with transaction(self):
                return await method(*args, **options)
        except _LOST_STATEMENTS as error:
            if self.on_lost_statement is not None:
                self.on_lost_statement(error)
            raise

    async def is_through_pooler(self) -> bool:
        """Return whether the connection leads to a pooler instead of PostgreSQL itself."""
        # The driver knows the process number from the login, where a pooler sends an invented one. The query
        # has no arguments, so that no statement is prepared.
        pid = self.get_server_pid()
        return await self.execute(f"SELECT WHERE pg_catalog.pg_backend_pid() = {pid:d}") == "SELECT 0"

    async def register_vector_type(self) -> None:
        """Register pgvector's type, whatever schema it is in; do nothing if there is no pgvector."""
        async with transaction(self) if self.pooled else nullcontext():
            found = await super().fetchrow(_VECTOR_SCHEMA)
            if found is None:
                return
            try:
                await self.set_type_codec(
                    "vector", schema=found["name"], format="binary",
                    encoder=Vector.to_binary, decoder=Vector.from_binary,
                )  # fmt: skip
            except ValueError:  # pgvector was removed or moved after the query above
                return
            self._vector_schema = found["quoted"]


class Connector:
    """Opens connections, and remembers whether the last one led through a pooler."""

    def __init__(
        self, *, statement_cache: StatementCache, command_seconds: float, settings: Sequence[str] = ()
    ) -> None:
        """``command_seconds`` is the time-out of each statement whose caller gives no other.

        Sessions have ``settings``, unless they are a pooler's.
        """
        self._caching = statement_cache
        self._settings = settings
        self._command_seconds = command_seconds
        self._last_was_pooled: bool | None = None

    async def connect(self, url: ServerUrl, server: str, kind: str | None = None) -> Session:
        """Open a connection. ``server`` is the server's name in messages, ``kind`` the kind of server
        required.

        Raises TransientError, or ConfigurationError if waiting does not help.
        """
        with connecting(server, url.setting):
            session, cached = await self._open(url, server, kind)
            # Whether to keep statements must be decided before a connection opens, but only the open
            # connection shows whether there is a pooler. So the first guess may be wrong; the next connection
            # starts with what was found. If one address leads alternately to a pooler and to PostgreSQL, a
            # connection that keeps no statements is good enough.
            reopened = False
            while self._caching == "auto" and session.pooled == cached and (cached or not reopened):
                self._last_was_pooled, reopened = session.pooled, True
                session.terminate()
                session, cached = await self._open(url, server, kind)
            with _terminated_on_error(session):
                await session.register_vector_type()
            return session

    async def _open(self, url: ServerUrl, server: str, kind: str | None) -> tuple[Session, bool]:
        is_pooled = self._last_was_pooled
        if is_pooled is None:
            # The driver first queries the kind of server, with a statement that it would keep.
            is_pooled = (kind or url.parameters.get("target_session_attrs", "any")) != "any"
        cached = self._caching == "on" or (self._caching == "auto" and not is_pooled)
        session: Session = await open_connection(
            url,
            url.connect_seconds,
            connection_class=Session,
            command_timeout=self._command_seconds,
            statement_cache_size=_CACHED_STATEMENTS if cached else 0,
            target_session_attrs=None if kind is None else SessionAttribute(kind),
        )
        with _terminated_on_error(session):
            _set_socket_options(session, url.socket_options)
            session.on_lost_statement = partial(self._stop_caching, server)
            session.pooled = self._caching == "off"
            try:
                async with asyncio.timeout(url.connect_seconds):
                    through_pooler = await session.is_through_pooler()
            except TimeoutError as error:
                # A pooler accepts the login by itself, and lets the client wait for a session only
                # afterwards.
                raise TransientError(
                    f"{server} accepts connections but answers no statement: it is too busy, or a pooler "
                    f"with fewer sessions (default_pool_size) than {PREFIX}DATABASE_POOL_SIZE"
                ) from error
            if self._caching == "auto":
                session.pooled = through_pooler
            if not through_pooler:
                await _end_with_its_client(session)
                if self._settings and not session.pooled:
                    await session.execute("; ".join(f"SET {each}" for each in self._settings))
                    session.settings = frozenset(self._settings)
            if session.pooled:
                # The driver would switch off jit for the session while it looks up types.
                session._server_caps = session._server_caps._replace(jit=False)  # noqa: SLF001  # the driver has no option for it
        return session, cached

    def _stop_caching(self, server: str, error: Exception) -> None:
        """Keep no statements from now on: the server that seemed to be PostgreSQL is a pooler."""
        if self._caching == "off":
            return
        self._caching = "off"
        _log.warning(
            "%s loses prepared statements, as a pooler does that gives each transaction another session; "
            "none are kept from now on. Set %sDATABASE_STATEMENT_CACHE=off to keep none from the start",
            server, PREFIX,
            extra={"error": type(error).__name__},
        )  # fmt: skip


@contextmanager
def _terminated_on_error(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        session.terminate()
        raise


async def _end_with_its_client(session: Session) -> None:
    """Have the server look, while it executes a statement, whether the connection is still there."""
    with suppress(asyncpg.PostgresError):  # some operating systems can't look
        await session.execute(_END_WITH_CLIENT)


def _set_socket_options(session: Session, values: Mapping[str, int]) -> None:
    """Set the options of the socket as libpq does, with TCP keepalives unless ``keepalives=0``."""
    own = session._transport.get_extra_info("socket")  # noqa: SLF001  # the driver shows it nowhere else
    if own is None or own.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(values.get("keepalives", 1) != 0))
    for name, option in _SOCKET_OPTIONS.items():
        if values.get(name, 0) > 0 and hasattr(socket, option):
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), values[name])
