"""Builds Go programs from a folder with a go.mod: one process at a time, with progress on stderr."""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.cache import cache_directory
from harness.controlplane.errors import BuildError
from harness.controlplane.go import find_go
from harness.controlplane.progress import run_reporting, say

ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
STRIPPED = ("-s", "-w")  # linker flags: without symbols and debugging information, a third of the size


@dataclass(frozen=True)
class GoModule:
    """A folder with the go.mod and go.sum that programs are built from."""

    directory: Path

    def go(self) -> Path:
        """Return a `go` of at least the version that go.mod requires; it is installed if it is missing.

        Raises:
            BuildError: it can't be installed.
        """
        return find_go(self._line(r"^go (\d+\.\d+)"), cache_directory())

    def requires(self, module: str) -> str:
        """Return the version that go.mod requires of a module, such as v1.36.3."""
        return self._line(rf"^(?:require|\s*)\s*{re.escape(module)} (v[\w.+-]+)")

    def source(self, module: str) -> Path:
        """Return the folder of a module's sources in Go's module cache; they are fetched if they are missing.

        Raises:
            BuildError: they cannot be fetched.
        """
        command: list[str | Path] = [self.go(), "mod", "download", "-json", module]
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
    """One program: its file's name, what `go build` gets for it, and how long that takes on 2 cores.

    The time is for a build after those before it in its list, which share packages with it.
    """

    name: str
    package: str
    module: GoModule
    usual_seconds: int
    linker_flags: tuple[str, ...] = STRIPPED
    tags: tuple[str, ...] = ()

    def run(self, target: Path) -> float:
        """Build the program into a file, which appears when it is complete; return the seconds it took.

        Raises:
            BuildError: it does not compile; the message has the end of the compiler's output.
        """
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        flags = ["-trimpath", "-ldflags", " ".join(self.linker_flags)]
        if self.tags:
            flags += ["-tags", ",".join(self.tags)]
        command: list[str | Path] = [self.module.go(), "build", *flags, "-o", unfinished, self.package]
        what = f"building {target.name}"
        seconds = run_reporting(command, what, cwd=self.module.directory, environment=ENVIRONMENT)
        unfinished.replace(target)
        return seconds


def ensure_programs(builds: Sequence[GoBuild], folder: Path, what: str) -> dict[str, Path]:
    """Return programs in a folder by name, and build those that are missing; report on stderr what is built.

    The folder is named after everything that the programs depend on, so one that is there is the right one.
    ``what`` names them together, for a process that waits until another has built them.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    paths = {build.name: folder / build.name for build in builds}
    if not all(os.access(path, os.X_OK) for path in paths.values()):
        with build_lock(folder, what):
            for number, build in enumerate(builds, start=1):
                target = paths[build.name]
                if not os.access(target, os.X_OK):
                    usual = f"about {build.usual_seconds} s on 2 cores, once per machine"
                    say(f"Building {build.name}, {number} of {len(builds)} ({usual})")
                    say(f"Built {target} in {build.run(target):.0f} s")
    return paths


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
