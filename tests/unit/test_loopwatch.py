"""The watch reports by how much the event loop is late, and nothing when it is not."""

import asyncio
import time

from datastorage.resilience.loopwatch import LoopWatch, Pace
from harness.polling import eventually
from tests.support.loopheld import loop_held


async def test_a_delay_of_the_loop_is_reported() -> None:
    delays: list[float] = []
    watch = LoopWatch(delays.append, pace=Pace(beat_seconds=0.001))
    watch.start()
    await eventually(lambda: len(delays) > 3)
    time.sleep(0.1)  # noqa: ASYNC251  # this holds the loop
    count = len(delays)
    await eventually(lambda: len(delays) > count)
    watch.stop()
    assert max(delays) > 0.09
    count = len(delays)
    await asyncio.sleep(0.01)
    assert len(delays) == count


async def test_the_work_of_one_turn_counts_and_that_of_several_does_not_add_up() -> None:
    def work(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    with loop_held() as held:
        for _ in range(10):
            work(0.01)
            await asyncio.sleep(0)
    assert 0.01 <= held.longest < 0.09
    with loop_held() as held:
        work(0.1)
        await asyncio.sleep(0)
    assert held.longest >= 0.1


async def test_time_in_which_others_have_the_machine_does_not_count() -> None:
    with loop_held() as held:
        time.sleep(0.2)  # noqa: ASYNC251  # as if the process had no core
        await asyncio.sleep(0)
    assert held.longest < 0.1
