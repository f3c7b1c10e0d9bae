"""The installation as kubectl shows it: the operator's pods, its Lease, its rollouts and its Secrets."""

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from harness.controlplane import Cluster
from harness.controlplane.cluster import REPOSITORY
from harness.polling import until_blocking

NAMESPACE: Final = "datastorage-system"
OVERLAY: Final = REPOSITORY / "manifests" / "overlays" / "development"
DEPLOYMENT: Final = "deployment/datastorage"
POSTGRES: Final = "deployment/postgres"
REDIS: Final = "deployment/redis"
SERVICE_URL: Final = f"http://datastorage.{NAMESPACE}.svc:8080"
ROLLOUT_SECONDS: Final = 300.0
"""The longest that a test waits until all pods are as they should be."""

_PODS: Final = "app.kubernetes.io/name=datastorage"
_CONTAINER: Final = "datastorage"
_LEASE: Final = "datastorage-shard-0-of-1"
# A holder renews its Lease every 5 s, so one that is older than this has no holder, or will have none.
_LEASE_IS_FRESH: Final = timedelta(seconds=10)


@dataclass(frozen=True)
class Pod:
    """A pod of the operator that is not being deleted."""

    name: str
    uid: str
    node: str
    container: str
    """The identifier of the operator's container; empty before it exists."""
    restarts: int
    is_ready: bool


@dataclass(frozen=True)
class Leader:
    """The pod that takes the cluster's records in."""

    pod: Pod
    holder: str
    """What the Lease says; a container that was started again is another holder."""


class Installation:
    """What ``kubectl apply -k manifests/overlays/development`` has made."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the namespace of the installation, with the options of ``Cluster.kubectl``."""
        return self.cluster.kubectl("-n", NAMESPACE, *arguments, **options)

    def get(self, *arguments: str) -> Any:
        """Return the parsed output of ``kubectl get`` in the namespace of the installation."""
        return self.cluster.get("-n", NAMESPACE, *arguments)

    @property
    def replicas(self) -> int:
        """How many pods there should be."""
        count: int = self.get(DEPLOYMENT)["spec"]["replicas"]
        return count

    @property
    def image(self) -> str:
        """The image of the operator."""
        image: str = self.get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["image"]
        return image

    def pods(self) -> list[Pod]:
        """Return the operator's pods, without those that are being deleted."""
        items = self.get("pods", "-l", _PODS)["items"]
        return [_pod(each) for each in items if "deletionTimestamp" not in each["metadata"]]

    def ready_pods(self) -> list[Pod]:
        """Return the pods to which the Service sends requests."""
        return [each for each in self.pods() if each.is_ready]

    def node_of(self, deployment: str) -> str:
        """Return the node of the only pod of another Deployment."""
        selector = self.get(deployment)["spec"]["selector"]["matchLabels"]
        labels = ",".join(f"{name}={value}" for name, value in selector.items())
        node: str = self.get("pods", "-l", labels)["items"][0]["spec"]["nodeName"]
        return node

    def leader(self) -> "Leader | None":
        """Return the ready pod that holds the Lease and goes on renewing it, or None."""
        leases = self.get("leases", f"--field-selector=metadata.name={_LEASE}")["items"]
        if not leases:
            return None
        spec = leases[0]["spec"]
        if datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"]) > _LEASE_IS_FRESH:
            return None
        holder = spec.get("holderIdentity", "")
        pods = (Leader(each, holder) for each in self.ready_pods() if holder.startswith(f"{each.name}_"))
        return next(pods, None)

    def wait_complete(self, seconds: float = ROLLOUT_SECONDS) -> None:
        """Wait until there are all pods of the newest template and no other one, and one of them leads."""
        for deployment in (POSTGRES, REDIS, DEPLOYMENT):
            self.wait_rolled_out(deployment, seconds)
        until_blocking(self._is_complete, seconds=seconds, what="all pods are ready, and one leads")

    def wait_rolled_out(self, deployment: str = DEPLOYMENT, seconds: float = ROLLOUT_SECONDS) -> None:
        """Wait until kubectl says that the rollout has ended."""
        self.kubectl(*("rollout", "status", deployment, f"--timeout={seconds:.0f}s"), timeout=seconds + 30)

    def patch_template(self, pod_spec: Mapping[str, Any]) -> None:
        """Merge fields into the Deployment's pod template, as ``kubectl patch`` does; containers by name."""
        patch = {"spec": {"template": {"spec": pod_spec}}}
        self.kubectl("patch", DEPLOYMENT, "--type=strategic", "-p", json.dumps(patch))

    def secret(self, name: str) -> dict[str, str]:
        """Return the values of a Secret."""
        data: Mapping[str, str] = self.get("secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def set_secret(self, name: str, values: Mapping[str, str]) -> None:
        """Replace values of a Secret."""
        self.kubectl(
            *("patch", "secret", name, "--type=merge", "-p"), json.dumps({"stringData": dict(values)})
        )

    def logs(self, pod: Pod, *options: str) -> str:
        """Return the log of the operator in a pod."""
        return self.kubectl("logs", pod.name, "-c", _CONTAINER, *options).stdout

    def python(self, pod: Pod, program: str, *arguments: str) -> str:
        """Run a Python program beside the operator, in its container; return what it printed."""
        command = ("python", "-c", program, *arguments)
        return self.kubectl("exec", pod.name, "-c", _CONTAINER, "--", *command).stdout

    def describe(self) -> str:
        """Return what helps to understand a failure: pods, Leases, the latest events, ends of the logs."""
        commands: Sequence[tuple[str, ...]] = (
            ("get", "pods,leases", "-o", "wide"),
            ("get", "nodes"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", _PODS, "--all-containers", "--prefix", "--tail=15", "--ignore-errors"),
        )
        found = [self.kubectl(*command, check=False) for command in commands]
        # Of the events the newest are the last.
        return "\n\n".join("\n".join((each.stdout + each.stderr).splitlines()[-60:]) for each in found)

    def _is_complete(self) -> bool:
        items = self.get("pods", "-l", _PODS)["items"]
        ready = self.ready_pods()
        return len(items) == len(ready) == self.replicas and self.leader() is not None


def _pod(item: Mapping[str, Any]) -> Pod:
    status = item["status"]
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    container: Mapping[str, Any] = next(
        (each for each in status.get("containerStatuses", ()) if each["name"] == _CONTAINER), {}
    )
    return Pod(
        name=item["metadata"]["name"],
        uid=item["metadata"]["uid"],
        node=item["spec"].get("nodeName", ""),
        container=container.get("containerID", "").rpartition("/")[2],
        restarts=container.get("restartCount", 0),
        is_ready=conditions.get("Ready") == "True",
    )
