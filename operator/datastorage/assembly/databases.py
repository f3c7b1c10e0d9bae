"""Builds the connections to a database."""

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
    )
    stack.push_async_callback(database.close)
    return database
