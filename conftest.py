"""Divides the suite between the three workers of pytest-xdist (``pytest -n 3``, as ``make test`` runs it)."""

import gc
import os
import secrets
from pathlib import PurePosixPath
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

# End-to-end tests that put operators under load, break what they need, or run several of them.
_LOAD_TESTS: Final = frozenset(
    f"test_{name}.py"
    for name in (
        "alerts", "api_fallback", "atomic_crash", "backup", "bad_input", "crash", "failover", "failure",
        "faults", "leases", "one_table", "operator", "order", "sharded_server", "shards", "start", "stop",
        "stop_hanging", "vectors",
    )
)  # fmt: skip


class InThirds(LoadScopeScheduling):
    """Gives one worker the end-to-end tests that put operators under load, one the other end-to-end tests,
    and one the tests without a cluster.

    Most tests wait most of the time, so three workers take less time than two even on two cores. Two
    operators under load never run at the same time. Each worker has servers of its own, so that a test may
    stop one of them.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        if path.parts[0] != "e2e":
            return "without a cluster"
        return "under load" if path.name in _LOAD_TESTS else "cluster"


# Fixtures for tests in every folder.
pytest_plugins = ["tests.support.tasks"]


def pytest_collection_finish() -> None:
    # Otherwise each full run of Python's garbage collector would look at all that pytest has collected. That
    # takes a third of a second, in which the event loop of a test stands still.
    gc.collect()
    gc.freeze()


def pytest_xdist_setupnodes() -> None:
    # All workers have to collect tests of the same names, and some names show the order of a set.
    os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InThirds:
    return InThirds(config, log)
