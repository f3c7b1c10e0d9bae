"""The breaker: work waits and is not lost, one probe serves all, and an absent server is not hammered."""

import asyncio
import math
import random
import time
from functools import partial

import pytest

from datastorage import metrics
from datastorage.errors import ConfigurationError, RecordRefusedError, TransientError, WorkRefusedError
from datastorage.resilience.breaker import Breaker, Pace
from harness.polling import DEADLINE_SECONDS, eventually, settle
from tests.support.fakes import Probe
from tests.support.pace import AT_ONCE
from tests.support.tasks import Spawn

_sleep = asyncio.sleep  # ``delays`` replaces the other name


class Dependency:
    """Serves, or does not."""

    def __init__(self) -> None:
        self.down = False
        self.calls = 0

    async def operation(self) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        if self.down:
            raise TransientError("server is shutting down")
        return "done"

    async def probe(self) -> None:
        await self.operation()


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, the longest that chance allows; they take no time."""
    made: list[float] = []

    async def record(delay: float) -> None:
        if delay:
            made.append(delay)
        await _sleep(0)

    monkeypatch.setattr(asyncio, "sleep", record)
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    return made


async def test_a_result_is_passed_on(breaker: Breaker, recoveries: list[None]) -> None:
    assert await breaker.run(Dependency().operation) == "done"
    assert breaker.reason is None
    assert recoveries == []


async def test_an_operation_is_repeated_until_it_succeeds(
    breaker: Breaker, probe: Probe, recoveries: list[None], spawn: Spawn
) -> None:
    dependency = Dependency()
    dependency.down = True
    probe.errors = [TransientError(f"no {n}") for n in range(3)]
    waiting = spawn(breaker.run(dependency.operation))
    await eventually(lambda: probe.asked > 3)
    assert breaker.reason is not None
    assert not waiting.done()
    dependency.down = False
    assert await waiting == "done"
    assert breaker.reason is None
    assert len(recoveries) == 1


async def test_it_says_since_when_it_and_its_server_serve(
    breaker: Breaker, probe: Probe, spawn: Spawn
) -> None:
    table, dependency = Breaker(metrics.Dependency.AUDIT_RECORDS, probe, within=breaker), Dependency()
    assert table.serving_since == -math.inf
    dependency.down = True
    waiting = spawn(breaker.run(dependency.operation))
    await eventually(lambda: breaker.reason is not None)
    assert table.serving_since == math.inf
    dependency.down, before = False, time.monotonic()
    await waiting
    assert before <= table.serving_since <= time.monotonic()


async def test_an_error_that_waiting_does_not_cure_ends_the_wait() -> None:
    """A certificate file may disappear while the server is away. Only the probe would meet the error."""
    failures: list[Exception] = [TransientError("away"), ConfigurationError("the certificate is gone")]

    async def operation() -> None:
        raise failures.pop(0)

    async def probe() -> None:
        raise ConfigurationError("the certificate is gone")

    breaker = Breaker(metrics.Dependency.POSTGRES, probe)
    with pytest.raises(ConfigurationError, match="the certificate is gone"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await breaker.run(operation)
    await breaker.close()


async def test_one_probes_while_all_wait_and_all_go_on(recoveries: list[None], spawn: Spawn) -> None:
    dependency, gate, probes = Dependency(), asyncio.Event(), 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        await gate.wait()

    breaker = Breaker(
        metrics.Dependency.POSTGRES, probe, on_recovery=lambda: recoveries.append(None), pace=AT_ONCE
    )
    dependency.down = True
    waiting = [spawn(breaker.run(dependency.operation)) for _ in range(10)]
    await eventually(lambda: probes == 1)
    late = spawn(breaker.run(dependency.operation))
    await settle()
    calls = dependency.calls
    await settle()
    # While it is away, only the probe asks.
    assert (probes, dependency.calls) == (1, calls)
    dependency.down = False
    gate.set()
    assert await asyncio.gather(*waiting, late) == ["done"] * 11
    assert len(recoveries) == 1


async def test_other_errors_pass(breaker: Breaker) -> None:
    async def refuse() -> None:
        raise RecordRefusedError("bad value")

    with pytest.raises(RecordRefusedError):
        await breaker.run(refuse)
    assert breaker.reason is None


async def test_the_delay_grows_while_the_probe_succeeds_and_the_operation_fails(
    delays: list[float], probe: Probe, spawn: Spawn
) -> None:
    """A server that answers but can't store (read-only, disk full) is not asked in a hot loop."""
    dependency = Dependency()
    dependency.down = True
    breaker = Breaker(metrics.Dependency.POSTGRES, probe)
    waiting = spawn(breaker.run(dependency.operation))
    while len(delays) < 7:
        await _sleep(0)
    dependency.down = False
    await waiting
    assert delays[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    dependency.down = True
    delays.clear()
    again = spawn(breaker.run(dependency.operation))
    while not delays:
        await _sleep(0)
    assert delays[0] == 0.1
    dependency.down = False
    await again


async def test_a_cancelled_caller_leaves_nobody_waiting(spawn: Spawn) -> None:
    dependency, asked, gate = Dependency(), asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        asked.set()
        await gate.wait()

    breaker = Breaker(metrics.Dependency.POSTGRES, probe)
    dependency.down = True
    first = spawn(breaker.run(dependency.operation))
    await asked.wait()
    other = spawn(breaker.run(dependency.operation))
    await settle()
    first.cancel()
    dependency.down = False
    gate.set()
    assert await other == "done"


async def test_an_attempt_fails_at_once_and_the_return_is_noticed_without_it(
    breaker: Breaker, probe: Probe, recoveries: list[None]
) -> None:
    dependency = Dependency()
    dependency.down = True
    probe.errors = [TransientError("still away")] * 3
    with pytest.raises(TransientError, match="shutting down"):
        await breaker.attempt(dependency.operation)
    with pytest.raises(TransientError, match="shutting down"):
        await breaker.attempt(dependency.operation)
    # The second one was answered without asking.
    assert dependency.calls == 1
    dependency.down = False
    await eventually(lambda: probe.asked == 4)
    await settle()
    assert await breaker.attempt(dependency.operation) == "done"
    assert (breaker.reason, len(recoveries)) == (None, 1)


async def test_an_outage_ends_although_all_who_waited_were_cancelled(
    probe: Probe, recoveries: list[None], spawn: Spawn
) -> None:
    trial, dependency = Probe(), Dependency()
    breaker = Breaker(
        metrics.Dependency.POSTGRES,
        probe,
        trial=trial,
        on_recovery=lambda: recoveries.append(None),
        pace=Pace(first=0.0, max=0.0),
    )
    dependency.down = True
    probe.errors = [TransientError("still away")] * 3
    trial.errors = [TransientError("takes no writes yet")]
    waiting = spawn(breaker.judge(dependency.operation))
    await eventually(lambda: not breaker.serving)
    waiting.cancel()
    await eventually(lambda: breaker.reason is None)
    assert trial.asked > 1, "the trial that failed was repeated"
    assert len(recoveries) == 1
    asked = trial.asked
    await settle()
    assert trial.asked == asked
    await breaker.close()


async def test_a_trial_ends_no_outage_between_two_failures_again_and_again(
    delays: list[float], probe: Probe
) -> None:
    """A server with a full disk takes the trial and refuses work, which comes every few seconds."""

    async def outage() -> None:
        with pytest.raises(TransientError):
            await breaker.attempt(dependency.operation)
        while breaker.reason is not None:
            await _sleep(0)

    dependency = Dependency()
    breaker = Breaker(metrics.Dependency.POSTGRES, probe, trial=Probe())
    dependency.down = True
    for _ in range(7):
        await outage()
    assert delays[1::2] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    dependency.down = False
    await breaker.attempt(dependency.operation)
    dependency.down = True
    await outage()
    assert delays[-1] == 2.0
    await breaker.close()


async def test_a_success_that_proves_nothing_does_not_end_an_outage(probe: Probe) -> None:
    dependency = Dependency()
    breaker = Breaker(metrics.Dependency.POSTGRES, probe, trial=Probe(), pace=Pace(first=0.0, max=10_000.0))
    dependency.down = True
    with pytest.raises(TransientError):
        await breaker.attempt(dependency.operation)
    await eventually(lambda: breaker.serving)
    dependency.down = False
    assert await breaker.attempt(dependency.operation, is_proof=False) == "done"
    assert breaker.reason is not None
    await breaker.attempt(dependency.operation)
    assert breaker.reason is None
    await breaker.close()


async def test_no_trial_is_made_beside_an_operation_that_shows_as_much(probe: Probe, spawn: Spawn) -> None:
    trial, answered = Probe(), asyncio.Event()
    breaker = Breaker(metrics.Dependency.POSTGRES, probe, trial=trial, pace=Pace(first=0.0, max=0.0))
    calls = 0

    async def operation() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise TransientError("away")
        await answered.wait()

    waiting = spawn(breaker.judge(operation))
    await eventually(lambda: calls == 2)
    await settle()
    assert trial.asked == 0
    assert breaker.reason == "away", "the operation may fail again"
    answered.set()
    await waiting
    assert breaker.reason is None
    await breaker.close()


async def test_closing_ends_the_probing(probe: Probe) -> None:
    dependency = Dependency()
    dependency.down = True
    probe.errors = [TransientError("still away")] * 1000
    breaker = Breaker(metrics.Dependency.POSTGRES, probe)
    with pytest.raises(TransientError):
        await breaker.attempt(dependency.operation)
    await breaker.close()
    asked = probe.asked
    await settle()
    assert probe.asked == asked


async def test_an_unforeseen_failure_of_the_probe_ends_all_waits(
    breaker: Breaker, probe: Probe, spawn: Spawn
) -> None:
    dependency = Dependency()
    dependency.down = True
    probe.errors = [RuntimeError("a bug"), TransientError("still away")]
    waiting = spawn(breaker.run(dependency.operation))
    await eventually(lambda: probe.asked >= 2)
    dependency.down = False
    assert await waiting == "done"


@pytest.mark.parametrize("error", [WorkRefusedError("too slow"), RecordRefusedError("too long")])
async def test_work_that_is_refused_while_others_are_served_is_judged_at_once(
    probe: Probe, recoveries: list[None], error: Exception
) -> None:
    trial = Probe()
    breaker = Breaker(
        metrics.Dependency.POSTGRES,
        probe,
        on_recovery=lambda: recoveries.append(None),
        trial=trial,
        pace=AT_ONCE,
    )

    async def work() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        await breaker.judge(work)
    assert (trial.asked, probe.asked) == (1, 0)
    assert breaker.serving
    assert breaker.reason is None


@pytest.mark.parametrize("error", [WorkRefusedError("too slow"), RecordRefusedError("too long")])
async def test_work_that_is_refused_as_all_work_is_waits_for_the_server(
    probe: Probe, recoveries: list[None], error: Exception
) -> None:
    trial, calls = Probe(), 0
    trial.errors = [TransientError("the table is locked"), WorkRefusedError("the table is locked")]
    breaker = Breaker(
        metrics.Dependency.POSTGRES,
        probe,
        on_recovery=lambda: recoveries.append(None),
        trial=trial,
        pace=AT_ONCE,
    )

    async def work() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        assert breaker.reason == "the table is locked"
        return calls

    assert await breaker.judge(work) == 2
    assert (trial.asked, probe.asked) == (3, 0), "what has failed has to succeed"
    assert breaker.reason is None
    assert len(recoveries) == 1


async def test_successful_reads_do_not_end_an_outage_of_writes(
    probe: Probe, recoveries: list[None], spawn: Spawn
) -> None:
    trial, refusals = Probe(), iter([WorkRefusedError("a trigger")])
    trial.errors = [RecordRefusedError("a trigger refuses all rows")] * 50
    breaker = Breaker(
        metrics.Dependency.POSTGRES,
        probe,
        on_recovery=lambda: recoveries.append(None),
        trial=trial,
        pace=AT_ONCE,
    )

    async def write() -> None:
        for refusal in refusals:
            raise refusal

    async def read() -> bool:
        return not trial.errors

    writing = spawn(breaker.judge(write))
    await eventually(lambda: trial.asked > 1)
    assert await breaker.judge(read), "it was tried only after a harmless write had succeeded"
    await writing
    assert (len(recoveries), probe.asked) == (1, 0)


async def test_work_that_can_t_be_divided_is_repeated_without_delaying_others(breaker: Breaker) -> None:
    calls = 0

    async def work() -> int:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise WorkRefusedError("too slow")
        return calls

    assert await breaker.run(work) == 4
    assert breaker.serving


async def test_a_refusal_is_reported_until_its_own_work_ends(breaker: Breaker, spawn: Spawn) -> None:
    refused = {"first", "second", "third"}

    async def work(name: str) -> str:
        if name in refused:
            raise WorkRefusedError(f"{name} is too slow")
        return name

    first, second, third = (spawn(breaker.run(partial(work, name))) for name in sorted(refused))
    await eventually(lambda: breaker.refused == "first is too slow")
    assert await breaker.run(partial(work, "other")) == "other"
    assert breaker.refused == "first is too slow"
    refused.remove("first")
    assert await first == "first"
    assert breaker.refused == "second is too slow"
    second.cancel()
    await eventually(lambda: breaker.refused == "third is too slow")
    refused.clear()
    assert await third == "third"
    assert breaker.refused is None


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def fail_and_return(breaker: Breaker, dependency: Dependency) -> None:
    """Let an operation fail once, and the next one succeed."""
    dependency.down = True
    with pytest.raises(TransientError):
        await breaker.attempt(dependency.operation)
    dependency.down = False
    await eventually(lambda: breaker.serving)
    assert await breaker.attempt(dependency.operation) == "done"


async def test_an_outage_is_logged_when_it_begins_and_ends(
    breaker: Breaker, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    probe.errors = [TransientError("still away")] * 3
    await fail_and_return(breaker, Dependency())
    await fail_and_return(breaker, Dependency())
    assert said(caplog) == ["postgres does not serve", "postgres serves again"] * 2
    assert vars(caplog.records[0])["error"] == "server is shutting down"
    assert vars(caplog.records[1])["skipped_uses"] == 1


async def test_a_long_outage_is_logged_again_and_again(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = Breaker(metrics.Dependency.POSTGRES, probe, pace=Pace(first=0.0, remind=0.0))
    probe.errors = [TransientError("still away")] * 3
    await fail_and_return(breaker, Dependency())
    assert said(caplog) == [
        "postgres does not serve", *["postgres still does not serve"] * 3, "postgres serves again",
    ]  # fmt: skip


async def test_after_an_outage_the_next_ones_are_not_logged_for_a_while(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = Breaker(metrics.Dependency.REDIS, probe, pace=Pace(first=0.0, quiet=10_000.0))
    for _ in range(3):
        await fail_and_return(breaker, Dependency())
    assert said(caplog) == ["redis does not serve", "redis serves again"]
    assert breaker.reason is None


async def test_attempts_that_are_not_made_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    gate, dependency = asyncio.Event(), Dependency()

    async def wait() -> None:
        await gate.wait()

    breaker = Breaker(metrics.Dependency.REDIS, wait, pace=AT_ONCE)
    dependency.down = True
    for _ in range(4):
        with pytest.raises(TransientError):
            await breaker.attempt(dependency.operation)
    dependency.down = False
    gate.set()
    await eventually(lambda: breaker.serving)
    await breaker.attempt(dependency.operation)
    assert dependency.calls == 2
    assert vars(caplog.records[-1])["skipped_uses"] == 4


async def test_work_that_is_refused_for_long_is_logged(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    breaker, refusals = Breaker(metrics.Dependency.POSTGRES, probe, pace=Pace(first=0.0, max=0.0)), 5

    async def work() -> int:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise WorkRefusedError("too slow")
        return refusals

    await breaker.run(work)
    assert said(caplog) == ["postgres serves, and refuses a piece of work; it is repeated"]


async def test_a_component_of_a_server_waits_alone(spawn: Spawn) -> None:
    """A table takes no rows, and the server has others that do."""
    broken = True

    async def works() -> None:
        pass

    async def trial() -> None:
        if broken:
            raise WorkRefusedError("no such column")

    server = Breaker(metrics.Dependency.POSTGRES, works, pace=AT_ONCE)
    table = Breaker(metrics.Dependency.AUDIT_RECORDS, trial, within=server, pace=AT_ONCE)
    other = Breaker(metrics.Dependency.ACTION_TRACES, works, within=server, pace=AT_ONCE)
    waiting = spawn(table.judge(trial))
    await eventually(lambda: table.reason == "no such column")
    await other.judge(works)
    assert (server.reason, other.reason) == (None, None)
    assert not waiting.done()
    broken = False
    await waiting
    assert table.reason is None


async def test_an_outage_of_the_server_is_waited_for_there(probe: Probe, spawn: Spawn) -> None:
    dependency, trials = Dependency(), Probe()
    server = Breaker(metrics.Dependency.POSTGRES, probe, pace=AT_ONCE)
    table = Breaker(metrics.Dependency.AUDIT_RECORDS, trials, within=server, pace=AT_ONCE)
    dependency.down = True
    waiting = spawn(table.judge(dependency.operation))
    await eventually(lambda: server.reason is not None)
    assert table.reason is None
    assert table.serving
    dependency.down = False
    assert await waiting == "done"
    assert trials.asked == 0


async def test_a_refusal_that_neither_the_server_nor_its_component_is_to_blame_for_is_raised(
    probe: Probe,
) -> None:
    async def operation() -> None:
        raise WorkRefusedError("too large")

    trials = Probe()
    server = Breaker(metrics.Dependency.POSTGRES, probe, pace=AT_ONCE)
    table = Breaker(metrics.Dependency.AUDIT_RECORDS, trials, within=server, pace=AT_ONCE)
    with pytest.raises(WorkRefusedError, match="too large"):
        await table.judge(operation)
    assert (probe.asked, trials.asked) == (1, 1)
    assert (server.reason, table.reason) == (None, None)
