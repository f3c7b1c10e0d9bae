"""The node's image: a Debian with containerd, kubelet and the images of the cluster's own pods."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.controlplane import binaries
from harness.controlplane.binaries import kubernetes_version
from harness.controlplane.errors import BuildError
from harness.controlplane.processes import Deadline
from harness.controlplane.progress import Steps, run_reporting
from harness.docker import Docker, DockerError
from harness.nodeimage import debian, programs
from harness.nodeimage.artefacts import Artefact, folder, key

HERE = Path(__file__).resolve().parent
FILES = HERE / "node"
PACKAGES = (
    "bash", "ca-certificates", "conntrack", "curl", "dbus", "e2fsprogs", "ethtool", "hostname", "iproute2",
    "ipset", "iptables", "jq", "kmod", "libseccomp2", "mount", "nftables", "pigz", "procps", "runc", "socat",
    "systemd", "systemd-sysv", "udev", "util-linux",
)  # fmt: skip
KUBE_ROUTER_IMAGE = "kubernaut-datastorage-kube-router:node"  # as node/default-cni.yaml names it
CONTAINERD_SECONDS = 30.0  # containerd answers after one
POLL_SECONDS = 0.5
# In /usr/bin, where kind and its kubelet.service look for them.
KUBERNETES = ("kubelet", "kubeadm", "kubectl")


def artefact() -> Artefact:
    """Return the node's image for the state of its inputs."""
    inputs = (
        FILES, programs.MODULE.directory, HERE / "debian.sh", HERE / "node.py", HERE / "programs.py",
        binaries.MODULE_DIRECTORY / "go.mod", binaries.MODULE_DIRECTORY / "go.sum",
    )  # fmt: skip
    return Artefact("node", key(debian.SUITE, *inputs), 5, _build)


def _build(docker: Docker, tag: str, steps: Steps) -> None:
    with steps.step(f"the programs of Kubernetes {kubernetes_version()}", 500):
        kubernetes = programs.ensure_kubernetes()
    with steps.step("the programs of a node, from the Go modules in harness/nodeimage/go", 550):
        tools = programs.ensure_tools(programs.KIND_TOOL, *programs.TOOLS)
    root_image = f"{tag}-root"
    with (
        steps.step("the node's Debian packages", 80),
        debian.root_filesystem(PACKAGES, "installing the node's Debian packages") as root,
    ):
        run_reporting([FILES / "kind.sh", root, programs.kind_sources()], "adding kind's files")
        pause = _sandbox_image(root)
        debian.import_root(docker, root, root_image)
    try:
        with steps.step("the images of the cluster's own pods", 20):
            pods = _pod_images(docker, kubernetes | tools, pause, root_image)
        with steps.step("the node's image", 40):
            _node(docker, tag, kubernetes | tools, root_image, pods)
    finally:
        docker.run("image", "rm", root_image, check=False)


def _sandbox_image(root: Path) -> str:
    """Return the image that kind's containerd starts for each pod."""
    configuration = (root / "etc/containerd/config.toml").read_text()
    match = re.search(r'sandbox_image = "(.+)"', configuration)
    if match is None:
        raise BuildError(
            "kind's containerd configuration names no sandbox_image: is this release of kind new?"
        )
    return match.group(1)


def _pod_images(docker: Docker, found: dict[str, Path], pause: str, root_image: str) -> list[str]:
    """Build an image for each program that runs in a pod, under the name that kubeadm gives it."""
    names = subprocess.run(
        [found["kubeadm"], "config", "images", "list", f"--kubernetes-version={kubernetes_version()}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    needs_iptables = ("kube-proxy", "kube-router")
    tags = []
    for name in {*names, pause, KUBE_ROUTER_IMAGE}:
        program = name.rpartition("/")[2].partition(":")[0].removeprefix("kubernaut-datastorage-")
        base = root_image if program in needs_iptables else "scratch"
        _program_image(docker, name, found[program], base)
        tags.append(name)
    return sorted(tags)


def _program_image(docker: Docker, tag: str, program: Path, base: str) -> None:
    with TemporaryDirectory(dir=folder()) as directory:
        context = Path(directory)
        shutil.copy(program, context)
        path = f"/usr/local/bin/{program.name}"
        (context / "Dockerfile").write_text(
            f"FROM {base}\n"
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            f"COPY {program.name} {path}\n"
            f'ENTRYPOINT ["{path}"]\n'
        )
        docker.build(tag, context)


def _node(docker: Docker, tag: str, found: dict[str, Path], root_image: str, pods: list[str]) -> None:
    bare = f"{tag}-bare"
    with TemporaryDirectory(dir=folder()) as directory:
        context = Path(directory)
        for file in ("Dockerfile", "10-kuberouter.conflist", "default-cni.yaml"):
            shutil.copy(FILES / file, context)
        (context / "version").write_text(kubernetes_version())
        for target, names in (
            ("bin", KUBERNETES),
            ("local-bin", [tool.name for tool in programs.RUNTIME]),
            ("cni", [tool.name for tool in programs.NETWORK_PLUGINS]),
        ):
            (context / target).mkdir()
            for name in names:
                shutil.copy(found[name], context / target)
        docker.build(bare, context, arguments={"ROOT": root_image})
    try:
        with _container(docker, bare) as container:
            _import_images(docker, container, pods)
            entrypoint = 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]'
            docker.run("commit", f"--change={entrypoint}", container, tag)
    finally:
        docker.run("image", "rm", bare, *pods, check=False)


@contextmanager
def _container(docker: Docker, image: str) -> Iterator[str]:
    """Run a container in which commands can be executed, and remove it."""
    # containerd unpacks layers, which the default profile of system calls does not let it.
    options = ("--detach", "--entrypoint=sleep", "--security-opt=seccomp=unconfined")
    container = docker.run("run", *options, image, "infinity").stdout.strip()
    try:
        yield container
    finally:
        docker.run("rm", "--force", "--volumes", container, check=False)


def _import_images(docker: Docker, container: str, images: list[str]) -> None:
    """Put images into the containerd of a node; kubelet never removes them."""
    docker.run("exec", "--detach", container, "sh", "-c", "exec containerd > /tmp/containerd.log 2>&1")
    deadline = Deadline(CONTAINERD_SECONDS)
    while docker.run("exec", container, "ctr", "version", check=False).returncode != 0:
        if deadline.passed():
            log = docker.run("exec", container, "cat", "/tmp/containerd.log", check=False).stdout
            raise DockerError(f"containerd does not start in the node; its log:\n{log}")
        time.sleep(POLL_SECONDS)
    docker.copy_images(images, container)
    docker.run("exec", container, "sh", "-c", "kill $(pidof containerd); rm /tmp/containerd.log")
    deadline = Deadline(CONTAINERD_SECONDS)
    while docker.run("exec", container, "pidof", "containerd", check=False).returncode == 0:
        if deadline.passed():
            raise DockerError("containerd does not end in the node")
        time.sleep(POLL_SECONDS)
