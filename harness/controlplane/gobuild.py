"""Builds Go programs from a folder with a go.mod: one process at a time, with progress on stderr."""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.errors import BuildError
from harness.controlplane.progress import run_reporting, say

ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
STRIPPED = ("-s", "-w")  # linker flags: without symbols and debugging information, a third of the size


@dataclass(frozen=True)
class GoModule:
    """A folder with the go.mod and go.sum that programs are built from."""

    directory: Path

    def go_version(self) -> str:
        """Return the Go version that go.mod requires, such as 1.26."""
        return self._line(r"^go (\d+\.\d+)")

    def requires(self, module: str) -> str:
        """Return the version that go.mod requires of a module, such as v1.36.3."""
        return self._line(rf"^(?:require|\s*)\s*{re.escape(module)} (v[\w.+-]+)")

    def source(self, go: Path, module: str) -> Path:
        """Return the folder of a module's sources in Go's module cache; they are fetched if they are missing.

        Raises:
            BuildError: they cannot be fetched.
        """
        command: list[str | Path] = [go, "mod", "download", "-json", module]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BuildError(f"cannot fetch {module}: {done.stderr.strip() or done.stdout.strip()}")
        return Path(json.loads(done.stdout)["Dir"])

    def _line(self, pattern: str) -> str:
        match = re.search(pattern, (self.directory / "go.mod").read_text(), re.MULTILINE)
        if match is None:
            raise BuildError(f"{self.directory / 'go.mod'} has no line like {pattern}")
        return match.group(1)


@dataclass(frozen=True)
class GoBuild:
    """What `go build` gets for one program."""

    package: str
    module: GoModule
    linker_flags: tuple[str, ...] = STRIPPED
    tags: tuple[str, ...] = ()

    def run(self, go: Path, target: Path) -> float:
        """Build the program into a file, which appears when it is complete; return the seconds it took.

        Raises:
            BuildError: it does not compile; the message has the end of the compiler's output.
        """
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        command: list[str | Path] = [go, "build", "-trimpath", "-ldflags", " ".join(self.linker_flags)]
        if self.tags:
            command += ["-tags", ",".join(self.tags)]
        command += ["-o", unfinished, self.package]
        what = f"building {target.name}"
        seconds = run_reporting(command, what, cwd=self.module.directory, environment=ENVIRONMENT)
        unfinished.replace(target)
        return seconds


@contextmanager
def build_lock(folder: Path, what: str) -> Iterator[None]:
    """Let one process at a time build into a folder; the lock ends with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process builds {what}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        yield
