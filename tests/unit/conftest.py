"""Fixtures of the pipeline's tests: its components, and probes without waiting."""

import pytest

from datastorage.resilience import breaker as breaker_module
from datastorage.resilience.breaker import Breaker
from tests.support.entrance import Entrance
from tests.support.fakes import Probe


@pytest.fixture
def entrance() -> Entrance:
    """The way in of the cluster's objects, with room for a thousand records."""
    return Entrance()


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the breakers' probes follow at once."""
    monkeypatch.setattr(breaker_module, "_FIRST_DELAY_SECONDS", 0.0)


@pytest.fixture
def probe() -> Probe:
    """What the breaker asks."""
    return Probe()


@pytest.fixture
def recoveries() -> list[None]:
    """Grows by one with each recovery."""
    return []


@pytest.fixture
def breaker(no_delays: None, probe: Probe, recoveries: list[None]) -> Breaker:  # noqa: ARG001  # patches it
    """A breaker that probes at once."""
    return Breaker("postgres", probe, on_recovery=lambda: recoveries.append(None))
