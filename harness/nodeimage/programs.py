"""The Go programs of a node, besides those of Kubernetes: built once for each state of go.mod."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.binaries import NODE_PROGRAMS as KUBERNETES_NODE_PROGRAMS
from harness.controlplane.binaries import PROGRAMS as KUBERNETES_PROGRAMS
from harness.controlplane.binaries import cache_directory, ensure_built
from harness.controlplane.go import find_go
from harness.controlplane.gobuild import STRIPPED, GoBuild, GoModule, build_lock
from harness.controlplane.progress import say

MODULE = GoModule(Path(__file__).resolve().parent / "go")
CONTAINERD = "github.com/containerd/containerd/v2"
CRI_TOOLS = "sigs.k8s.io/cri-tools"
KIND = "sigs.k8s.io/kind"
PLUGINS = "github.com/containernetworking/plugins"
# These snapshotters need libraries or kernels that the node has not.
CONTAINERD_TAGS = ("no_aufs", "no_btrfs", "no_devmapper", "no_zfs")


@dataclass(frozen=True)
class Tool:
    """One program: its Go package, and how long it takes to build on 2 cores, after those before it."""

    package: str
    usual_seconds: int
    version_variable: str = ""  # where the linker writes the version
    version_module: str = ""
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]

    def build(self) -> GoBuild:
        stamp = (
            (f"-X {self.version_variable}={MODULE.requires(self.version_module)}",)
            if self.version_module
            else ()
        )
        return GoBuild(self.package, MODULE, linker_flags=(*STRIPPED, *stamp), tags=self.tags)


def _containerd(command: str, usual_seconds: int) -> Tool:
    return Tool(
        f"{CONTAINERD}/cmd/{command}",
        usual_seconds,
        version_variable=f"{CONTAINERD}/version.Version",
        version_module=CONTAINERD,
        tags=CONTAINERD_TAGS,
    )


RUNTIME = (
    _containerd("containerd", 120),
    _containerd("containerd-shim-runc-v2", 10),
    _containerd("ctr", 10),
    Tool(
        f"{CRI_TOOLS}/cmd/crictl", 60,
        version_variable=f"{CRI_TOOLS}/pkg/version.Version", version_module=CRI_TOOLS,
    ),
)  # fmt: skip
NETWORK_PLUGINS = tuple(
    Tool(f"{PLUGINS}/plugins/{name}", 3)
    for name in ("ipam/host-local", "main/bridge", "main/loopback", "main/ptp", "meta/portmap")
)
KUBE_ROUTER = Tool("github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", 120)
COREDNS = Tool("./coredns", 60)
PAUSE = Tool("./pause", 1)
KIND_TOOL = Tool(KIND, 40)
TOOLS = (*RUNTIME, *NETWORK_PLUGINS, KUBE_ROUTER, COREDNS, PAUSE)


def ensure_kubernetes() -> dict[str, Path]:
    """Return the programs of the control plane and of a node, all of one version; builds what is missing."""
    return ensure_built((*KUBERNETES_PROGRAMS, *KUBERNETES_NODE_PROGRAMS))


def ensure_tools(*tools: Tool) -> dict[str, Path]:
    """Return programs by name, and build those that are missing; report on stderr what is built.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    folder = _folder()
    paths = {tool.name: folder / tool.name for tool in tools}
    if not all(os.access(path, os.X_OK) for path in paths.values()):
        with build_lock(folder, "the programs of a node"):
            for number, tool in enumerate(tools, start=1):
                if not os.access(paths[tool.name], os.X_OK):
                    say(f"Building {tool.name} ({number} of {len(tools)}, once per machine)")
                    go = find_go(MODULE.go_version(), cache_directory())
                    seconds = tool.build().run(go, paths[tool.name])
                    say(f"Built {tool.name} in {seconds:.0f} s")
    return paths


def kind_sources() -> Path:
    """Return the folder of kind's Go module, which `ensure_tools(KIND_TOOL)` has fetched."""
    go = find_go(MODULE.go_version(), cache_directory())
    return MODULE.source(go, KIND)


def _folder() -> Path:
    digest = hashlib.sha256()
    for file in sorted(MODULE.directory.rglob("*")):
        if file.is_file():
            digest.update(file.read_bytes())
    return cache_directory().parent / "node-image" / f"programs-{digest.hexdigest()[:12]}"
