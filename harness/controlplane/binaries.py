"""Find the programs of the control plane, or build them from the Go modules in go.mod.

Each program is looked for in the folder named by KUBEBUILDER_ASSETS, then in the user's cache folder; a
program in neither is built into the cache folder. A program of another version than the control plane's,
which is in go.mod, is skipped and reported.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.cache import cache_directory
from harness.controlplane.gobuild import STRIPPED, GoBuild, GoModule, ensure_programs
from harness.controlplane.progress import say

MODULE_DIRECTORY = Path(__file__).resolve().parent
MODULE = GoModule(MODULE_DIRECTORY)


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
# These run on nodes, which only the node image has (harness/nodeimage).
NODE_PROGRAMS = (
    Program("kubelet", "k8s.io/kubernetes/cmd/kubelet", 55),
    Program("kubeadm", "k8s.io/kubernetes/cmd/kubeadm", 25),
    Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 10),
    Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 10),
)
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
    missing = [program for program in PROGRAMS if given[program.name] is None]
    found = {name: path for name, path in given.items() if path is not None} | ensure_built(missing)
    return Binaries(**{name.replace("-", "_"): path for name, path in found.items()})


def ensure_built(programs: Sequence[Program]) -> dict[str, Path]:
    """Return programs of exactly the control plane's version by name, and build those that are missing.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    version = kubernetes_version()
    flags = (*STRIPPED, *_version_stamps(version))
    builds = [
        GoBuild(program.name, program.package, MODULE, program.usual_seconds, flags) for program in programs
    ]
    return ensure_programs(builds, cache_directory() / version, f"programs of Kubernetes {version}")


def kubectl_path(kubeconfig: Path | None = None, context: str | None = None) -> Path:
    """Return the kubectl on PATH if its version fits, otherwise that of the control plane, built if needed.

    It has to fit the server of a context, if a kubeconfig is given, and the control plane otherwise. Reports
    on stderr which one it is.
    """
    found = shutil.which("kubectl")
    if found:
        on_path = Path(found)
        server = _server_version(on_path, kubeconfig, context) if kubeconfig else None
        wanted = server or kubernetes_version()
        if _fits(KUBECTL, on_path, wanted):
            say(f"Using {on_path}, which fits Kubernetes {wanted}")
            return on_path
    built = ensure_binaries().kubectl
    say(f"Using {built}, of Kubernetes {kubernetes_version()}")
    return built


def kubernetes_version() -> str:
    """Return the Kubernetes version that go.mod requires, such as v1.36.3."""
    return MODULE.requires("k8s.io/kubernetes")


def _given(program: Program) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = (Path(assets) / program.name).absolute() if assets else None
    wanted = MODULE.requires(program.module)
    if path is not None and os.access(path, os.X_OK) and _fits(program, path, wanted):
        return path
    return None


def _fits(program: Program, path: Path, wanted: str) -> bool:
    """Return whether a program from elsewhere has a usable version; report an unusable one on stderr."""
    found = _version(program, path)
    major, minor = _numbers(wanted)
    if found is not None and found[0] == major and abs(found[1] - minor) <= program.skew:
        return True
    why = "does not say its version" if found is None else f"is of version {found[0]}.{found[1]}"
    say(f"Not using {path}: it {why}, and {wanted} is wanted")
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


def _server_version(kubectl: Path, kubeconfig: Path, context: str | None) -> str | None:
    """Ask the server of a context; any kubectl can, whatever its own version. None: it does not answer."""
    chosen = [f"--context={context}"] if context else []
    try:
        done = subprocess.run(
            [kubectl, f"--kubeconfig={kubeconfig}", *chosen, "version", "-o", "json"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT,
        )  # fmt: skip
        version = json.loads(done.stdout)["serverVersion"]["gitVersion"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return str(version)


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.removeprefix("v").split(".")[:2]
    return int(major), int(minor)


def _version_stamps(version: str) -> list[str]:
    """Stamp the version into the programs: clients parse it and refuse a server without one."""
    major, minor = _numbers(version)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [f"-X {package}.{name}={value}" for package in packages for name, value in values.items()]
