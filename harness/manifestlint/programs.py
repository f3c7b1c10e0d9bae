"""The linters: built once per machine from the Go modules in go.mod, and kept in the user's cache folder."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from harness.controlplane.binaries import kubectl_path, kubernetes_version
from harness.controlplane.cache import cache_directory
from harness.controlplane.gobuild import GoBuild, GoModule, build_lock, ensure_programs
from harness.controlplane.progress import say
from harness.manifestlint.schemas import write_schemas

_FOLDER = Path(__file__).resolve().parent
_MODULE = GoModule(_FOLDER)
_DEFINITIONS = GoModule(_FOLDER / "definitions")
_KUBERNETES = GoModule(_FOLDER.parent / "controlplane")
_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
# The definitions of custom resources of others, and the modules that have them.
_CUSTOM_RESOURCES = (
    ("github.com/cert-manager/cert-manager", "deploy/crds/cert-manager.io_certificates.yaml"),
    (_PROMETHEUS_OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"),
    (_PROMETHEUS_OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
)
_PROGRAMS = (
    GoBuild("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", _MODULE, 15),
    GoBuild("kube-score", "github.com/zegl/kube-score/cmd/kube-score", _MODULE, 30),
)


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
    cache = cache_directory("manifestlint")
    programs = ensure_programs(_PROGRAMS, cache / _key(_FOLDER / "go.sum"), "the linters of the manifests")
    inputs = _key(_FOLDER / "schemas.py", Path(__file__), _FOLDER / "definitions" / "go.sum")
    schemas = cache / f"schemas-{kubernetes_version()}-{inputs}"
    if not schemas.exists():
        with build_lock(cache, "the schemas of the manifests"):
            if not schemas.exists():
                # Most of the time goes into fetching the sources, if the control plane was built elsewhere.
                say("Writing the schemas of Kubernetes (about 15 s, once per machine)")
                kubernetes = _KUBERNETES.source("k8s.io/kubernetes")
                write_schemas(kubernetes / "api" / "openapi-spec" / "v3", foreign_definitions(), schemas)
    return Linters(kubectl_path(), programs["kubeconform"], programs["kube-score"], schemas)


def foreign_definitions() -> list[Path]:
    """Return the files with the definitions of custom resources of others, fetched if they are missing.

    Raises:
        BuildError: they cannot be fetched.
    """
    return [_DEFINITIONS.source(module) / file for module, file in _CUSTOM_RESOURCES]


def _key(*files: Path) -> str:
    """Return a name that changes with the files."""
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
