"""Runs the e2e tests on a kind cluster: `python -m e2e.kind [--kind-bin PATH] [--keep] [pytest arguments]`.

First the operator runs as it would for users, in a pod, from the image (see `make image`) and the manifests,
on a PostgreSQL in the cluster, and one record is stored and deleted. Then that operator is scaled to zero,
and the same tests run as on our own control plane; they start operators as they need them.

Needs Docker and the image. kind is downloaded in the version below unless --kind-bin names another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from datastorage import __version__
from datastorage.resources.kinds import AUDIT_RECORD
from e2e.resource_cases import audit_record
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.binaries import kubectl_path

REPOSITORY = Path(__file__).resolve().parents[2]
OVERLAY = REPOSITORY / "manifests" / "overlays" / "development"
IMAGE = f"kubernaut-datastorage:{__version__}"  # as manifests/base names it
NAME = "datastorage-e2e"
CONTEXT = f"kind-{NAME}"
KIND_VERSION = "v0.33.0"
SYSTEM = ("-n", "datastorage-system")
OPERATOR = "deployment/datastorage"

# pytest-kind reads these when it is imported, and its own default is too old for the node image.
os.environ.setdefault("KIND_VERSION", KIND_VERSION)
from pytest_kind import KindCluster  # noqa: E402


def main() -> int:
    options, pytest_arguments = _parse()
    kubectl = kubectl_path()
    kind = KindCluster(NAME, kind_path=options.kind_bin, kubectl_path=kubectl)
    _say(f"creating the kind cluster {NAME}")
    kind.create(REPOSITORY / "e2e" / "kind" / "cluster.yaml")
    try:
        kind.load_docker_image(IMAGE)
        with tempfile.TemporaryDirectory() as directory:
            cluster = Cluster.from_context(kind.kubeconfig_path, CONTEXT, kubectl, Path(directory))
            _try_the_installation(cluster)
        return _run_tests(kind.kubeconfig_path, pytest_arguments)
    except ControlPlaneError as error:
        _say(str(error))
        return 1
    finally:
        if options.keep:
            _say(f"kept: KUBECONFIG={kind.kubeconfig_path.resolve()}")
        else:
            kind.delete()


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m e2e.kind", description=__doc__.partition("\n")[0])
    # The kind on PATH is not used: a node image belongs to a release of kind.
    parser.add_argument("--kind-bin", type=Path, help=f"kind; default: {KIND_VERSION}, downloaded")
    parser.add_argument("--keep", action="store_true", help="leave the cluster behind")
    return parser.parse_known_args()


def _try_the_installation(cluster: Cluster) -> None:
    """Install as users do, wait for one record to be stored and cleared, and stop the operator again.

    Raises:
        ControlPlaneError: it did not come up, or the record was not stored and cleared; the pods are shown.
    """
    _say("installing the operator and its PostgreSQL")
    try:
        installed = cluster.kubectl("get", *SYSTEM, OPERATOR, "-o", "name", check=False).returncode == 0
        cluster.apply_product(OVERLAY)
        for deployment in ("deployment/postgres", OPERATOR):
            _wait_for_rollout(cluster, deployment)
        if installed:
            # The image's tag stays while its content changes: pods of an earlier run would keep the old one.
            cluster.kubectl("rollout", "restart", *SYSTEM, OPERATOR)
            _wait_for_rollout(cluster, OPERATOR)
        _say("following one record")
        _follow_one_record(cluster)
    except ControlPlaneError:
        _show_pods(cluster)
        raise
    cluster.kubectl("scale", *SYSTEM, OPERATOR, "--replicas=0")
    pods = ("pods", "-l", "app.kubernetes.io/name=datastorage")
    _wait(cluster, "wait", *SYSTEM, *pods, "--for=delete", "--timeout=60s")


def _wait_for_rollout(cluster: Cluster, deployment: str) -> None:
    _wait(cluster, "rollout", "status", *SYSTEM, deployment, "--timeout=300s")


def _follow_one_record(cluster: Cluster) -> None:
    manifest = audit_record({"ttlSecondsAfterStored": 10}) | {
        "metadata": {"name": "smoke", "namespace": "default"}
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
    record = f"{AUDIT_RECORD.singular}/smoke"
    _wait(cluster, "wait", record, "--for=jsonpath={.status.phase}=Stored", "--timeout=30s")
    _wait(cluster, "wait", record, "--for=delete", "--timeout=60s")


def _wait(cluster: Cluster, *arguments: str) -> None:
    """Run a kubectl command that has a time-out of its own, of 300 s at most."""
    cluster.kubectl(*arguments, timeout=330.0)


def _show_pods(cluster: Cluster) -> None:
    for command in (
        ("describe", "pods", *SYSTEM),
        ("logs", *SYSTEM, OPERATOR, "--all-containers", "--tail=50"),
    ):
        sys.stderr.write(cluster.kubectl(*command, check=False).stdout)


def _run_tests(kubeconfig: Path, arguments: list[str]) -> int:
    _say("running the e2e tests")
    options = [f"--kubeconfig={kubeconfig.resolve()}", f"--context={CONTEXT}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "e2e", *options, *arguments], cwd=REPOSITORY, check=False
    ).returncode


def _say(message: str) -> None:
    print(f"e2e-kind: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
