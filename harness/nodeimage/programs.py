"""The Go programs of a node, besides those of Kubernetes: built once for each state of go.mod."""

import os
from pathlib import Path

from harness.controlplane.binaries import NODE_PROGRAMS as KUBERNETES_NODE_PROGRAMS
from harness.controlplane.binaries import PROGRAMS as KUBERNETES_PROGRAMS
from harness.controlplane.binaries import ensure_built
from harness.controlplane.gobuild import STRIPPED, GoBuild, GoModule, ensure_programs
from harness.nodeimage.artefacts import key, programs_folder

MODULE = GoModule(Path(__file__).resolve().parent / "go")
CONTAINERD = "github.com/containerd/containerd/v2"
CRI_TOOLS = "sigs.k8s.io/cri-tools"
KIND = "sigs.k8s.io/kind"
PLUGINS = "github.com/containernetworking/plugins"
# These snapshotters need libraries or kernels that the node has not.
CONTAINERD_TAGS = ("no_aufs", "no_btrfs", "no_devmapper", "no_zfs")


def _program(package: str, usual_seconds: int, *, stamp: str = "", tags: tuple[str, ...] = ()) -> GoBuild:
    """Describe a program that has the last part of its package's path as its name."""
    flags = (*STRIPPED, f"-X {stamp}") if stamp else STRIPPED
    return GoBuild(package.rpartition("/")[2], package, MODULE, usual_seconds, flags, tags)


def _containerd(command: str, usual_seconds: int) -> GoBuild:
    version = f"{CONTAINERD}/version.Version={MODULE.requires(CONTAINERD)}"
    return _program(f"{CONTAINERD}/cmd/{command}", usual_seconds, stamp=version, tags=CONTAINERD_TAGS)


RUNTIME = (
    _containerd("containerd", 120),
    _containerd("containerd-shim-runc-v2", 10),
    _containerd("ctr", 10),
    _program(
        f"{CRI_TOOLS}/cmd/crictl",
        60,
        stamp=f"{CRI_TOOLS}/pkg/version.Version={MODULE.requires(CRI_TOOLS)}",
    ),
)
NETWORK_PLUGINS = tuple(
    _program(f"{PLUGINS}/plugins/{name}", 3)
    for name in ("ipam/host-local", "main/bridge", "main/loopback", "main/ptp", "meta/portmap")
)
KUBE_ROUTER = _program("github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", 120)
COREDNS = _program("./coredns", 60)
PAUSE = _program("./pause", 1)
KIND_TOOL = _program(KIND, 40)
TOOLS = (*RUNTIME, *NETWORK_PLUGINS, KUBE_ROUTER, COREDNS, PAUSE)


def ensure_kubernetes() -> dict[str, Path]:
    """Return the programs of the control plane and of a node, all of one version; builds what is missing."""
    return ensure_built((*KUBERNETES_PROGRAMS, *KUBERNETES_NODE_PROGRAMS))


def ensure_tools(*tools: GoBuild) -> dict[str, Path]:
    """Return programs by name, and build those that are missing; report on stderr what is built.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    found = ensure_programs(tools, tools_folder(), "the programs of a node")
    os.utime(tools_folder())  # it is in use: see `artefacts.remove_unused`
    return found


def tools_folder() -> Path:
    """Return the folder in which the programs are kept for the present state of go.mod."""
    return programs_folder(key(MODULE.directory))


def kind_sources() -> Path:
    """Return the folder of kind's Go module; it is fetched if it is missing."""
    return MODULE.source(KIND)
