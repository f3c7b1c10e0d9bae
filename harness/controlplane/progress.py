"""Reports long work on stderr: which step of how many it is, and that it still goes on."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


def run_reporting(
    command: Sequence[str | Path],
    what: str,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Run a command, and say now and then that `what` goes on; return the seconds it took.

    Raises:
        BuildError: it failed or is not there; the message has the end of its output.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error
        _wait(process, what, started)
        if process.returncode != 0:
            raise BuildError(f"{what} failed (exit {process.returncode}):\n{_tail(output)}")
    return time.monotonic() - started


def _wait(process: subprocess.Popen[bytes], what: str, started: float) -> None:
    try:
        while True:
            try:
                process.wait(INTERVAL)
            except subprocess.TimeoutExpired:
                say(f"  still {what}, {time.monotonic() - started:.0f} s")
            else:
                return
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return "".join(output.readlines()[-OUTPUT_TAIL_LINES:])
