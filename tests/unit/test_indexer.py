"""The indexer works step by step until nothing is left, and no failure stops it."""

from datastorage.errors import TransientError
from datastorage.vectors.indexer import Indexer, Pace
from harness.polling import eventually
from tests.support.tasks import Spawn


class Vectors:
    """Has some steps to do, after some failures."""

    def __init__(self, steps: int, failures: int = 0) -> None:
        self.steps = steps
        self.failures = failures
        self.asked: list[int] = []

    async def index(self, *, memory_mib: int) -> bool:
        self.asked.append(memory_mib)
        if self.failures:
            self.failures -= 1
            raise TransientError("canceling statement due to lock timeout")
        if not self.steps:
            return False
        self.steps -= 1
        return True


async def test_it_works_until_nothing_is_left_and_then_looks_from_time_to_time(spawn: Spawn) -> None:
    vectors = Vectors(steps=5)
    spawn(Indexer(vectors, memory_mib=64, pace=Pace(interval=3600.0)).run())
    await eventually(lambda: len(vectors.asked) == 6)
    assert set(vectors.asked) == {64}
    assert vectors.steps == 0


async def test_a_failure_is_repeated(spawn: Spawn) -> None:
    vectors = Vectors(steps=2, failures=3)
    spawn(Indexer(vectors, memory_mib=64, pace=Pace(first_retry=0.0)).run())
    await eventually(lambda: vectors.steps == 0)
