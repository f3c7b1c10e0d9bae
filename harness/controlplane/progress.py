"""Reports long work on stderr: which step of how many it is, and that it still goes on."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from harness.controlplane.errors import BuildError

INTERVAL = 15.0  # seconds between two lines about one piece of work
OUTPUT_TAIL_LINES = 30


def say(message: str) -> None:
    """Print a line on stderr at once."""
    print(message, file=sys.stderr, flush=True)


class Steps:
    """Numbers the steps of a piece of work, and says how long each of them took."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0

    @contextmanager
    def step(self, what: str, usual_seconds: int) -> Iterator[None]:
        """Report the start and the end of one step; an error ends it without a word."""
        self._number += 1
        say(f"Step {self._number} of {self._total}: {what} (about {usual_seconds} s on 2 cores)")
        started = time.monotonic()
        yield
        say(f"  done in {time.monotonic() - started:.0f} s")


class Running:
    """A command that has begun; as a context manager, it has ended with the block."""

    def __init__(
        self,
        command: Sequence[str | Path],
        what: str,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Begin it; `what` it does is for reports and errors. Raises BuildError if it is not there."""
        self._what = what
        self._started = time.monotonic()
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the context
        try:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            self._output.close()
            raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._output.close()

    def wait(self) -> float:
        """Wait until it has ended, and say now and then that it goes on; return the seconds it took.

        Raises:
            BuildError: it failed; the message has the end of its output.
        """
        while True:
            try:
                status = self._process.wait(INTERVAL)
            except subprocess.TimeoutExpired:
                say(f"  still {self._what}, {time.monotonic() - self._started:.0f} s")
            else:
                break
        if status != 0:
            raise BuildError(f"{self._what} failed (exit {status}):\n{_tail(self._output)}")
        return time.monotonic() - self._started


def run_reporting(
    command: Sequence[str | Path],
    what: str,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Run a command as ``Running`` does, and wait for its end; return the seconds it took.

    Raises:
        BuildError: it failed or is not there; the message has the end of its output.
    """
    with Running(command, what, cwd=cwd, environment=environment) as running:
        return running.wait()


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return "".join(output.readlines()[-OUTPUT_TAIL_LINES:])
