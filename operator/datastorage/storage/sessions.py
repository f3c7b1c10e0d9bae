"""One connection: how it is made, what it knows, and that it leaves nothing behind at the server.

Between the program and PostgreSQL there may be a pooler that gives each transaction another session
(PgBouncer with pool_mode = transaction). A prepared statement that is kept, or a setting of the session,
would be found by another client then, or not be found at all.
"""

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Final, Literal

import asyncpg
from pgvector import Vector

from datastorage.errors import TransientError
from datastorage.settings import PREFIX
from datastorage.storage.connecting import connecting
from datastorage.storage.tls import prepare_files
from datastorage.storage.urls import ServerUrl

_log = logging.getLogger(__name__)

StatementCache = Literal["auto", "on", "off"]
"""Whether prepared statements are kept: where it is safe, always, or never."""

# As many as the driver keeps by default.
_CACHED_STATEMENTS: Final = 100
_CLOSE_SECONDS: Final = 1.0
# A pooler has given the transaction to another session than the one that the statement was prepared in.
_LOST_STATEMENTS: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_VECTOR_SCHEMA: Final = """
    SELECT n.nspname AS name, pg_catalog.quote_ident(n.nspname) AS quoted FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
# Not every system has all of them; libpq passes over what it can't set as well.
_SOCKET_OPTIONS: Final[Mapping[str, str]] = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


class NoVectorsError(TransientError):
    """The database has no pgvector, as far as this connection knows."""


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


class Session(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection of the driver that knows whether a pooler stands between it and PostgreSQL."""

    idle_since = math.inf
    """When it was given back, by the monotonic clock; never, where it is new."""
    pooled = False
    """Whether a transaction may get another session than the one before it."""
    _vector_schema: str | None = None
    on_lost_statement: Callable[[Exception], None] | None = None

    @property
    def vector_schema(self) -> str:
        """The schema that pgvector is installed in, ready to stand in a statement.

        Type and operators are named with it, because a search path is a setting of the session. Raises
        NoVectorsError where there was no pgvector when the connection was made.
        """
        if self._vector_schema is None:
            raise NoVectorsError(
                "the database of the vectors has no pgvector: run 'datastorage migrate' as the owner role"
            )
        return self._vector_schema

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the driver's signature
        """Close, without waiting long for a server that may be silent: its pool hears no error of that."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            await super().close(timeout=min(timeout or math.inf, _CLOSE_SECONDS))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """See the driver. Without arguments nothing is prepared."""
        if not args:
            return str(await super().execute(query, **options))
        return str(await self._alone(super().execute, query, *args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """See the driver."""
        return await self._alone(super().fetch, query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """See the driver."""
        return await self._alone(super().fetchrow, query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """See the driver."""
        return await self._alone(super().fetchval, query, *args, **options)

    async def _alone(self, method: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Keep the messages of one statement in one session: behind a pooler in one transaction."""
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
        """Tell whether this connection ends before PostgreSQL does."""
        # The driver's number is the one that the connection began with, which a pooler makes up. Without
        # arguments nothing is prepared.
        pid = self.get_server_pid()
        return await self.execute(f"SELECT WHERE pg_catalog.pg_backend_pid() = {pid:d}") == "SELECT 0"

    async def find_vectors(self) -> None:
        """Make vectors known, wherever pgvector is installed, if it is."""
        async with transaction(self) if self.pooled else nullcontext():
            found = await super().fetchrow(_VECTOR_SCHEMA)
            if found is None:
                return
            try:
                await self.set_type_codec(
                    "vector", schema=found["name"], format="binary",
                    encoder=Vector.to_binary, decoder=Vector.from_binary,
                )  # fmt: skip
            except ValueError:  # pgvector was removed, or moved, since the question above
                return
            self._vector_schema = found["quoted"]


class Connector:
    """Makes connections, and remembers whether the last one went through a pooler."""

    def __init__(self, *, statement_cache: StatementCache, command_seconds: float) -> None:
        """A statement may take ``command_seconds`` unless its caller says otherwise."""
        self._caching = statement_cache
        self._command_seconds = command_seconds
        self._last_was_pooled: bool | None = None

    async def connect(self, url: ServerUrl, server: str, kind: str | None = None) -> Session:
        """Open a connection. Messages name its end by ``server``; ``kind`` is the kind of server wanted.

        Raises TransientError, and ConfigurationError for what waiting does not cure.
        """
        with connecting(server, url.setting):
            session, cached = await self._open(url, server, kind)
            # Statements are kept or not from the beginning of a connection on, and only then it shows what is
            # in between. The guess is wrong once: the next connection begins with what this one has found.
            # Where one address leads to a pooler and to PostgreSQL by turns, one that keeps none will do.
            reopened = False
            while self._caching == "auto" and session.pooled == cached and (cached or not reopened):
                self._last_was_pooled, reopened = session.pooled, True
                session.terminate()
                session, cached = await self._open(url, server, kind)
            with _terminated_on_error(session):
                await session.find_vectors()
            return session

    async def _open(self, url: ServerUrl, server: str, kind: str | None) -> tuple[Session, bool]:
        is_pooled = self._last_was_pooled
        if is_pooled is None:
            # The driver looks at the kind of server first of all, by a statement that it would keep.
            is_pooled = (kind or url.parameters.get("target_session_attrs", "any")) != "any"
        cached = self._caching == "on" or (self._caching == "auto" and not is_pooled)
        session: Session = await asyncpg.connect(
            url.driver_url,
            connection_class=Session,
            ssl=prepare_files(url),
            timeout=url.connect_seconds,
            command_timeout=self._command_seconds,
            statement_cache_size=_CACHED_STATEMENTS if cached else 0,
            server_settings=dict(url.server_settings),
            target_session_attrs=kind,
        )
        with _terminated_on_error(session):
            _set_socket_options(session, url.socket_options)
            session.on_lost_statement = partial(self._mistrust, server)
            session.pooled = self._caching == "off"
            try:
                async with asyncio.timeout(url.connect_seconds):
                    through_pooler = await session.is_through_pooler()
            except TimeoutError as error:
                # A pooler logs its clients in by itself, and lets them wait for a session then.
                raise TransientError(
                    f"{server} takes connections and answers no statement: it is too busy, or a pooler "
                    f"with fewer sessions (default_pool_size) than {PREFIX}DATABASE_POOL_SIZE"
                ) from error
            if self._caching == "auto":
                session.pooled = through_pooler
            if session.pooled:
                # The driver would switch jit off, for the session, while it looks types up.
                session._server_caps = session._server_caps._replace(jit=False)  # noqa: SLF001  # no other way
        return session, cached

    def _mistrust(self, server: str, error: Exception) -> None:
        """Keep no statements from now on: something that looks like PostgreSQL itself is a pooler."""
        if self._caching == "off":
            return
        self._caching = "off"
        _log.warning(
            "%s loses prepared statements, as a pooler does that gives each transaction another session; "
            "none are kept from now on. Set %sDATABASE_STATEMENT_CACHE=off to begin so",
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


def _set_socket_options(session: Session, asked_for: Mapping[str, int]) -> None:
    """Do what libpq does with the socket: watch a silent connection, unless ``keepalives=0``."""
    connected = session._transport.get_extra_info("socket")  # noqa: SLF001  # the driver shows it nowhere else
    if connected is None or connected.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(asked_for.get("keepalives", 1) != 0))
    for name, option in _SOCKET_OPTIONS.items():
        if asked_for.get(name, 0) > 0 and hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), asked_for[name])
