"""The installation of `manifests/overlays/development` in a cluster: its names, and when it is complete."""

from typing import Final

from harness import REPOSITORY
from harness.controlplane.cluster import Cluster

OVERLAY: Final = REPOSITORY / "manifests" / "overlays" / "development"
NAMESPACE: Final = "datastorage-system"
"""Of every overlay. The shipped Role lets the operators write Leases here."""
DEPLOYMENT: Final = "deployment/datastorage"
POSTGRES: Final = "deployment/postgres"
REDIS: Final = "deployment/redis"
PODS: Final = "app.kubernetes.io/name=datastorage"
"""The label of the operator's pods."""
END_SECONDS: Final = 90.0
"""A pod may take this long to end: terminationGracePeriodSeconds and then some."""
KUBECTL_SECONDS: Final = 30.0
"""How much longer than its own time-out a kubectl command may take."""


def apply_at_rest(cluster: Cluster) -> None:
    """Apply the product with no operator in the cluster, for tests that start operators of their own.

    An installed one would process every object a second time.
    """
    cluster.apply_product()
    cluster.kubectl("scale", "--replicas=0", DEPLOYMENT, f"--namespace={NAMESPACE}")
    gone = ("--for=delete", f"--selector={PODS}", f"--timeout={END_SECONDS:.0f}s")
    cluster.kubectl("wait", "pods", f"--namespace={NAMESPACE}", *gone, timeout=END_SECONDS + KUBECTL_SECONDS)


def wait_rolled_out(cluster: Cluster, seconds: float) -> None:
    """Wait until all pods of the newest templates are Ready, each Deployment at most ``seconds``.

    Raises:
        KubectlError: they are not; the message is kubectl's own.
    """
    for deployment in (POSTGRES, REDIS, DEPLOYMENT):
        cluster.kubectl(
            *("rollout", "status", "-n", NAMESPACE, deployment, f"--timeout={seconds:.0f}s"),
            timeout=seconds + KUBECTL_SECONDS,
        )
