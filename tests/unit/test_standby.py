"""The lag of a standby is never said to be less than it is, whatever happens to either server."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from datastorage.errors import TransientError
from datastorage.query.standby import Pace, Standby
from datastorage.storage.replication import ServerState

STARTED = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Servers:
    """A primary and a standby whose positions a test moves; None is a server that is away."""

    primary: int | None = 100
    standby: int | None = 100
    is_standby: bool = True
    cluster: int = 1
    now: float = 1000.0
    positions: int = 1000
    watched: Standby = field(init=False)

    def __post_init__(self) -> None:
        pace = Pace(positions=self.positions)
        self.watched = Standby(self.ask_primary, self.ask_standby, pace=pace, clock=lambda: self.now)

    async def ask_primary(self) -> ServerState:
        if self.primary is None:
            raise TransientError("the primary is away")
        return ServerState(is_standby=False, cluster=1, database=5, started_at=STARTED, position=self.primary)

    async def ask_standby(self) -> ServerState:
        if self.standby is None:
            raise TransientError("the standby is away")
        restarted = datetime(2026, 3, 2, tzinfo=UTC)
        return ServerState(self.is_standby, self.cluster, 5, restarted, self.standby)

    async def later(self, seconds: float) -> float | None:
        """Let time pass, have a look, and return the lag."""
        self.now += seconds
        await self.watched.look()
        return self.watched.lag_since(self.watched.reached_at)


@pytest.fixture
def servers() -> Servers:
    return Servers()


async def test_a_standby_that_has_everything_does_not_lag(servers: Servers) -> None:
    assert servers.watched.problem is not None, "it was not asked yet"
    assert await servers.later(0) == 0
    assert servers.watched.problem is None
    assert await servers.later(3600) == 0, "nothing was written meanwhile"


async def test_the_lag_counts_from_the_last_position_that_was_reached(servers: Servers) -> None:
    await servers.later(0)
    servers.primary = 200
    assert await servers.later(10) == 10
    servers.primary = 300
    assert await servers.later(10) == 20
    assert servers.watched.lateness is None
    servers.standby = 250
    assert await servers.later(5) == 15, "it has reached the position of 15 seconds ago"
    assert await servers.later(100) == 115
    assert "lags 115 s" in str(servers.watched.lateness)
    servers.standby = 300
    assert await servers.later(1) == 0


async def test_an_answer_is_as_old_as_what_its_standby_had_at_its_beginning(servers: Servers) -> None:
    await servers.later(0)
    begun = servers.watched.reached_at
    servers.now += 7
    assert servers.watched.lag_since(begun) == 7


async def test_without_the_primary_nothing_is_known_to_be_new(servers: Servers) -> None:
    servers.primary = None
    assert await servers.later(0) is None
    assert servers.watched.problem is None, "it answers"
    servers.primary = 100
    assert await servers.later(1) == 0
    servers.primary = None
    assert await servers.later(60) == 60


async def test_a_primary_that_is_behind_its_predecessor_is_not_waited_for(servers: Servers) -> None:
    await servers.later(0)
    servers.primary = 500
    assert await servers.later(10) == 10
    servers.primary = servers.standby = 300  # the new primary never had what came after
    assert await servers.later(10) == 0


async def test_the_memory_for_positions_is_bounded(servers: Servers) -> None:
    servers = Servers(positions=8)
    await servers.later(0)
    for step in range(1, 200):
        servers.primary = 100 + step
        await servers.later(1)
    servers.standby = 250
    lag = await servers.later(0)
    assert lag is not None
    assert 49 <= lag <= 199, "perhaps too much, and never too little"
    assert len(servers.watched._ahead) <= 8  # a bound on memory shows nowhere else


@pytest.mark.parametrize("wrong", ["cluster", "promoted"])
async def test_a_server_that_is_no_copy_counts_as_away(servers: Servers, wrong: str) -> None:
    servers.cluster, servers.is_standby = (2, True) if wrong == "cluster" else (1, False)
    await servers.later(0)
    assert "DATASTORAGE_READ_DATABASE_URL" in (servers.watched.problem or "")
    await servers.watched.close()


async def test_a_question_under_way_ends_when_the_standby_is_away_however_long_it_takes(
    servers: Servers,
) -> None:
    await servers.later(0)
    ending = asyncio.Event()

    async def question() -> None:
        async with servers.watched.asked():
            try:
                await asyncio.Event().wait()
            finally:
                await ending.wait()  # its connection is given back

    asked = asyncio.create_task(question())
    await asyncio.sleep(0)
    servers.standby = None
    for _ in range(3):
        await servers.later(1)
        await asyncio.sleep(0)
    ending.set()
    with pytest.raises(TransientError, match="the standby is away"):
        await asked
    await servers.watched.close()
