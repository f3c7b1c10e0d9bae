"""A Kubernetes cluster under test: the same for our own control plane, kind, and any kubeconfig."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from harness import REPOSITORY
from harness.controlplane.errors import ControlPlaneError, KubectlError

PRODUCT = (REPOSITORY / "crds", REPOSITORY / "manifests" / "base")
FIELD_MANAGER = "datastorage-e2e"
CONTEXT = "datastorage-e2e"  # the only context of every kubeconfig written here
KUBECTL_TIMEOUT = 120.0  # seconds
TOKEN_LIFETIME = 6 * 3600  # seconds; longer than any test run


class Cluster:
    """A cluster, reached as its administrator through a kubeconfig.

    `directory` is where its kubeconfigs and kubectl's cache go.
    """

    can_restart: ClassVar[bool] = False
    """Whether the API server can be killed and started again (then it is a ControlPlane)."""

    def __init__(self, admin_kubeconfig: Path, kubectl: Path, directory: Path) -> None:
        self.admin_kubeconfig = admin_kubeconfig
        self.directory = directory
        self._kubectl = kubectl

    @classmethod
    def from_context(cls, source: Path, context: str, kubectl: Path, directory: Path) -> "Cluster":
        """Return the cluster of one context of a kubeconfig, copied, so that nothing can switch it."""
        cluster = cls(source, kubectl, directory)
        view = cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", f"--context={context}")
        cluster.admin_kubeconfig = directory / "admin.kubeconfig"
        write_private(cluster.admin_kubeconfig, view.stdout)
        return cluster

    @property
    def kubectl_path(self) -> Path:
        return self._kubectl

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for a program that uses this cluster as its administrator."""
        # Each cluster has a cache of its own, because ports, and so cache keys, are reused.
        cache = str(self.directory / "kubectl-cache")
        return os.environ | {"KUBECONFIG": str(self.admin_kubeconfig), "KUBECACHEDIR": cache}

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 -- named as in subprocess.run
        kubeconfig: Path | None = None,
        check: bool = True,
        timeout: float = KUBECTL_TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or as the user of `kubeconfig`.

        Raises:
            KubectlError: it exited with an error, unless `check` is false.
            ControlPlaneError: it took longer than `timeout` seconds.
        """
        try:
            done = subprocess.run(
                [self._kubectl, f"--kubeconfig={kubeconfig or self.admin_kubeconfig}", *arguments],
                input=input,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                env=self.environment,
            )
        except subprocess.TimeoutExpired as error:
            raise ControlPlaneError(
                f"kubectl {' '.join(arguments)} took more than {timeout:.0f} s"
            ) from error
        if check and done.returncode != 0:
            raise KubectlError(arguments, done.returncode, done.stderr)
        return done

    def get(self, *arguments: str) -> Any:
        """Return the parsed output of `kubectl get … -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def service_account_kubeconfig(
        self, namespace: str, name: str, *, duration: int = TOKEN_LIFETIME
    ) -> Path:
        """Write a kubeconfig with a fresh token of a ServiceAccount, valid for `duration` seconds."""
        command = ["create", "token", name, f"--namespace={namespace}", f"--duration={duration}s"]
        token = self.kubectl(*command).stdout.strip()
        view = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        cluster = json.loads(view.stdout)["clusters"][0]["cluster"]
        folder = self.directory / "kubeconfigs"
        folder.mkdir(exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f"{namespace}-{name}-", dir=folder)) / "kubeconfig"
        write_private(path, kubeconfig(name, cluster, {"token": token}, namespace=namespace))
        return path

    def apply(self, *paths: Path) -> list[str]:
        """Apply manifests server-side and return the applied objects as kind.group/name.

        A path is a file, a folder of files, or a folder with a kustomization.
        """
        applied: list[str] = []
        for path in paths:
            flag = "-k" if (path / "kustomization.yaml").exists() else "-f"
            options = ["--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "-o", "name"]
            applied += self.kubectl("apply", *options, flag, str(path)).stdout.split()
        return applied

    def apply_product(self, *paths: Path) -> list[str]:
        """Apply the product's manifests, by default crds/ and manifests/base; waits for the CRDs.

        Returns the applied objects as kind.group/name. Paths that do not exist are an error.
        """
        applied: list[str] = []
        for path in paths or PRODUCT:
            names = self.apply(path)
            self._wait_established([name for name in names if name.startswith("customresourcedefinition")])
            applied += names
        return applied

    def metrics(self) -> str:
        """Return the API server's metrics in the Prometheus text format."""
        return self.kubectl("get", "--raw", "/metrics").stdout

    def _wait_established(self, definitions: Sequence[str]) -> None:
        if definitions:
            self.kubectl("wait", "--for=condition=Established", "--timeout=60s", *definitions)


def kubeconfig(
    user: str, cluster: dict[str, Any], credentials: dict[str, Any], *, namespace: str = "default"
) -> str:
    """Return a kubeconfig (as JSON, which is YAML) of one cluster, one user and one context."""
    context = {"cluster": CONTEXT, "user": user, "namespace": namespace}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": CONTEXT, "context": context}],
            "current-context": CONTEXT,
        },
        indent=2,
    )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
