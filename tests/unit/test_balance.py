"""The Leases of the shards spread evenly over the processes that are there, and then stay where they are."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from datastorage.errors import ObjectChangedError
from datastorage.kube.leases import LeaseState
from datastorage.pipeline.balance import Balance
from datastorage.pipeline.lease import Lease, Pace

_PACE = Pace()


@dataclass
class _Store:
    states: dict[str, LeaseState] = field(default_factory=dict)
    writes: int = 0

    async def get(self, name: str, *, seconds: float) -> LeaseState | None:
        del seconds
        return self.states.get(name)

    async def put(self, name: str, state: LeaseState, *, seconds: float) -> LeaseState:
        del seconds
        present = self.states.get(name)
        if state.version != (None if present is None else present.version):
            raise ObjectChangedError("the Lease has been modified")
        self.writes += 1
        self.states[name] = replace(state, version=str(self.writes))
        return self.states[name]


class _Process:
    def __init__(self, world: "_World", identity: str) -> None:
        self.identity = identity
        self.leases = [
            Lease(world.store, f"shard-{number}", identity, pace=_PACE, clock=lambda: world.now)
            for number in range(world.shards)
        ]
        self._balance = Balance(self.leases, identity, clock=lambda: world.now)

    async def step(self) -> None:
        await self.look()
        await self.compare()

    async def look(self) -> None:
        for lease in self.leases:
            await lease.attempt()

    async def compare(self) -> None:
        await self._balance.compare()

    @property
    def held(self) -> set[int]:
        return {number for number, lease in enumerate(self.leases) if lease.is_held}


class _World:
    """Processes that try in turn, with a clock that goes on as little as they wait."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.store = _Store()
        self.now = 0.0
        self.processes: list[_Process] = []

    def start(self, identity: str) -> None:
        self.processes.append(_Process(self, identity))

    async def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for process in self.processes:
                await process.step()
                held = [shard for each in self.processes for shard in each.held]
                assert len(held) == len(set(held)), "one shard, two holders"
            self.now += _PACE.retry_seconds

    def check_balance(self) -> None:
        counts = [len(process.held) for process in self.processes]
        assert sum(counts) == self.shards
        assert max(counts) - min(counts) <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(1, 4), st.data())
async def test_they_spread_evenly_and_stay(shards: int, processes: int, data: st.DataObject) -> None:
    world = _World(shards)
    for number in range(processes):
        world.start(f"p{number}")
        await world.pass_time(data.draw(st.sampled_from([0.0, 2.0, 60.0])))
    await world.pass_time(120)
    world.check_balance()
    settled = [process.held for process in world.processes]
    await world.pass_time(60)
    assert [process.held for process in world.processes] == settled

    if processes > 1:
        world.processes.pop()  # killed: it releases nothing
        await world.pass_time(120)
        world.check_balance()
    world.start("new")
    await world.pass_time(120)
    world.check_balance()


async def test_nobody_asks_while_a_lease_is_free() -> None:
    world = _World(3)
    world.start("a")
    await world.pass_time(4)
    await world.processes[0].leases[0].release()
    world.start("b")
    writes = world.store.writes
    other = world.processes[1]
    for lease in other.leases[1:]:
        await lease.attempt()
    await Balance(other.leases, "b").compare()
    assert world.store.writes == writes


async def test_a_process_that_waits_for_a_lease_asks_for_no_other() -> None:
    world = _World(4)
    world.start("a")
    await world.pass_time(4)
    world.start("b")
    holder, other = world.processes

    async def compare() -> int:
        await other.step()
        return sum(state.requested_by == "b" for state in world.store.states.values())

    assert [await compare() for _ in range(5)] == [1] * 5
    await _renew(holder)
    assert len(holder.held) == 3
    assert await compare() == 1, "three and one: one more has to move"
    await _renew(holder)
    assert await compare() == 0, "two each"


async def test_a_request_without_an_answer_is_made_again() -> None:
    world = _World(2)
    world.start("a")
    await world.pass_time(4)
    world.start("b")
    holder, other = world.processes
    await other.step()
    for name, state in world.store.states.items():
        world.store.states[name] = replace(state, requested_by="")
    await other.compare()
    assert not any(state.requested_by for state in world.store.states.values())
    for _ in range(4):  # the holder goes on
        world.now += 4
        await _renew(holder)
        await other.look()
    await other.compare()
    assert any(state.requested_by for state in world.store.states.values())


async def _renew(process: _Process) -> None:
    """Renew all Leases of a process; the first attempt may meet a request that changed the Lease."""
    for lease in process.leases * 2:
        await lease.attempt()
