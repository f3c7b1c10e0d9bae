"""Creates the monthly partitions of the rows, each before the first row that needs it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from datastorage.storage.clock import time_of
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session

_ENSURE: Final = "SELECT datastorage.ensure_partitions($1)"
# The number of months after the current one whose partitions are created in advance.
_MONTHS_AHEAD: Final = 2


async def ensure(connection: Session, times: Iterable[datetime]) -> None:
    """Create the partitions for these times, if they are missing."""
    for time in {(time.year, time.month): time for time in times}.values():
        await connection.execute(_ENSURE, time)


async def prepare(database: Database) -> None:
    """Create the partitions of this month and the next ones, before the first record needs them."""
    async with database.connection() as connection:
        now = datetime.fromtimestamp(await time_of(connection), UTC)
        first = now.year * 12 + now.month - 1
        months = range(first, first + _MONTHS_AHEAD + 1)
        await ensure(connection, [datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in months])


class KnownPartitions:
    """Remembers the months whose partitions exist, so that a batch asks only for new ones."""

    def __init__(self, database: Database) -> None:
        """``database`` is that of the rows."""
        self._database = database
        self._months: set[tuple[int, int]] = set()
        self._known_generation = database.generation

    async def ensure(self, connection: Session, times: Iterable[datetime]) -> None:
        """Create the partitions for these times, unless they are known to exist."""
        if self._known_generation != self._database.generation:  # it may be another database now
            self._known_generation = self._database.generation
            self.forget()
        missing = {(time.year, time.month): time for time in times}
        for month in missing.keys() - self._months:
            await ensure(connection, [missing[month]])
            self._months.add(month)

    def forget(self) -> None:
        """Forget all partitions, because some may have been dropped."""
        self._months.clear()
