"""Runs the tests on clusters: those of the installed operators, and those that start their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from e2e.kind.cluster import Kind
from harness import REPOSITORY
from harness.controlplane.progress import say

INSTALLED = "e2e/installed"
END_SECONDS = 120.0  # pytest stops the servers that its tests have started
REPORT_SECONDS = 60.0  # between two lines about tests that print into a file
NO_TESTS = 5  # pytest's exit status when it has found none
BY_SIGNAL = 128  # a shell adds the signal's number to this

# These do not run on kind unless they are asked for, because they would find nothing there that `make test`
# does not find on the control plane, which is built from the same sources. All other tests run.
_NO_CLUSTER = "needs no cluster"
_OWN = "needs a control plane of its own, which it breaks or sets up otherwise"
_DEPENDENCY = (
    "breaks PostgreSQL, an embedder, a collector or the operator's process, none of which is in the cluster"
)
ELSEWHERE = {
    "test_alerts.py": _DEPENDENCY,
    "test_api_fallback.py": _DEPENDENCY,
    "test_api_outages.py": _DEPENDENCY,
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
    "test_leases.py": _DEPENDENCY,
    "test_one_table.py": _DEPENDENCY,
    "test_order.py": _DEPENDENCY,
    "test_overlays.py": _OWN,
    "test_restored.py": _OWN,
    "test_sharded_server.py": _OWN,
    "test_start.py": _DEPENDENCY,
    "test_stop.py": _DEPENDENCY,
    "test_stop_hanging.py": _DEPENDENCY,
    "test_tls.py": _DEPENDENCY,
    "test_traces.py": _DEPENDENCY,
    "test_upgrade.py": _OWN,
    "test_vectors.py": _DEPENDENCY,
}


class Tests:
    """A run of pytest on a cluster, which has begun; as a context manager, it has ended with the block."""

    def __init__(
        self, kind: Kind, chosen: Sequence[str], arguments: Sequence[str], *, output: Path | None = None
    ) -> None:
        """With ``output``, pytest prints into this file, which is shown in the end."""
        self._chosen = chosen
        self._arguments = arguments
        self._output = output
        self._began = time.monotonic()
        # The first kubectl on PATH is the one of the server's version.
        path = os.pathsep.join((str(kind.kubectl.parent), os.environ.get("PATH", "")))
        where = (
            f"--kubeconfig={kind.kubeconfig}",
            f"--context={kind.context}",
            f"--allow-context={kind.context}",
        )
        self._process = _start(
            [sys.executable, "-m", "pytest", *chosen, *where, *arguments], os.environ | {"PATH": path}, output
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it still runs: with SIGINT, because its PostgreSQL would outlive a killed pytest."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                say("pytest does not end, and is killed: what its tests have started may go on")
            finally:
                self._process.kill()

    def wait(self) -> int | None:
        """Return pytest's exit status as a shell has it, or None if the arguments choose no test."""
        status = self._process.wait() if self._output is None else self._wait_reporting(self._output)
        if status < 0:
            say(f"pytest was ended by {signal.Signals(-status).name}")
            return BY_SIGNAL - status
        if status == NO_TESTS and self._arguments:
            say(f"{' '.join(self._arguments)} chooses no test of {self._chosen[0]}")
            return None
        return status

    def _wait_reporting(self, output: Path) -> int:
        while True:
            try:
                status = self._process.wait(REPORT_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"  pytest still runs, {time.monotonic() - self._began:.0f} s, and prints into {output}")
            else:
                print(output.read_text(errors="replace"), end="", flush=True)
                return status


def _start(command: list[str], environment: dict[str, str], output: Path | None) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches it from here, once. A second one would break its clean-up off.
    if output is None:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
    with output.open("wb") as file:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip


def installed_tests(kind: Kind, arguments: Sequence[str]) -> Tests:
    """Begin the tests that drive the operators in their pods."""
    return Tests(kind, [INSTALLED], arguments)


def process_tests(kind: Kind, arguments: Sequence[str], *, every: bool) -> Tests:
    """Begin the tests that start operators of their own; they run beside what is done meanwhile."""
    left_out = [INSTALLED, *([] if every else (f"e2e/{name}" for name in ELSEWHERE))]
    return Tests(kind, ["e2e", *(f"--ignore={path}" for path in left_out)], arguments, output=kind.output)


def status_of(parts: Sequence[int | None]) -> int:
    """Return the exit status of a run from those of its parts: 0 only if all tests that were chosen passed.

    Arguments may choose no test of one part. If they choose none at all, they are mistyped.
    """
    statuses = [status for status in parts if status is not None]
    if parts and not statuses:
        say("no test was run: see PYTEST_ARGS")
        return NO_TESTS
    return next((status for status in statuses if status != 0), 0)
