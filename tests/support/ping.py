"""The simplest query, to see whether a PostgreSQL answers."""

from datastorage.errors import DataStorageError
from datastorage.storage.connection.database import Database
from harness.polling import DEADLINE_SECONDS


async def ping(database: Database) -> None:
    """Run a query. Raises the error of the database if no server answers."""
    async with database.connection() as connection:
        await connection.fetchval("SELECT 1", timeout=DEADLINE_SECONDS)


async def trouble(url: str) -> DataStorageError | None:
    """Return the error that the server of a URL is met with, or None if it answers."""
    database = Database(url, pool_size=1)
    try:
        await ping(database)
    except DataStorageError as error:
        return error
    finally:
        await database.close()
    return None
