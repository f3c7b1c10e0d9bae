"""The linters: built once per machine from the Go modules in go.mod, and kept in the user's cache folder."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from harness.controlplane.binaries import cache_directory, kubectl_path, kubernetes_version
from harness.controlplane.go import find_go
from harness.controlplane.gobuild import GoBuild, GoModule, build_lock
from harness.controlplane.progress import Steps
from harness.manifestlint.schemas import write_schemas

_FOLDER = Path(__file__).resolve().parent
_MODULE = GoModule(_FOLDER)
_DEFINITIONS = GoModule(_FOLDER / "definitions")
_KUBERNETES = GoModule(_FOLDER.parent / "controlplane")
# The definitions of custom resources of others, by the module that has them.
_CUSTOM_RESOURCES = {
    "github.com/cert-manager/cert-manager": "deploy/crds/cert-manager.io_certificates.yaml",
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
    ),
}
# In this order: name, package, and seconds to build on 2 cores.
_PROGRAMS = (
    ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", 15),
    ("kube-score", "github.com/zegl/kube-score/cmd/kube-score", 30),
)
_SCHEMA_SECONDS = 15  # most of it is the download of the sources, if the control plane was built elsewhere


@dataclass(frozen=True)
class Linters:
    """Paths of the programs, and of the schemas of everything that the manifests may contain."""

    kubectl: Path
    kubeconform: Path
    kube_score: Path
    schemas: Path


def ensure_linters() -> Linters:
    """Find the linters and schemas, and make those that are missing; report on stderr what is made.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build or a download failed.
    """
    cache = cache_directory().parent / "manifestlint"
    programs = {name: cache / _key(_FOLDER / "go.sum") / name for name, _, _ in _PROGRAMS}
    inputs = _key(_FOLDER / "schemas.py", _FOLDER / "definitions" / "go.sum")
    schemas = cache / f"schemas-{kubernetes_version()}-{inputs}"
    if not all(path.exists() for path in (schemas, *programs.values())):
        with build_lock(cache, "the linters of the manifests"):
            _make(programs, schemas)
    return Linters(kubectl_path(), programs["kubeconform"], programs["kube-score"], schemas)


def foreign_definitions() -> list[Path]:
    """Return the files with the definitions of custom resources of others, fetched if they are missing.

    Raises:
        BuildError: they cannot be fetched.
    """
    go = find_go(_MODULE.go_version(), cache_directory())
    return [_DEFINITIONS.source(go, module) / file for module, file in _CUSTOM_RESOURCES.items()]


def _make(programs: dict[str, Path], schemas: Path) -> None:
    go = find_go(_MODULE.go_version(), cache_directory())
    steps = Steps(len(_PROGRAMS) + 1)
    for name, package, usual_seconds in _PROGRAMS:
        with steps.step(f"building {name}, once per machine", usual_seconds):
            if not programs[name].exists():
                programs[name].parent.mkdir(exist_ok=True)
                GoBuild(package, _MODULE).run(go, programs[name])
    with steps.step("writing the schemas of Kubernetes", _SCHEMA_SECONDS):
        if not schemas.exists():
            kubernetes = _KUBERNETES.source(go, "k8s.io/kubernetes")
            write_schemas(kubernetes / "api" / "openapi-spec" / "v3", foreign_definitions(), schemas)


def _key(*files: Path) -> str:
    """Return a name that changes with the files."""
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
