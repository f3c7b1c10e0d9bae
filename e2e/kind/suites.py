"""Runs the tests on the cluster: those of the installed operators, and those that start their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from e2e.kind.cluster import Kind
from harness.controlplane.cluster import REPOSITORY
from harness.controlplane.progress import say

INSTALLED = "e2e/installed"
NO_TESTS = 5  # pytest's exit status when it has found none
TESTS = "test_*.py"


@dataclass(frozen=True)
class Suite:
    """What pytest is given besides the cluster."""

    paths: tuple[str, ...]
    options: tuple[str, ...] = ()


def run_installed(kind: Kind, arguments: Sequence[str]) -> int:
    """Run the tests that drive the operators in their pods; return pytest's exit status."""
    if not any((REPOSITORY / INSTALLED).glob(TESTS)):
        say(f"{INSTALLED} has no tests: nothing was run against the installed operators")
        return 0
    return _run(kind, Suite((INSTALLED,)), arguments)


def run_cluster(kind: Kind, arguments: Sequence[str]) -> int:
    """Run the tests that start operators of their own; return pytest's exit status."""
    return _run(kind, Suite(("e2e",), (f"--ignore={INSTALLED}",)), arguments)


def _run(kind: Kind, suite: Suite, arguments: Sequence[str]) -> int:
    # The first kubectl on PATH is the one of the server's version.
    path = os.pathsep.join((str(kind.kubectl.parent), os.environ.get("PATH", "")))
    command = [
        sys.executable, "-m", "pytest", *suite.paths, *suite.options,
        f"--kubeconfig={kind.kubeconfig}", f"--context={kind.context}", f"--allow-context={kind.context}",
    ]  # fmt: skip
    status = subprocess.run(
        [*command, *arguments], cwd=REPOSITORY, env=os.environ | {"PATH": path}, check=False
    ).returncode
    if status == NO_TESTS and arguments:
        say(f"no test of {' '.join(suite.paths)} was chosen by {' '.join(arguments)}")
        return 0
    return status
