"""The monthly partitions of the rows: they are made before the first row that needs them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session

_ENSURE: Final = "SELECT datastorage.ensure_partitions($1)"
_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::double precision"
# How many months ahead of now partitions are kept in readiness.
_MONTHS_AHEAD: Final = 2


async def ensure(connection: Session, times: Iterable[datetime]) -> None:
    """Make the partitions for these times, where they are missing."""
    for time in {(time.year, time.month): time for time in times}.values():
        await connection.execute(_ENSURE, time)


async def time_of(connection: Session) -> float:
    """Return what PostgreSQL's clock says, in Unix seconds."""
    return float(await connection.fetchval(_TIME))


async def prepare(connection: Session) -> None:
    """Make the partitions of this month and the coming ones, before the first record needs them."""
    now = datetime.fromtimestamp(await time_of(connection), UTC)
    first = now.year * 12 + now.month - 1
    months = range(first, first + _MONTHS_AHEAD + 1)
    await ensure(connection, [datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in months])


class KnownPartitions:
    """The months whose partitions have been seen, so that a batch asks for new ones alone."""

    def __init__(self, database: Database) -> None:
        """Take the database of the rows."""
        self._database = database
        self._months: set[tuple[int, int]] = set()
        self._seen_in = database.generation

    async def ensure(self, connection: Session, times: Iterable[datetime]) -> None:
        """Make the partitions for these times, where they have not been seen."""
        if self._seen_in != self._database.generation:  # it may be another database by now
            self._seen_in = self._database.generation
            self.forget()
        missing = {(time.year, time.month): time for time in times}
        for month in missing.keys() - self._months:
            await ensure(connection, [missing[month]])
            self._months.add(month)

    def forget(self) -> None:
        """Ask for all partitions again: retention may have dropped some."""
        self._months.clear()
