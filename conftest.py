"""Divides the suite between the three workers of pytest-xdist (``pytest -n 3``, as ``make test`` runs it)."""

import gc
import os
import secrets
from pathlib import PurePosixPath
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# End-to-end tests that put operators under load, break what they need, or run several of them.
_LOAD_TESTS: Final = frozenset(
    f"test_{name}.py"
    for name in (
        "alerts", "api_fallback", "atomic_crash", "backup", "bad_input", "crash", "failover", "failure",
        "faults", "leases", "one_table", "sharded_server", "shards", "stop", "stop_hanging", "vectors",
    )
)  # fmt: skip
# The kinds of scopes, in the order in which each worker takes them; the last order is that of all others.
_ORDERS: Final = (
    ("load", "cluster", "unit", "storage"),
    ("storage", "unit", "cluster"),
    ("cluster", "unit", "storage"),
)


class LoadApart(LoadScopeScheduling):
    """Gives each worker what is next for it; one of them alone gets the tests that put operators under load.

    Most tests wait most of the time, so three workers take less time than two even on two cores. Two
    operators under load never run at the same time. Each worker has servers of its own, so that a test may
    stop one of them; those who run no test on a cluster start no control plane. The tests of the storage stay
    together, because they share two versions of PostgreSQL.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        return str(path) if path.is_relative_to("e2e") or path.is_relative_to("tests/unit") else "tests"

    def _assign_work_unit(self, node: WorkerController) -> None:
        order = _ORDERS[min(self.nodes.index(node), len(_ORDERS) - 1)]
        mine = [scope for kind in order for scope in self.workqueue if _kind_of(scope) == kind]
        if mine:
            self.workqueue.move_to_end(mine[0], last=False)
            super()._assign_work_unit(node)
        else:
            node.shutdown()


def _kind_of(scope: str) -> str:
    path = PurePosixPath(scope)
    if path.is_relative_to("e2e"):
        return "load" if path.name in _LOAD_TESTS else "cluster"
    return "unit" if path.is_relative_to("tests/unit") else "storage"


# Collecting makes millions of objects that live until the end, and Python looks for garbage after every 700.
gc.set_threshold(20_000, 20, 20)

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


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadApart:
    return LoadApart(config, log)
