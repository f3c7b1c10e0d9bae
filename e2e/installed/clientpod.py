"""A pod with a ServiceAccount's token, from which the tests use the Service as other workloads do."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from e2e.installed.installation import SERVICE_URL
from e2e.installed.reads import Counts, Plan
from harness.controlplane import Cluster

TOKEN_FILE: Final = "/var/run/secrets/datastorage/token"  # where the command line looks for it
PER_SECOND: Final = 50.0
PATIENCE_SECONDS: Final = 30.0
"""For reads while a pod or a node has failed: its connections break, and the client tries again."""
NODE_PATIENCE_SECONDS: Final = 90.0
"""For reads while a node has failed: the Service sends connections to its pods until the cluster has noticed,
which takes about 50 s."""

CONNECT: Final = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
except OSError:
    print("refused")
else:
    print("open")
"""
"""A program that prints whether a TCP connection to a host and a port opens."""

_READS: Final = (Path(__file__).parent / "reads.py").read_text()
_PORT: Final = 8000
_LISTEN: Final = f"""
import socket
with socket.create_server(("", {_PORT})) as server:
    while True:
        server.accept()[0].close()
"""
_SECONDS: Final = 120.0
_READS_END_SECONDS: Final = NODE_PATIENCE_SECONDS + 60.0
# A bare pod is not replaced when its node is stopped or drained, so it stays away from the workers.
_AFFINITY: Final = {
    "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "preference": {
                    "matchExpressions": [
                        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
                    ]
                },
            }
        ]
    }
}


class ClientPod:
    """A pod of the product's image, which has Python, aiohttp and the command line."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, image: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self._image = image

    def start(self, *, labels: Mapping[str, str] | None = None) -> None:
        """Make the pod under the ServiceAccount of its name, and wait until it runs."""
        self.cluster.kubectl("create", "serviceaccount", self.name, "-n", self.namespace, check=False)
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(self._manifest(labels or {})))
        self.cluster.kubectl(
            *("wait", "-n", self.namespace, f"pod/{self.name}", "--for=condition=Ready"),
            f"--timeout={_SECONDS:.0f}s",
            timeout=_SECONDS + 30,
        )

    @property
    def place(self) -> tuple[str, int]:
        """The address at which it listens, and its port."""
        address: str = self.cluster.get("pod", "-n", self.namespace, self.name)["status"]["podIP"]
        return address, _PORT

    def run(
        self, *command: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the pod, with ``text`` as its input."""
        return self.cluster.kubectl(*self._exec(), *command, input=text, check=check)

    def datastorage(
        self, command: str, *arguments: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line, which asks the Service with the pod's token."""
        return self.run("datastorage", command, "--insecure-http", *arguments, text=text, check=check)

    def reaches(self, host: str, port: int) -> bool:
        """Return whether a TCP connection to an address opens."""
        return self.run("python", "-c", CONNECT, host, str(port)).stdout.strip() == "open"

    @asynccontextmanager
    async def reads(
        self, paths: Sequence[str], *, per_second: float = PER_SECOND, patience_seconds: float = 0.0
    ) -> AsyncIterator[Counts]:
        """Read below /api/v1 through the Service while the context lasts; it then fills the counts.

        With patience a connection that does not open is given up soon: the next one may meet another pod.
        """
        plan = Plan(
            urls=[f"{SERVICE_URL}/api/v1{path}" for path in paths],
            token_file=TOKEN_FILE,
            per_second=per_second,
            connect_seconds=1.0 if patience_seconds else 10.0,
            patience_seconds=patience_seconds,
        )
        kubectl = [str(self.cluster.kubectl_path), f"--kubeconfig={self.cluster.admin_kubeconfig}"]
        process = await asyncio.create_subprocess_exec(
            *kubectl, *self._exec(), "python", "-c", _READS, json.dumps(asdict(plan)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self.cluster.environment,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        counts = Counts()
        try:
            async with asyncio.timeout(_SECONDS):
                line = await process.stdout.readline()
            if line.strip() != b"started":
                _, errors = await process.communicate()
                raise AssertionError(f"the reads did not start: {errors.decode()}")
            yield counts
            process.stdin.close()
            async with asyncio.timeout(_READS_END_SECONDS):
                printed, errors = await process.communicate()
            assert printed, errors.decode()
            vars(counts).update(json.loads(printed))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _exec(self) -> tuple[str, ...]:
        return ("exec", "-i", "-n", self.namespace, self.name, "--")

    def _manifest(self, labels: Mapping[str, str]) -> dict[str, Any]:
        token = {"serviceAccountToken": {"audience": "datastorage", "path": "token"}}
        container = {
            "name": "client",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", _LISTEN],
            "env": [{"name": "DATASTORAGE_SERVER", "value": SERVICE_URL}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "token", "mountPath": str(Path(TOKEN_FILE).parent), "readOnly": True}],
        }
        spec = {
            "serviceAccountName": self.name,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "affinity": _AFFINITY,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": "token", "projected": {"sources": [token]}}],
        }
        metadata = {"name": self.name, "namespace": self.namespace, "labels": dict(labels)}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
