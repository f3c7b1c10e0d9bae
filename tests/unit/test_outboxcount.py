"""The count of the outbox: it sets the metrics, and fewer pending vectors lead to a look at the objects."""

from datastorage import metrics
from datastorage.errors import WorkRefusedError
from datastorage.records.vectorwrite import OutboxState
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.signal import Signal
from datastorage.storage.outbox import OutboxDepth
from datastorage.vectors.outboxcount import OutboxCount, Pace
from harness.polling import DEADLINE_SECONDS, eventually
from tests.support.tasks import Spawn


class Outbox:
    """Has as many pending vectors as the test says."""

    def __init__(self, pending: int = 0) -> None:
        self.pending = pending
        self.counts = 0
        self.refusals = 0

    async def depths(self) -> dict[OutboxState, OutboxDepth]:
        self.counts += 1
        if self.refusals:
            self.refusals -= 1
            raise WorkRefusedError("canceling statement due to statement timeout")
        return dict.fromkeys(OutboxState, OutboxDepth()) | {
            OutboxState.PENDING: OutboxDepth(self.pending, 2.0 * self.pending)
        }


def metric(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


async def counted(outbox: Outbox) -> None:
    """Wait until a count has begun and ended."""
    before = outbox.counts
    await eventually(lambda: outbox.counts >= before + 2)


async def test_the_metrics_follow_the_outbox(breaker: Breaker, spawn: Spawn) -> None:
    outbox = Outbox(pending=7)
    spawn(OutboxCount(outbox, breaker, on_progress=Signal().set, pace=Pace(interval=0.01)).run())
    await eventually(lambda: metric("datastorage_outbox_depth", state="pending") == 7)
    assert metric("datastorage_outbox_depth", state="failed") == 0
    assert metric("datastorage_outbox_oldest_seconds") == 14
    outbox.pending = 8
    await eventually(lambda: metric("datastorage_outbox_depth", state="pending") == 8)


async def test_only_fewer_pending_vectors_bring_a_look_at_the_objects(breaker: Breaker, spawn: Spawn) -> None:
    outbox, promotion = Outbox(pending=5), Signal()
    spawn(OutboxCount(outbox, breaker, on_progress=promotion.set, pace=Pace(interval=0.01)).run())
    await counted(outbox)
    outbox.pending = 6
    await counted(outbox)
    assert not await promotion.wait(0.0)
    outbox.pending = 4
    assert await promotion.wait(DEADLINE_SECONDS)


async def test_a_count_that_takes_too_long_is_repeated_later(breaker: Breaker, spawn: Spawn) -> None:
    outbox = Outbox(pending=3)
    outbox.refusals = 1
    task = spawn(
        OutboxCount(outbox, breaker, on_progress=Signal().set, pace=Pace(interval=0.0, refused=3600.0)).run()
    )
    await eventually(lambda: outbox.counts == 1)
    assert not task.done()
    patient, quick = Outbox(pending=9), Pace(refused=0.0)
    patient.refusals = 3
    spawn(OutboxCount(patient, breaker, on_progress=Signal().set, pace=quick).run())
    await eventually(lambda: metric("datastorage_outbox_depth", state="pending") == 9)
    assert outbox.counts == 1
