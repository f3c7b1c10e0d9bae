"""Child processes that never outlive the process which started them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.controlplane.errors import ComponentError

LOG_TAIL_LINES = 25
POLL_INTERVAL = 0.05  # seconds between two looks at what is starting

# The guard reads until its standard input ends, which happens however the parent dies, and then kills its
# whole process group. PR_SET_PDEATHSIG would not do: it fires when the starting *thread* ends.
GUARD = "read -r _; kill -KILL 0"


class ProcessGroup:
    """A process group led by a guard that kills every member when this process is gone.

    As a group of its own, it does not get the Ctrl-C of the terminal, so that it can be stopped in an orderly
    way.
    """

    def __init__(self) -> None:
        self._guard = subprocess.Popen(["/bin/sh", "-c", GUARD], stdin=subprocess.PIPE, process_group=0)

    @property
    def id(self) -> int:
        return self._guard.pid

    def kill(self) -> None:
        """Kill every process of the group at once."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard.wait()


class Component:
    """One program of the control plane, started any number of times with the same command line."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs, otherwise None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, group: ProcessGroup) -> None:
        """Start it as a member of a process group; its output is appended to its log."""
        if self.pid is not None:
            raise ComponentError(f"{self.name} is running already (pid {self.pid})")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=_environment(),
                process_group=group.id,
            )

    def wait_ready(self, is_ready: Callable[[], bool], timeout: float) -> None:
        """Wait until it is ready, at most `timeout` seconds.

        Raises:
            ComponentError: it has ended, or is not ready in time; carries the end of the log.
        """
        deadline = Deadline(timeout)
        while not is_ready():
            self.check()
            if deadline.passed():
                raise ComponentError(f"{self.name} is not ready after {timeout:.0f} s{self.log_tail()}")
            time.sleep(POLL_INTERVAL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; False when it still runs then."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout: float) -> None:
        """End it with SIGTERM, and after `timeout` seconds with SIGKILL."""
        self.signal(signal.SIGTERM)
        if not self.wait(timeout):
            self.kill()

    def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        self.signal(signal.SIGKILL)
        self.wait()

    def check(self) -> None:
        """Raise ComponentError with the end of the log if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise ComponentError(f"{self.name} ended with status {self._process.returncode}{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the log, introduced by its path, to be put after a message."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f"; the end of {self.log}:\n" + "\n".join(lines[-LOG_TAIL_LINES:])


class Deadline:
    """A point in time, `seconds` from now, that polling loops stop at."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds until then, 0 afterwards."""
        return max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return time.monotonic() >= self._end


def _environment() -> dict[str, str]:
    # Proxies must not come between components that talk over 127.0.0.1.
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
