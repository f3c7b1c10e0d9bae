"""A port of this machine that leads to a port in the cluster, through the API server."""

import subprocess
import threading
from typing import IO, Final, Self

from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.processes import ProcessGroup
from harness.ports import free_port

_READY: Final = "Forwarding from"


class PortForward:
    """``kubectl port-forward`` to a port of a pod, a Service or a Deployment.

    It ends with the pod that it leads to, and with the first connection that the pod refuses; ``renew`` then
    starts it again on the same port of this machine.
    """

    def __init__(self, cluster: Cluster, namespace: str, target: str, port: int) -> None:
        """``target`` is a name as kubectl takes it, such as ``deployment/postgres``."""
        self.port = free_port()
        self._command: list[str] = [
            str(cluster.kubectl_path), f"--kubeconfig={cluster.admin_kubeconfig}", "-n", namespace,
            "port-forward", "--address=127.0.0.1", "--pod-running-timeout=60s", target, f"{self.port}:{port}",
        ]  # fmt: skip
        self._environment = cluster.environment
        self._process: subprocess.Popen[str] | None = None
        self._group = ProcessGroup()

    def __enter__(self) -> Self:
        try:
            self.renew()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._group.kill()

    def renew(self) -> None:
        """Start it, ending what runs. Raises ControlPlaneError with kubectl's words if it can't start."""
        self._end()
        self._process = process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=self._environment, process_group=self._group.id,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        if not process.stdout.readline().startswith(_READY):
            _, words = process.communicate()
            raise ControlPlaneError(f"kubectl port-forward ended: {words.strip()}")
        # kubectl prints a line for each connection, and would stop when a pipe is full.
        for pipe in (process.stdout, process.stderr):
            threading.Thread(target=_drain, args=(pipe,), daemon=True).start()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _drain(pipe: IO[str]) -> None:
    with pipe:
        for _ in pipe:
            pass
