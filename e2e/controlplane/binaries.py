"""Find the programs of the control plane, or build them from the Go modules in go.mod.

Looked for, one program at a time, in the folder named by KUBEBUILDER_ASSETS, then in the user's
cache folder; what is in neither is built into the cache folder.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from e2e.controlplane.errors import BuildError
from e2e.controlplane.go import find_go

MODULE_DIRECTORY = Path(__file__).resolve().parent
PROGRESS_INTERVAL = 15.0  # seconds between two lines about a running build
OUTPUT_TAIL_LINES = 30


@dataclass(frozen=True)
class Program:
    """One program: its file name, its Go package, and how long it takes to build on 2 cores."""

    name: str
    package: str
    usual_seconds: int


# In this order each build finds most of its packages compiled by the one before.
PROGRAMS = (
    Program("etcd", "go.etcd.io/etcd/server/v3", 70),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 240),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 65),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", 20),
)


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs of a control plane."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def ensure_binaries() -> Binaries:
    """Find the programs, building those that are missing; says on stderr what it builds.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    found = {program.name: _find(program) for program in PROGRAMS}
    if any(path is None for path in found.values()):
        with _build_lock():
            found = {program.name: _find(program) or _build(program) for program in PROGRAMS}
    return Binaries(**{name.replace("-", "_"): path for name, path in found.items() if path is not None})


def kubectl_path() -> Path:
    """Return the kubectl on PATH if there is one, else that of the control plane, built if needed."""
    on_path = shutil.which("kubectl")
    return Path(on_path) if on_path else ensure_binaries().kubectl


def kubernetes_version() -> str:
    """Return the Kubernetes version that go.mod requires, such as v1.36.3."""
    return _from_go_mod(r"^\s*k8s\.io/kubernetes (v[\w.-]+)")


def cache_directory() -> Path:
    """Return the cache folder of everything that the control plane needs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kubernaut-datastorage" / "controlplane"


def _from_go_mod(pattern: str) -> str:
    match = re.search(pattern, (MODULE_DIRECTORY / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BuildError(f"{MODULE_DIRECTORY / 'go.mod'} has no line like {pattern}")
    return match.group(1)


def _find(program: Program) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    folders = [Path(assets)] if assets else []
    for folder in [*folders, cache_directory() / kubernetes_version()]:
        path = (folder / program.name).absolute()
        if os.access(path, os.X_OK):
            return path
    return None


@contextmanager
def _build_lock() -> Iterator[None]:
    """Let one process build at a time; the lock goes with the process that holds it."""
    folder = cache_directory() / kubernetes_version()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another process builds the control plane; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        yield


def _build(program: Program) -> Path:
    version = kubernetes_version()
    target = cache_directory() / version / program.name
    unfinished = target.with_name(f".{program.name}.{os.getpid()}.tmp")
    go = find_go(_from_go_mod(r"^go (\d+\.\d+)"), cache_directory())
    number = PROGRAMS.index(program) + 1
    usual = f"about {max(1, round(program.usual_seconds / 60))} min on 2 cores"
    _say(f"Building {program.name} for {version} ({number} of {len(PROGRAMS)}, {usual}, once per machine)")
    started = time.monotonic()
    command = [str(go), "build", "-trimpath", "-ldflags", _linker_flags(version), "-o", str(unfinished)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*command, program.package],
            cwd=MODULE_DIRECTORY,
            env=os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _wait(process, program, started)
        if process.returncode != 0:
            raise BuildError(f"go build {program.package} failed:\n{_tail(output)}")
    unfinished.replace(target)
    _say(f"Built {target} in {time.monotonic() - started:.0f} s")
    return target


def _wait(process: subprocess.Popen[bytes], program: Program, started: float) -> None:
    try:
        while True:
            try:
                process.wait(PROGRESS_INTERVAL)
            except subprocess.TimeoutExpired:
                _say(f"  still building {program.name}, {time.monotonic() - started:.0f} s")
            else:
                return
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _linker_flags(version: str) -> str:
    """Stamp the version into the programs: clients parse it and refuse a server without one."""
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = [f"-X {package}.{name}={value}" for package in packages for name, value in values.items()]
    return " ".join(["-s", "-w", *stamps])


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return "".join(output.readlines()[-OUTPUT_TAIL_LINES:])


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
