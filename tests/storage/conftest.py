"""Fixtures of tests that run components of the pipeline on a real database."""

import pytest

from datastorage.vectors import backfill as backfill_module


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make probes, retries and looks follow within moments."""
    monkeypatch.setattr(backfill_module, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(backfill_module, "_AWAY_SECONDS", 0.02)
    monkeypatch.setattr(backfill_module, "_COUNT_SECONDS", 0.0)
