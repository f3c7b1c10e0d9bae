"""Divides the suite between the two workers of pytest-xdist (``pytest -n 2``, as ``make test`` runs it)."""

import os
import secrets
from pathlib import PurePosixPath
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

# Tests that put no operator under load. They run in the other half, which balances both.
_LIGHT_TESTS: Final = frozenset(
    f"test_{name}.py"
    for name in (
        "access", "binaries", "callers", "chart", "chart_releases", "contexts", "controlplane", "definitions",
        "deletion_guard", "manifests", "recorded_by", "resources", "restored", "upgrade", "validation",
    )
)  # fmt: skip


class InHalves(LoadScopeScheduling):
    """Gives one worker the end-to-end tests that put operators under load, and the other worker the rest.

    Two operators under load never run at the same time. Each worker has servers of its own, so that a test
    may stop one of them.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        return "operators" if path.parts[0] == "e2e" and path.name not in _LIGHT_TESTS else "others"


# Fixtures for tests in every folder.
pytest_plugins = ["tests.support.tasks"]


def pytest_xdist_setupnodes() -> None:
    # Both workers have to collect tests of the same names, and some names show the order of a set.
    os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InHalves:
    return InHalves(config, log)
