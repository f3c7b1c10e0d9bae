"""Brings the kind cluster up, by pytest-kind, and takes everything away again."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datastorage import __version__
from e2e.kind.nodes import Chosen
from harness import REPOSITORY
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.progress import Running, say
from harness.docker import Daemon, Docker, DockerError
from harness.nodeimage.programs import KIND, MODULE

# pytest-kind reads this when it is imported, and its own default is too old for the node image.
os.environ.setdefault("KIND_VERSION", MODULE.requires(KIND))
from pytest_kind import KindCluster

CONFIGURATIONS = REPOSITORY / "e2e" / "kind"
INSTALLATION = CONFIGURATIONS / "cluster.yaml"
PROCESSES = CONFIGURATIONS / "processes.yaml"
PRODUCT_IMAGE = f"kubernaut-datastorage:{__version__}"  # as manifests/base names it
NETWORK = "kind"  # of Docker; kind makes it, and never removes it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KIND_TIMEOUT = 900.0  # seconds for a command of kind; loading an image of 1 GB into three nodes takes minutes
NODES_TIMEOUT = 300.0  # seconds; they are Ready after some twenty


class Kind:
    """One kind cluster, with its files in .pytest-kind/NAME of the working directory."""

    def __init__(
        self,
        name: str,
        docker: Docker,
        configuration: Path = INSTALLATION,
        *,
        timeout: float = KIND_TIMEOUT,
    ) -> None:
        """``timeout`` is for each command of kind, in seconds."""
        self.name = name
        self._configuration = configuration
        self._docker = docker
        self._timeout = timeout
        self._directory = Path(".pytest-kind") / name

    @property
    def context(self) -> str:
        return f"kind-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        return (self._directory / "kubeconfig").resolve()

    @property
    def kubectl(self) -> Path:
        """The kubectl of the node's image, which has the server's version."""
        return (self._directory / "bin" / "kubectl").resolve()

    @property
    def output(self) -> Path:
        """The file for what tests print that run beside others."""
        return (self._directory / "pytest.log").resolve()

    @property
    def logs(self) -> Path:
        return (self._directory / "logs").resolve()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Let one process at a time work with the cluster of this name.

        This comes before anything that a run leaves behind is looked at: of that, a run which is refused may
        take nothing away.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ControlPlaneError(
                    f"another run uses the cluster {self.name}: wait for it, or give this one a --name"
                ) from error
            yield

    def exists(self) -> bool:
        return bool(self._nodes())

    def create(self, chosen: Chosen) -> Cluster:
        """Create the cluster, or take the one that was kept, and wait until its nodes are Ready.

        Raises:
            ControlPlaneError: kind fails, or a node does not become Ready.
        """
        if self._docker.run("network", "inspect", NETWORK, check=False).returncode != 0:
            (self._directory / "made-network").touch()
        kind = KindCluster(self.name, self.kubeconfig, image=chosen.node, kind_path=chosen.kind)
        self._remember(chosen.kind or kind.kind_path)
        try:
            kind.create(self._configuration)
        except (subprocess.CalledProcessError, OSError) as error:
            raise ControlPlaneError(f"kind cannot create the cluster {self.name}: {error}") from error
        self.kubectl.parent.mkdir(exist_ok=True)
        control_plane = f"{self.name}-control-plane"
        self._docker.run("cp", f"{control_plane}:/usr/bin/kubectl", str(self.kubectl))
        cluster = Cluster.from_context(self.kubeconfig, self.context, self.kubectl, self._directory.resolve())
        timeout = f"--timeout={NODES_TIMEOUT:.0f}s"
        cluster.kubectl(
            "wait", "nodes", "--all", "--for=condition=Ready", timeout, timeout=NODES_TIMEOUT + 30
        )
        return cluster

    def load(self, everywhere: Mapping[str, str], on_workers: Mapping[str, str]) -> None:
        """Load images of Docker's into the nodes, by the names that the manifests have for them.

        Each node gets all of its images at once, because they have layers in common, and each of these is
        written once then.
        """
        images = {**everywhere, **on_workers}
        say(f"loading {', '.join(everywhere)} into the nodes, {', '.join(on_workers)} into the workers alone")
        tagged = [
            name for name, image in images.items() if image != name and not self._docker.has_image(name)
        ]
        load = ("load", "docker-image", "--name", self.name)
        try:
            for name in tagged:
                self._docker.run("tag", images[name], name)
            self._kind(*load, "--nodes", ",".join(self._nodes("worker")), *images)
            self._kind(*load, "--nodes", ",".join(self._nodes("control-plane")), *everywhere)
        finally:
            for name in tagged:
                self._docker.run("image", "rm", name, check=False)

    def export_logs(self) -> None:
        """Write the logs of nodes and pods into a folder, if they can be had.

        Something has failed before, and its error matters more than one of this.
        """
        try:
            self._kind("export", "logs", "--name", self.name, str(self.logs))
        except ControlPlaneError as error:
            say(f"there are no logs of the nodes and pods: {' '.join(str(error).split())}")
        else:
            say(f"the logs of the nodes and pods are in {self.logs}")

    def remove(self) -> None:
        """Remove the cluster, and Docker's network for it if it was made for it."""
        if self.exists():
            kubeconfig = f"--kubeconfig={self.kubeconfig}"
            self._kind("delete", "cluster", "--name", self.name, kubeconfig)
        made = self._directory / "made-network"
        # It stays as long as another cluster uses it; the next removal of this one takes it away.
        if made.exists() and self._docker.run("network", "rm", NETWORK, check=False).returncode == 0:
            made.unlink()

    def _nodes(self, role: str | None = None) -> list[str]:
        """Return the names of the containers that are the nodes, running or not."""
        labels = [f"label=io.x-k8s.kind.cluster={self.name}"]
        if role is not None:
            labels.append(f"label=io.x-k8s.kind.role={role}")
        filters = [argument for label in labels for argument in ("--filter", label)]
        return self._docker.run("ps", "--all", "--format", "{{.Names}}", *filters).stdout.split()

    def _remember(self, kind: Path) -> None:
        (self._directory / "kind-path").write_text(str(kind.resolve()))

    def _kind(self, *arguments: str) -> None:
        command = f"kind {' '.join(arguments[:2])}"
        try:
            program = (self._directory / "kind-path").read_text()
            done = subprocess.run(
                [program, *arguments], capture_output=True, text=True, check=False, timeout=self._timeout
            )
        except subprocess.TimeoutExpired as error:
            raise ControlPlaneError(
                f"{command} took more than {self._timeout:.0f} s: is dockerd overloaded?"
            ) from error
        except OSError as error:
            raise ControlPlaneError(f"{command} cannot be run: {error}") from error
        if done.returncode != 0:
            raise ControlPlaneError(f"{command} failed: {done.stderr.strip()}")


@contextmanager
def docker_daemon(*, keep: bool, daemon: Daemon | None = None) -> Iterator[Docker]:
    """Have a Docker that answers; where a run has started it, stop it afterwards, unless ``keep``.

    If several runs use it, the last one stops it. The caller has claimed the cluster.
    """
    daemon = daemon or Daemon()
    try:
        with daemon.in_use():
            daemon.start_if_needed(for_runs=True)
            yield Docker()
    finally:
        if daemon.is_for_runs and keep:
            say("kept: dockerd, which --remove stops as well")
        elif daemon.is_for_runs:
            with uninterrupted():
                _stop(daemon)


def _stop(daemon: Daemon) -> None:
    try:
        daemon.stop()
    except DockerError as error:  # others use it, and stop it in the end: no reason to fail
        say(str(error))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let nobody interrupt what is done, in this process and those that it starts: a second Ctrl-C, say."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def building_product(chosen: Chosen) -> Running:
    """Begin to build the product's image, as `make image` does.

    Raises:
        ControlPlaneError: `make` is missing.
    """
    arguments = [f"{name}={os.environ[name]}" for name in ("PIP_INDEX_URL",) if name in os.environ]
    if chosen.base is not None:
        # The base has this machine's certificates, and pip's own would not vouch for a mirror.
        arguments += [f"BASE_IMAGE={chosen.base}", "PIP_CERT=/etc/ssl/certs/ca-certificates.crt"]
    command = ["make", "--no-print-directory", "image", *arguments]
    return Running(command, "building the product's image", cwd=REPOSITORY)
