"""Divides the suite between the three workers of pytest-xdist (``pytest -n 3``, as ``make test`` runs it)."""

import os
import secrets
from pathlib import PurePosixPath
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

# Tests that put no operator under load. They run beside those of the archive, which balances both parts.
_LIGHT_TESTS: Final = frozenset(
    f"test_{name}.py"
    for name in (
        "access", "binaries", "callers", "chart", "chart_releases", "contexts", "controlplane", "definitions",
        "deletion_guard", "manifests", "recorded_by", "resources", "restored", "upgrade", "validation",
    )
)  # fmt: skip


# Folders of tests that start no server. Most other tests wait most of the time, so these fill the gaps.
_WITHOUT_SERVERS: Final = frozenset(["tests/unit", "tests/rules"])


class InParts(LoadScopeScheduling):
    """Gives one worker the end-to-end tests that put operators under load, one the other tests of servers,
    and one those that need no server.

    Two operators under load never run at the same time. Each worker has servers of its own, so that a test
    may stop one of them.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        if str(path.parent) in _WITHOUT_SERVERS:
            return "without servers"
        return "operators" if path.parts[0] == "e2e" and path.name not in _LIGHT_TESTS else "others"


# Fixtures for tests in every folder.
pytest_plugins = ["tests.support.tasks"]


def pytest_xdist_setupnodes() -> None:
    # All workers have to collect tests of the same names, and some names show the order of a set.
    os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InParts:
    return InParts(config, log)
