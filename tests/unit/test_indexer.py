"""The indexer: step after step while there is something to do, and never a failure that stops it."""

import pytest

from datastorage.errors import TransientError
from datastorage.vectors import indexer as indexer_module
from datastorage.vectors.indexer import Indexer
from harness.polling import eventually
from tests.support.tasks import Spawn


class Vectors:
    """Has so many steps to do, and fails when it is told to."""

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


async def test_it_works_until_nothing_is_left_and_then_looks_from_time_to_time(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer_module, "_PAUSE_SECONDS", 3600.0)
    vectors = Vectors(steps=5)
    spawn(Indexer(vectors, memory_mib=64).run())
    await eventually(lambda: len(vectors.asked) == 6)
    assert set(vectors.asked) == {64}
    assert vectors.steps == 0


async def test_a_failure_is_repeated(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer_module, "_RETRY_SECONDS", 0.0)
    vectors = Vectors(steps=2, failures=3)
    spawn(Indexer(vectors, memory_mib=64).run())
    await eventually(lambda: vectors.steps == 0)
