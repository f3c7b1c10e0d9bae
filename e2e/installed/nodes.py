"""The nodes of a kind cluster: containers of Docker on this machine, which can be stopped like machines."""

import shutil
from typing import Final

from e2e.installed.installation import Pod
from harness.controlplane import Cluster
from harness.docker import Docker
from harness.polling import until_blocking

_READY_SECONDS: Final = 180.0


class Nodes:
    """Stops and starts nodes, and ends processes on them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._docker = Docker()
        self._stopped: dict[str, set[str]] = {}
        """The containers that ran on the stopped nodes."""

    def names(self) -> list[str]:
        """Return the names of all nodes."""
        return [each["metadata"]["name"] for each in self._cluster.get("nodes")["items"]]

    def control_plane(self) -> str:
        """Return the name of the node that the tests neither stop nor drain."""
        selector = "--selector=node-role.kubernetes.io/control-plane"
        name: str = self._cluster.get("nodes", selector)["items"][0]["metadata"]["name"]
        return name

    def missing(self) -> str:
        """Return why nodes can't be stopped here; empty if they can."""
        if shutil.which("docker") is None:
            return "there is no docker here, so the cluster's nodes can't be stopped"
        names = self.names()
        if self._docker.run("container", "inspect", *names, check=False).returncode:
            return f"the cluster's nodes ({', '.join(names)}) are no containers of this machine's Docker"
        return ""

    def stop(self, name: str) -> None:
        """Stop a node with everything on it, at once."""
        self._stopped[name] = self._containers(name)
        self._docker.run("kill", name)

    def start(self, name: str) -> None:
        """Start a stopped node, and wait until it is ready and all its containers are new ones.

        For a while the API server shows the node and its pods as they were before it was stopped.
        """
        self._docker.run("start", name)
        before = self._stopped.pop(name, set())
        until_blocking(
            lambda: self._is_ready(name) and not before & self._containers(name),
            seconds=_READY_SECONDS,
            what=f"{name} is ready",
        )

    def load(self, image: str, name: str) -> None:
        """Load an image of this machine's Docker into a node, if it has not got it."""
        if self._docker.run("exec", name, "crictl", "inspecti", image, check=False).returncode:
            self._docker.copy_images([image], name)

    def kill(self, pod: Pod) -> None:
        """Send SIGKILL to the operator in a pod. Inside the pod it can't be sent to the first process."""
        template = "{{.info.pid}}"
        inspect = ("crictl", "inspect", "--output=go-template", f"--template={template}", pod.container)
        pid = self.run(pod.node, *inspect).strip()
        self.run(pod.node, "kill", "-KILL", pid)

    def run(self, node: str, *command: str, text: str | None = None) -> str:
        """Run a command on a node, with ``text`` as its input; return what it printed."""
        interactive = () if text is None else ("--interactive",)
        return self._docker.run("exec", *interactive, node, *command, input=text).stdout

    def _containers(self, node: str) -> set[str]:
        pods = self._cluster.get("pods", "-A", f"--field-selector=spec.nodeName={node}")["items"]
        statuses = (each for pod in pods for each in pod["status"].get("containerStatuses", ()))
        return {each["containerID"] for each in statuses if "containerID" in each}

    def _is_ready(self, name: str) -> bool:
        conditions = self._cluster.get("node", name)["status"]["conditions"]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
