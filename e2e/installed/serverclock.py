"""PostgreSQL's clock, as seen from this machine, whose own clock may show another time."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

_READINGS: Final = 5


@dataclass(frozen=True)
class ServerClock:
    """One reading: what the clock showed, and when it was asked for that, by ``time.monotonic``."""

    shown: datetime
    asked: float

    def latest(self, moment: float) -> datetime:
        """Return what the clock showed at most at a moment of ``time.monotonic``, earlier or later.

        The clock showed the answer after it was asked, so when it was asked it showed no more than that.
        """
        return self.shown + timedelta(seconds=moment - self.asked)


async def read_clock(url: str) -> ServerClock:
    """Return the reading with the shortest way there and back, which is the most exact."""
    connection = await asyncpg.connect(url)
    try:
        readings = []
        for _ in range(_READINGS):
            asked = time.monotonic()
            shown = await connection.fetchval("SELECT clock_timestamp()")
            readings.append((time.monotonic() - asked, ServerClock(shown, asked)))
    finally:
        await connection.close()
    return min(readings, key=lambda each: each[0])[1]
