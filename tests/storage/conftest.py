"""Fixtures of tests that run components of the pipeline on a real database."""

import pytest

from datastorage.resilience import breaker as breaker_module
from datastorage.vectors import backfill as backfill_module
from datastorage.vectors import indexer as indexer_module


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make probes, retries and looks follow within moments."""
    monkeypatch.setattr(breaker_module, "_FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(backfill_module, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(backfill_module, "_AWAY_SECONDS", 0.02)
    monkeypatch.setattr(backfill_module, "_COUNT_SECONDS", 0.0)
    monkeypatch.setattr(indexer_module, "_RETRY_SECONDS", 0.02)
