"""A Lease has one holder at a time, whatever the API server answers and whatever the clocks say."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.errors import ClusterUnavailableError, ForbiddenError, ObjectChangedError
from datastorage.kube.leases import LeaseState
from datastorage.pipeline.lease import Lease, Pace
from harness.polling import DEADLINE_SECONDS, settle

_PACE = Pace(attempt_seconds=0.05)


@dataclass
class _Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class _Store:
    """Leases as an API server keeps them; ``fault`` is raised instead of an answer."""

    state: LeaseState | None = None
    version: int = 0
    fault: Exception | None = None
    hangs: bool = False
    applies: bool = False
    """Whether a write takes effect although its answer is a fault."""
    requests: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """Answers wait for it."""

    async def get(self, name: str, *, seconds: float) -> LeaseState | None:
        del name, seconds
        self.requests.append("get")
        await self._answer()
        return self.state

    async def put(self, name: str, state: LeaseState, *, seconds: float) -> LeaseState:
        del name, seconds
        self.requests.append("put")
        if not self.applies:
            await self._answer()
        if state.version != (None if self.state is None else self.state.version):
            raise ObjectChangedError("Lease: the object has been modified")
        self.version += 1
        self.state = replace(state, version=str(self.version))
        await self._answer()
        return self.state

    async def _answer(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.hangs:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault


def _lease(
    store: _Store,
    clock: Callable[[], float],
    identity: str = "a",
    *,
    is_fit: Callable[[], bool] = lambda: True,
) -> Lease:
    return Lease(store, "shard-0", identity, is_fit=is_fit, pace=_PACE, clock=clock)


async def test_a_lease_that_nobody_holds_is_a_problem_with_its_reason() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    assert "no process is known to hold the Lease shard-0" in (await other.problem() or "")
    for lease in (holder, other):
        await lease.attempt()
        assert await lease.problem() is None
    store.fault = ClusterUnavailableError("API server: no connection")
    await other.attempt()
    assert await other.problem() is None, "the holder may still have it"
    clock.now += _PACE.duration_seconds
    for lease in (holder, other):
        await lease.attempt()
        assert (await lease.problem() or "").endswith(": API server: no connection")
    store.fault = None
    await holder.attempt()
    assert await holder.problem() is None


async def test_a_free_lease_is_taken_and_renewed_with_one_request_each_time() -> None:
    store, clock = _Store(), _Clock()
    lease = _lease(store, clock)
    assert not lease.is_held
    assert await lease.attempt() == _PACE.renew_seconds
    assert lease.is_held
    store.requests.clear()
    for _ in range(5):
        clock.now += _PACE.renew_seconds
        await lease.attempt()
        assert lease.is_held
    assert store.requests == ["put"] * 5
    assert store.state is not None
    assert (store.state.holder, store.state.transitions) == ("a", 0)


async def test_another_waits_until_the_lease_was_not_renewed_for_its_duration() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    for _ in range(10):
        clock.now += _PACE.renew_seconds
        await holder.attempt()
        assert 0 < await other.attempt() <= 1.2 * _PACE.retry_seconds
        assert not other.is_held
    clock.now += _PACE.duration_seconds - 0.1
    assert await other.attempt() == pytest.approx(0.1)
    assert (holder.is_held, other.is_held) == (False, False), "the holder stops before another begins"
    clock.now += 0.1
    await other.attempt()
    assert other.is_held
    assert store.state is not None
    assert (store.state.holder, store.state.transitions) == ("b", 1)


async def test_a_released_lease_is_taken_at_once() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    await other.attempt()
    await holder.release()
    assert not holder.is_held
    await other.attempt()
    assert other.is_held


async def test_releasing_takes_the_lease_from_nobody_else() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    await other.attempt()
    clock.now += _PACE.duration_seconds
    await other.attempt()
    await holder.release()
    await other.release()
    assert store.state is not None
    assert store.state.holder == ""
    await other.release()
    assert store.requests.count("put") == 3


@pytest.mark.parametrize("what", ["a renewal", "taking it"])
async def test_a_lease_is_released_also_while_an_attempt_is_under_way(what: str) -> None:
    store, clock = _Store(), _Clock()
    lease = _lease(store, clock)
    if what == "a renewal":
        await lease.attempt()
    store.gate = asyncio.Event()
    attempt = asyncio.create_task(lease.attempt())
    await settle()
    release = asyncio.create_task(lease.release())
    await settle()
    assert not release.done()
    store.gate.set()
    await asyncio.gather(attempt, release)
    assert store.state is None or store.state.holder == ""
    assert not lease.is_held


async def test_a_lease_is_released_after_an_attempt_that_failed() -> None:
    store, clock = _Store(), _Clock()
    lease = _lease(store, clock)
    await lease.attempt()
    store.fault = ClusterUnavailableError("away")
    await lease.attempt()
    store.fault = None
    await lease.release()
    assert store.state is not None
    assert store.state.holder == ""


async def test_a_lease_is_released_although_another_process_has_just_asked_for_it() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    await other.ask()
    await holder.release()
    assert store.state is not None
    assert store.state.holder == ""


async def test_a_process_that_stops_keeps_its_lease_and_takes_no_other() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    await other.attempt()
    holder.retire()
    await other.ask()
    for _ in range(3):
        clock.now += await holder.attempt()
        await other.attempt()
        assert (holder.is_held, other.is_held) == (True, False), "it is handed over to nobody"
    await holder.release()
    other.retire()
    store.requests.clear()
    clock.now += _PACE.duration_seconds
    await other.attempt()
    await other.ask()
    await other.release()
    assert not other.is_held
    assert store.requests == ["get"]


async def test_a_lease_that_does_not_exist_is_not_made_by_a_process_that_stops() -> None:
    store = _Store()
    lease = _lease(store, _Clock())
    lease.retire()
    await lease.attempt()
    assert store.state is None


async def test_a_lease_is_handed_over_to_a_process_that_asks_for_it() -> None:
    store, clock = _Store(), _Clock()
    holder, other, third = (_lease(store, clock, identity) for identity in "abc")
    for lease in (holder, other, third):
        await lease.attempt()
    await other.ask()
    assert holder.is_held
    lost = asyncio.create_task(holder.until_lost())
    await asyncio.sleep(0)
    assert await holder.attempt() == 0.0, "its renewal meets the request"
    await holder.attempt()
    await asyncio.wait_for(lost, DEADLINE_SECONDS)
    await holder.attempt()
    await third.attempt()
    await other.attempt()
    assert [lease.is_held for lease in (holder, other, third)] == [False, True, False]
    assert store.state is not None
    assert (store.state.holder, store.state.transitions, store.state.requested_by) == ("b", 1, "")
    await other.attempt()
    assert other.is_held, "it keeps what it asked for"


async def test_a_request_does_not_make_a_dead_holder_look_alive() -> None:
    store, clock = _Store(), _Clock()
    holder, other, third = (_lease(store, clock, identity) for identity in "abc")
    for lease in (holder, other, third):
        await lease.attempt()
    clock.now += _PACE.duration_seconds - 1
    await other.ask()
    await third.attempt()
    clock.now += 1
    assert third.holder == ""
    await third.attempt()
    assert third.is_held


async def test_a_process_that_asked_and_ended_holds_up_the_others_no_longer_than_a_lease() -> None:
    store, clock = _Store(), _Clock()
    holder, gone, third = (_lease(store, clock, identity) for identity in "abc")
    for lease in (holder, gone, third):
        await lease.attempt()
    await gone.ask()
    await holder.attempt()
    await holder.attempt()
    await third.attempt()
    assert third.holder == "b"
    clock.now += _PACE.duration_seconds
    await third.attempt()
    assert third.is_held


async def test_a_process_that_can_t_do_the_work_takes_no_lease_and_asks_for_none() -> None:
    store, clock, fit = _Store(), _Clock(), {"a": False, "b": True}
    unfit = _lease(store, clock, is_fit=lambda: fit["a"])
    other = _lease(store, clock, "b")
    await unfit.attempt()
    assert store.state is None
    await other.attempt()
    await unfit.ask()
    await other.attempt()
    assert other.is_held
    await other.release()
    clock.now += 1
    await unfit.attempt()
    assert not unfit.is_held
    fit["a"] = True
    await unfit.attempt()
    assert unfit.is_held


async def test_a_holder_that_can_t_do_the_work_leaves_it_to_one_that_can() -> None:
    store, clock, fit = _Store(), _Clock(), {"a": True, "b": False, "c": False}
    holder, other, third = (_lease(store, clock, name, is_fit=lambda name=name: fit[name]) for name in "abc")  # type: ignore[misc]

    async def rounds(seconds: float) -> None:
        end = clock.now + seconds
        while clock.now < end:
            for lease in (holder, other, third):
                await lease.attempt()
            clock.now += 2.0

    await rounds(10)
    fit["a"] = False
    await rounds(_PACE.unfit_seconds - 5)
    assert store.state is not None
    assert not store.state.offered, "it may be able to again soon"
    await rounds(60)
    assert store.state.offered
    assert holder.is_held, "nobody else can do it either"
    fit["c"] = True
    await rounds(10)
    assert [lease.is_held for lease in (holder, other, third)] == [False, False, True]
    assert not store.state.offered
    fit["a"] = True
    await rounds(60)
    assert third.is_held, "it stays where the work is done"


async def test_a_holder_that_can_do_the_work_again_keeps_its_lease() -> None:
    store, clock, fit = _Store(), _Clock(), {"a": False}
    fit["a"] = True
    holder = _lease(store, clock, is_fit=lambda: fit["a"])
    await holder.attempt()
    for fit["a"] in (False, True, False):
        for _ in range(5):
            clock.now += _PACE.renew_seconds
            await holder.attempt()
            assert store.state is not None
            assert not store.state.offered


async def test_a_request_is_withdrawn_by_a_process_that_stops() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    await other.attempt()
    await other.ask()
    await other.release()
    await holder.attempt()
    await holder.attempt()
    assert holder.is_held


async def test_a_request_that_is_under_way_is_withdrawn_by_a_process_that_stops() -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), Lease(store, "shard-0", "b", clock=clock)
    await holder.attempt()
    await other.attempt()
    store.gate = asyncio.Event()
    request = asyncio.create_task(other.ask())
    await settle()
    release = asyncio.create_task(other.release())
    await settle()
    store.gate.set()
    await asyncio.gather(request, release)
    assert store.requests.count("put") == 3, "it was taken, asked for, and the request was withdrawn"
    assert store.state is not None
    assert store.state.requested_by == ""


async def test_whatever_is_wrong_with_an_answer_ends_neither_a_request_nor_a_stop() -> None:
    store = _Store()
    lease = _lease(store, _Clock())
    await lease.attempt()
    store.fault = AttributeError("a bug")
    await lease.ask()
    await lease.release()


async def test_a_lease_that_says_it_lasts_for_years_is_taken_after_a_minute() -> None:
    store, clock = _Store(), _Clock()
    store.state = LeaseState("gone", 2**31 - 1, "", "", 2**31 - 1, version="0")
    lease = _lease(store, clock)
    await lease.attempt()
    assert lease.holder == "gone"
    clock.now += _PACE.longest_seconds
    assert lease.holder == ""
    await lease.attempt()
    assert lease.is_held


@pytest.mark.parametrize("fault", [ClusterUnavailableError("away"), None], ids=["away", "hangs"])
async def test_a_request_that_fails_changes_nothing(fault: Exception | None) -> None:
    store, clock = _Store(), _Clock()
    holder, other = _lease(store, clock), _lease(store, clock, "b")
    await holder.attempt()
    await other.attempt()
    store.fault, store.hangs = fault, fault is None
    await other.ask()
    store.fault, store.hangs = None, False
    await holder.attempt()
    assert holder.is_held


@pytest.mark.parametrize(
    "store",
    [
        _Store(fault=ClusterUnavailableError("connection refused")),
        _Store(fault=ForbiddenError("no right")),
        _Store(fault=RuntimeError("a bug")),
        _Store(fault=ObjectChangedError("409")),
        _Store(hangs=True),
    ],
    ids=["unavailable", "forbidden", "bug", "conflict", "hangs"],
)
async def test_a_failed_attempt_is_repeated_and_the_lease_ends_at_its_deadline(store: _Store) -> None:
    fault, hangs = store.fault, store.hangs
    store.fault, store.hangs = None, False
    clock = _Clock()
    lease = _lease(store, clock)
    await lease.attempt()
    store.fault, store.hangs = fault, hangs
    began = clock.now
    while clock.now - began < _PACE.deadline_seconds:
        assert lease.is_held
        clock.now += max(await lease.attempt(), 0.5)
    assert not lease.is_held
    store.fault, store.hangs = None, False
    await lease.attempt()
    assert lease.is_held, "nobody else has taken it"


async def test_a_reason_is_logged_once_a_minute_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store, clock = _Store(), _Clock()
    lease = _lease(store, clock)

    async def logged(count: int, fault: Exception | None) -> list[str]:
        caplog.clear()
        store.fault = fault
        for _ in range(count):
            await lease.attempt()
        return [record.getMessage() for record in caplog.records]

    failed = "A Lease could be neither read nor written"
    assert await logged(5, ClusterUnavailableError("away")) == [failed]
    assert await logged(5, ForbiddenError("no right")) == [failed], "another reason"
    clock.now += _PACE.remind_seconds
    assert await logged(5, ForbiddenError("no right")) == [failed], "a reminder"
    assert await logged(5, None) == ["A Lease can be read and written again"]
    assert await logged(5, ForbiddenError("no right")) == [failed], "the next time"


async def test_a_slow_api_server_does_not_cost_the_lease() -> None:
    """Every answer takes as long as an attempt waits at most, and the Lease is held all the time."""
    clock = _Clock()

    class _Slow(_Store):
        async def get(self, name: str, *, seconds: float) -> LeaseState | None:
            clock.now += Pace().max_attempt_seconds
            return await super().get(name, seconds=seconds)

        async def put(self, name: str, state: LeaseState, *, seconds: float) -> LeaseState:
            clock.now += Pace().max_attempt_seconds
            return await super().put(name, state, seconds=seconds)

    slow = _Slow()
    lease = Lease(slow, "shard-0", "a", clock=clock)
    await lease.attempt()
    for _ in range(10):
        assert lease.is_held
        assert await lease.attempt() == 0.0, "the next renewal is due when the answer is there"


async def test_a_write_without_an_answer_that_took_effect_is_noticed() -> None:
    store, clock = _Store(hangs=True, applies=True), _Clock()
    lease = _lease(store, clock)
    store.state = None
    store.hangs = False
    store.fault = ClusterUnavailableError("reset")
    await lease.attempt()  # the GET fails
    store.fault = None
    await lease.attempt()
    store.fault = ClusterUnavailableError("reset after the write")
    clock.now += _PACE.renew_seconds
    await lease.attempt()
    store.fault = None
    await lease.attempt()
    assert lease.is_held
    assert store.state is not None
    assert store.state.transitions == 0


async def test_the_times_in_the_lease_do_not_count() -> None:
    """The holder's clock may be years ahead or behind."""
    store, clock = _Store(), _Clock()
    await _lease(store, clock).attempt()
    assert store.state is not None
    for year in ("1970", "2999"):
        store.state = replace(store.state, renewed_at=f"{year}-01-01T00:00:00.000000Z")
        other = _lease(store, clock, "b")
        await other.attempt()
        clock.now += _PACE.duration_seconds - 1
        await other.attempt()
        assert not other.is_held


async def test_of_two_that_take_it_at_the_same_time_one_gets_it() -> None:
    store, clock = _Store(), _Clock()
    leases = [_lease(store, clock, identity) for identity in "abc"]
    await asyncio.gather(*(lease.attempt() for lease in leases))
    assert sum(lease.is_held for lease in leases) == 1


async def test_waiting_for_the_lease_and_for_its_end() -> None:
    store, clock = _Store(), _Clock()
    lease = _lease(store, clock)
    held = asyncio.create_task(lease.until_held())
    await asyncio.sleep(0)
    assert not held.done()
    await lease.attempt()
    await asyncio.wait_for(held, DEADLINE_SECONDS)
    clock.now += _PACE.deadline_seconds
    await asyncio.wait_for(lease.until_lost(), DEADLINE_SECONDS)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.floats(0, 20, allow_nan=False),
        st.sampled_from(["well", "refused", "lost answer", "release", "ask"]),
    ),
    max_size=60,
)


@given(_STEPS)
async def test_there_are_never_two_holders(steps: list[tuple[str, float, str]]) -> None:
    """Whoever tries, whenever, and whatever becomes of the requests."""
    store, clock = _Store(), _Clock()
    leases = {identity: _lease(store, clock, identity) for identity in "abc"}
    for identity, seconds, what in steps:
        clock.now += seconds
        store.fault = ClusterUnavailableError(what) if what in {"refused", "lost answer"} else None
        store.applies = what == "lost answer"
        if what == "release":
            await leases[identity].release()
        elif what == "ask":
            await leases[identity].ask()
        else:
            await leases[identity].attempt()
        assert sum(lease.is_held for lease in leases.values()) <= 1
