"""Installs the product as users do, and looks at what they would look at."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.resource_cases import audit_record
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.progress import say
from harness.installed import DEPLOYMENT, KUBECTL_SECONDS, NAMESPACE, OVERLAY, PODS, wait_rolled_out

SYSTEM = ("-n", NAMESPACE)
REPLICAS = 3  # as manifests/base has it
SHOWN = (
    ("get", "pods", *SYSTEM, "-o", "wide"),
    ("describe", "pods", *SYSTEM, "-l", PODS),
    ("get", "events", *SYSTEM, "--sort-by=.lastTimestamp"),
    ("logs", *SYSTEM, "-l", PODS, "--all-containers", "--prefix", "--tail=50"),
)
WORKERS = "!node-role.kubernetes.io/control-plane"


@dataclass(frozen=True)
class Pace:
    """How long each wait may take, in seconds."""

    rollout: int = 300
    stored: int = 60
    cleared: int = 90


class Installer:
    """Puts the product on a cluster, from manifests/overlays/development, and follows a record through it."""

    def __init__(self, cluster: Cluster, pace: Pace = Pace()) -> None:
        self._cluster = cluster
        self._pace = pace

    def install(self) -> None:
        """Apply the overlay, and wait until every replica is Ready and the replicas are spread.

        Raises:
            ControlPlaneError: it does not come up; the pods, events and logs are shown.
        """
        with _shown_on_error(self._cluster):
            installed = (
                self._cluster.kubectl("get", *SYSTEM, DEPLOYMENT, "-o", "name", check=False).returncode == 0
            )
            self._cluster.kubectl("apply", "-k", str(OVERLAY))
            if installed:
                # The tag of the image stays while its content changes: the pods would keep the old one.
                self._cluster.kubectl("rollout", "restart", *SYSTEM, DEPLOYMENT)
            wait_rolled_out(self._cluster, self._pace.rollout)
            self._check_replicas()

    def follow_one_record(self) -> None:
        """Create a record, and wait until it is stored and cleared.

        Raises:
            ControlPlaneError: it is not; the pods, events and logs are shown.
        """
        manifest = audit_record({"ttlSecondsAfterStored": 10}) | {
            "metadata": {"generateName": "smoke-", "namespace": "default"}
        }
        with _shown_on_error(self._cluster):
            created = self._cluster.kubectl("create", "-f", "-", "-o", "name", input=json.dumps(manifest))
            record = f"{AUDIT_RECORD.singular}/{created.stdout.strip().rpartition('/')[2]}"
            pace = self._pace
            stored = "--for=jsonpath={.status.phase}=Stored"
            self._wait("wait", record, stored, f"--timeout={pace.stored}s", seconds=pace.stored)
            self._wait("wait", record, "--for=delete", f"--timeout={pace.cleared}s", seconds=pace.cleared)

    def _check_replicas(self) -> None:
        pods = self._cluster.get("pods", *SYSTEM, "-l", PODS)["items"]
        nodes = [pod["spec"]["nodeName"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        workers = self._cluster.kubectl("get", "nodes", "-l", WORKERS, "-o", "name").stdout.split()
        if len(nodes) != REPLICAS:
            raise ControlPlaneError(f"{len(nodes)} replicas are Ready, and {REPLICAS} should be")
        if len(set(nodes)) < min(REPLICAS, len(workers)):
            raise ControlPlaneError(f"the replicas are not spread over the {len(workers)} workers: {nodes}")
        say(f"{len(nodes)} replicas are Ready, on {', '.join(sorted(set(nodes)))}")

    def _wait(self, *arguments: str, seconds: float) -> None:
        """Run a kubectl command that has a time-out of its own."""
        self._cluster.kubectl(*arguments, timeout=seconds + KUBECTL_SECONDS)


@contextmanager
def _shown_on_error(cluster: Cluster) -> Iterator[None]:
    """Show what the cluster says about the pods when something in the block has failed."""
    try:
        yield
    except ControlPlaneError:
        for command in SHOWN:
            print(f"--- kubectl {' '.join(command)}", file=sys.stderr)
            print(cluster.kubectl(*command, check=False).stdout, file=sys.stderr)
        raise
