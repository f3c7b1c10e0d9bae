"""Find the programs of the control plane, or build them from the Go modules in go.mod.

Each program is looked for in the folder named by KUBEBUILDER_ASSETS, then in the user's cache folder; a
program in neither is built into the cache folder. A program of another version than the control plane's,
which is in go.mod, is skipped and reported.
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

from harness.controlplane.errors import BuildError
from harness.controlplane.go import find_go

MODULE_DIRECTORY = Path(__file__).resolve().parent
PROGRESS_INTERVAL = 15.0  # seconds between two lines about a running build
OUTPUT_TAIL_LINES = 30


@dataclass(frozen=True)
class Program:
    """One program: its file name, its Go package, and how long it takes to build on 2 cores."""

    name: str
    package: str
    usual_seconds: int
    module: str = "k8s.io/kubernetes"  # its version in go.mod is the program's
    version_arguments: tuple[str, ...] = ("--version",)
    skew: int = 0  # the number of minor versions by which a program found elsewhere may differ


# In this order each build finds most of its packages compiled by the one before.
PROGRAMS = (
    Program("etcd", "go.etcd.io/etcd/server/v3", 70, module="go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 240),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 65),
    # Kubernetes supports a kubectl that is one minor version older or newer than the API server.
    Program(
        "kubectl", "k8s.io/kubernetes/cmd/kubectl", 20, version_arguments=("version", "--client"), skew=1
    ),
)  # fmt: skip
KUBECTL = PROGRAMS[-1]
VERSION_TIMEOUT = 60.0  # seconds; a working program prints its version in less than one


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs of a control plane."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def ensure_binaries() -> Binaries:
    """Find the programs, and build those that are missing; report on stderr what is built.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    given = {program.name: _given(program) for program in PROGRAMS}
    found = {program.name: given[program.name] or _cached(program) for program in PROGRAMS}
    if any(path is None for path in found.values()):
        with _build_lock():
            found = {
                program.name: given[program.name] or _cached(program) or _build(program)
                for program in PROGRAMS
            }
    return Binaries(**{name.replace("-", "_"): path for name, path in found.items() if path is not None})


def kubectl_path() -> Path:
    """Return the kubectl on PATH if its version fits, otherwise that of the control plane, built if needed.

    Reports on stderr which one it is.
    """
    on_path = shutil.which("kubectl")
    if on_path and _fits(KUBECTL, Path(on_path)):
        _say(f"Using {on_path}, which fits Kubernetes {kubernetes_version()}")
        return Path(on_path)
    built = ensure_binaries().kubectl
    _say(f"Using {built}, of Kubernetes {kubernetes_version()}")
    return built


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


def _given(program: Program) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = (Path(assets) / program.name).absolute() if assets else None
    if path is not None and os.access(path, os.X_OK) and _fits(program, path):
        return path
    return None


def _cached(program: Program) -> Path | None:
    path = (cache_directory() / kubernetes_version() / program.name).absolute()
    return path if os.access(path, os.X_OK) else None


def _fits(program: Program, path: Path) -> bool:
    """Return whether a program from elsewhere has a usable version; report an unusable one on stderr."""
    wanted = _from_go_mod(rf"^\s*{re.escape(program.module)} (v[\w.-]+)")
    found = _version(program, path)
    major, minor = _numbers(wanted)
    if found is not None and found[0] == major and abs(found[1] - minor) <= program.skew:
        return True
    why = "does not say its version" if found is None else f"is of version {found[0]}.{found[1]}"
    _say(f"Not using {path}: it {why}, and the control plane's {program.name} is {wanted}")
    return False


def _version(program: Program, path: Path) -> tuple[int, int] | None:
    try:
        done = subprocess.run(
            [path, *program.version_arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv?\d+\.\d+\.\d+", done.stdout)
    return _numbers(match.group()) if done.returncode == 0 and match else None


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.removeprefix("v").split(".")[:2]
    return int(major), int(minor)


@contextmanager
def _build_lock() -> Iterator[None]:
    """Let one process build at a time; the lock ends with the process that holds it."""
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
    major, minor = _numbers(version)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = [f"-X {package}.{name}={value}" for package in packages for name, value in values.items()]
    return " ".join(["-s", "-w", *stamps])


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return "".join(output.readlines()[-OUTPUT_TAIL_LINES:])


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
