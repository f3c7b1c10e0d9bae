"""Fixtures for the pipeline's tests: its components, and breakers that probe without waiting."""

import pytest

from datastorage.metrics import Dependency
from datastorage.resilience.breaker import Breaker
from tests.support.entrance import Entrance
from tests.support.fakes import Probe
from tests.support.pace import AT_ONCE


@pytest.fixture
def entrance() -> Entrance:
    """The intake of the cluster's objects, with room for a thousand records."""
    return Entrance()


@pytest.fixture
def probe() -> Probe:
    """The probe of the breaker."""
    return Probe()


@pytest.fixture
def recoveries() -> list[None]:
    """A list that gets one entry with each recovery."""
    return []


@pytest.fixture
def breaker(probe: Probe, recoveries: list[None]) -> Breaker:
    """A breaker that probes at once."""
    return Breaker(Dependency.POSTGRES, probe, on_recovery=lambda: recoveries.append(None), pace=AT_ONCE)
