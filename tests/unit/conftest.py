"""Fixtures of the pipeline's tests: its parts, and retries without waiting."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from datastorage.pipeline import statuswriter as statuswriter_module
from datastorage.pipeline import sweep as sweep_module
from datastorage.pipeline.intake import Intake
from datastorage.resilience.breaker import Breaker
from harness.objects import TTL_SECONDS
from tests.support.fakes import Probe
from tests.support.pace import AT_ONCE

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


@pytest.fixture
def overflows() -> list[None]:
    """Grows by one with each overflow of the intake."""
    return []


@pytest.fixture
def intake(overflows: list[None]) -> Intake:
    """An intake with room for a thousand records."""
    return Intake(
        max_items=1000, max_bytes=2**24, default_ttl_seconds=TTL_SECONDS,
        on_overflow=lambda: overflows.append(None),
    )  # fmt: skip


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make retries and pauses follow at once."""
    monkeypatch.setattr(statuswriter_module, "_FIRST_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(sweep_module, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def probe() -> Probe:
    """What the breaker asks."""
    return Probe()


@pytest.fixture
def recoveries() -> list[None]:
    """Grows by one with each recovery."""
    return []


@pytest.fixture
def breaker(probe: Probe, recoveries: list[None]) -> Breaker:
    """A breaker that probes at once."""
    return Breaker("postgres", probe, on_recovery=lambda: recoveries.append(None), pace=AT_ONCE)


@pytest_asyncio.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Starts tasks that end with the test. A task that failed before fails the test."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.append(asyncio.ensure_future(coroutine))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
