"""Builds the connections to a database."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from datastorage.secrets import origin_of
from datastorage.settings import Settings
from datastorage.storage.connection.database import Database
from datastorage.storage.schema import Chain


def open_database(
    settings: Settings,
    url: str,
    chain: Chain,
    stack: AsyncExitStack,
    *,
    writable: bool,
    pool_size: int | None = None,
    session_settings: Sequence[str] = (),
) -> Database:
    """Return the database that the setting ``url`` names, which the stack closes.

    Without ``pool_size`` the pool has the size of the settings.
    """
    database = Database(
        origin_of(settings, url),
        pool_size=settings.database.pool_size if pool_size is None else pool_size,
        chain=chain,
        writable=writable,
        statement_cache=settings.database.statement_cache,
        session_settings=session_settings,
    )
    stack.push_async_callback(database.close)
    return database
