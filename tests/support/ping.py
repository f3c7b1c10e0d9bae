"""A question that any PostgreSQL answers."""

from datastorage.storage.connection.database import Database

# A server that takes longer is not there.
_SECONDS = 5.0


async def ping(database: Database) -> None:
    """Raise what the database raises where no server answers."""
    async with database.connection() as connection:
        await connection.fetchval("SELECT 1", timeout=_SECONDS)
