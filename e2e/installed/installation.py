"""The installation as kubectl shows it: the operator's pods, its Lease, its rollouts and its Secrets."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from harness.bulk import BulkClient, RequestError
from harness.controlplane import Cluster
from harness.installed import DEPLOYMENT, NAMESPACE, PODS, wait_rolled_out
from harness.polling import until

SERVICE_URL: Final = f"http://datastorage.{NAMESPACE}.svc:8080"
LEASE: Final = "datastorage-shard-0-of-1"
ROLLOUT_SECONDS: Final = 300.0
"""The longest that a test waits until all pods are as they should be."""

_CONTAINER: Final = "datastorage"
_LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
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

    def __init__(self, cluster: Cluster, client: BulkClient) -> None:
        """``client`` is for looks that are repeated: a kubectl for each would slow everything down."""
        self.cluster = cluster
        self._client = client

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

    async def pods_of(self, name: str = "datastorage") -> list[dict[str, Any]]:
        """Return the pods of a Deployment as the API server has them."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={quote(f'app.kubernetes.io/name={name}')}"
        items: list[dict[str, Any]] = (await self._client.request("GET", path))["items"]
        return items

    async def pods(self) -> list[Pod]:
        """Return the operator's pods, without those that are being deleted."""
        items = await self.pods_of()
        return [_pod(each) for each in items if "deletionTimestamp" not in each["metadata"]]

    async def ready_pods(self) -> list[Pod]:
        """Return the pods to which the Service sends requests."""
        return [each for each in await self.pods() if each.is_ready]

    async def postgres_node(self) -> str:
        """Return the node of PostgreSQL."""
        [pod] = await self.pods_of("postgres")
        node: str = pod["spec"]["nodeName"]
        return node

    async def leader(self) -> "Leader | None":
        """Return the ready pod that holds the Lease and goes on renewing it, or None."""
        try:
            spec = (await self._client.request("GET", f"{_LEASES}/{LEASE}"))["spec"]
        except RequestError as error:
            if error.status == 404:
                return None
            raise
        if datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"]) > _LEASE_IS_FRESH:
            return None
        holder = spec.get("holderIdentity", "")
        pods = await self.ready_pods()
        return next((Leader(each, holder) for each in pods if holder.startswith(f"{each.name}_")), None)

    async def wait_complete(self, seconds: float = ROLLOUT_SECONDS) -> None:
        """Wait until there are all pods of the newest template and no other one, and one of them leads."""
        await asyncio.to_thread(wait_rolled_out, self.cluster, seconds)
        replicas = self.replicas

        async def complete() -> bool:
            count, ready = len(await self.pods_of()), len(await self.ready_pods())
            return count == ready == replicas and await self.leader() is not None

        await until(complete, seconds=seconds, what="all pods are ready, and one leads")

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
            ("logs", "-l", PODS, "--all-containers", "--prefix", "--tail=15", "--ignore-errors"),
        )
        found = [self.kubectl(*command, check=False) for command in commands]
        # Of the events the newest are the last.
        return "\n\n".join("\n".join((each.stdout + each.stderr).splitlines()[-60:]) for each in found)


def image_of(cluster: Cluster, deployment: str = DEPLOYMENT) -> str:
    """Return the image of a Deployment of the installation."""
    found = cluster.get("-n", NAMESPACE, deployment)
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


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
