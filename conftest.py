"""How the suite is divided between the workers of pytest-xdist: ``pytest -n 2``, as ``make test`` runs it."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByFolder(LoadScopeScheduling):
    """Gives one worker the end-to-end tests and the other all the rest.

    So there is one control plane, and tests that stop a server share it with none that runs at the same time.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if PurePosixPath(nodeid).parts[0] == "e2e" else "others"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    return ByFolder(config, log)
