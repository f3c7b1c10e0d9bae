"""The time by PostgreSQL's clock, in Unix seconds."""

from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session

_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::double precision"


async def time_of(connection: Session) -> float:
    """Return the time."""
    return float(await connection.fetchval(_TIME))


async def time_in(database: Database) -> float:
    """Return the time. Raises TransientError when PostgreSQL can't serve."""
    async with database.connection() as connection:
        return await time_of(connection)
