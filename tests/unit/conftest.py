"""Fixtures of the pipeline's tests: its components, and probes without waiting."""

import pytest

from datastorage.resilience.breaker import Breaker
from tests.support.entrance import Entrance
from tests.support.fakes import Probe
from tests.support.pace import AT_ONCE


@pytest.fixture
def entrance() -> Entrance:
    """The way in of the cluster's objects, with room for a thousand records."""
    return Entrance()


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
