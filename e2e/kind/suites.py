"""Runs the tests on the cluster: those of the installed operators, and those that start their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from e2e.kind.cluster import Kind
from harness.controlplane.cluster import REPOSITORY
from harness.controlplane.progress import say

INSTALLED = "e2e/installed"
END_SECONDS = 120.0  # pytest stops the servers that its tests have started
NO_TESTS = 5  # pytest's exit status when it has found none
BY_SIGNAL = 128  # a shell adds the signal's number to this

# These do not run on kind unless they are asked for, because they would find nothing there that `make test`
# does not find on the control plane, which is built from the same sources. All other tests run.
_NO_CLUSTER = "needs no cluster"
_OWN = "needs a control plane of its own, which it breaks or sets up otherwise"
_DEPENDENCY = (
    "breaks PostgreSQL, an embedder or the operator's process, which are not in the cluster either way"
)
ELSEWHERE = {
    "test_api_fallback.py": _DEPENDENCY,
    "test_atomic_crash.py": _DEPENDENCY,
    "test_backup.py": _DEPENDENCY,
    "test_bad_input.py": _DEPENDENCY,
    "test_binaries.py": _NO_CLUSTER,
    "test_chart.py": _NO_CLUSTER,
    "test_chart_releases.py": _OWN,
    "test_contexts.py": _NO_CLUSTER,
    "test_controlplane.py": _OWN,
    "test_crash.py": _DEPENDENCY,
    "test_failover.py": _DEPENDENCY,
    "test_failure.py": _DEPENDENCY,
    "test_faults.py": _OWN,
    "test_fuzz.py": _DEPENDENCY,
    "test_installed.py": _NO_CLUSTER,
    "test_kind_choices.py": _NO_CLUSTER,
    "test_one_table.py": _DEPENDENCY,
    "test_overlays.py": _OWN,
    "test_restored.py": _OWN,
    "test_sharded_server.py": _OWN,
    "test_start.py": _DEPENDENCY,
    "test_stop.py": _DEPENDENCY,
    "test_stop_hanging.py": _DEPENDENCY,
    "test_tls.py": _DEPENDENCY,
    "test_upgrade.py": _OWN,
    "test_vectors.py": _DEPENDENCY,
}


def run_installed(kind: Kind, arguments: Sequence[str]) -> int | None:
    """Run the tests that drive the operators in their pods.

    Returns pytest's exit status, or None if the arguments choose none of these tests.
    """
    return _run(kind, [INSTALLED], arguments)


def run_cluster(kind: Kind, arguments: Sequence[str], *, every: bool) -> int | None:
    """Run the tests that start operators of their own; returns as `run_installed` does."""
    left_out = [INSTALLED, *([] if every else (f"e2e/{name}" for name in ELSEWHERE))]
    return _run(kind, ["e2e", *(f"--ignore={path}" for path in left_out)], arguments)


def status_of(parts: Sequence[int | None]) -> int:
    """Return the exit status of a run from those of its parts: 0 only if all tests that were chosen passed.

    Arguments may choose no test of one part. If they choose none at all, they are mistyped.
    """
    statuses = [status for status in parts if status is not None]
    if parts and not statuses:
        say("no test was run: see PYTEST_ARGS")
        return NO_TESTS
    return next((status for status in statuses if status != 0), 0)


def _run(kind: Kind, chosen: Sequence[str], arguments: Sequence[str]) -> int | None:
    # The first kubectl on PATH is the one of the server's version.
    path = os.pathsep.join((str(kind.kubectl.parent), os.environ.get("PATH", "")))
    where = (
        f"--kubeconfig={kind.kubeconfig}",
        f"--context={kind.context}",
        f"--allow-context={kind.context}",
    )
    command = [sys.executable, "-m", "pytest", *chosen, *where, *arguments]
    status = _wait(subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"PATH": path}))
    if status == NO_TESTS and arguments:
        say(f"{' '.join(arguments)} chooses no test of {chosen[0]}")
        return None
    return status


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for pytest, and return its exit status, as a shell has it.

    An interruption is passed on, because pytest's PostgreSQL would outlive a killed one.
    """
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(END_SECONDS)
        raise
    finally:
        process.kill()
    if status < 0:
        say(f"pytest was ended by {signal.Signals(-status).name}")
        return BY_SIGNAL - status
    return status
