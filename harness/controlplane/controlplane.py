"""Start, break and stop a control plane."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from harness.controlplane import components, etcd
from harness.controlplane.api import AdminClient
from harness.controlplane.binaries import ensure_binaries
from harness.controlplane.certificates import Certificates, KeyPair, ensure_certificates
from harness.controlplane.cluster import Cluster, kubeconfig, write_private
from harness.controlplane.components import Layout
from harness.controlplane.errors import ControlPlaneError
from harness.controlplane.processes import Component, Deadline, ProcessGroup
from harness.ports import free_port, is_free

START_TIMEOUT = 120.0  # seconds until a component must be ready; the slowest takes 4 on 2 idle cores
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
PORT_FILE = "api-port"
PORT_TIMEOUT = 5.0  # seconds to wait for the port of the last start before taking another
PORT_INTERVAL = 0.05  # seconds between two looks at that port
SOCKET_PATH_LIMIT = 100  # bytes; kernels take 104 to 108


class ControlPlane(Cluster):
    """etcd, kube-apiserver and kube-controller-manager as children of this process.

    `directory` holds everything: data, certificates, logs, kubeconfigs. Started again on the same
    directory, it has the same objects, the same port (while that is free) and accepts the same
    credentials.

    `fsync=False` lets etcd acknowledge writes that are not on disk yet. That gives 1.3 to 2 times as
    many creates per second on an ordinary disk and the same start, but rates and crash tests would
    then say little about a real cluster; so it is not the default. `audit_policy` is a file
    with an audit Policy; with one, the API server writes logs/audit.log. `api_server_flags` are added to
    its command line.
    """

    can_restart: ClassVar[bool] = True

    def __init__(
        self,
        directory: Path,
        *,
        api_port: int | None = None,
        fsync: bool = True,
        audit_policy: Path | None = None,
        api_server_flags: Sequence[str] = (),
    ) -> None:
        binaries = ensure_binaries()
        directory = directory.absolute()
        super().__init__(directory / "admin.kubeconfig", binaries.kubectl, directory)
        self._layout = Layout(directory, api_port or _last_port(directory) or free_port())
        self._certificates = Certificates(directory / "certificates")
        self._etcd = self._component("etcd", components.etcd_command(binaries, self._layout, fsync=fsync))
        self._api_server = self._component(
            "kube-apiserver",
            components.api_server_command(
                binaries,
                self._layout,
                self._certificates,
                audit_policy=audit_policy,
                more=api_server_flags,
            ),
        )
        self._controller_manager = self._component(
            "kube-controller-manager",
            components.controller_manager_command(binaries, self._layout, self._certificates),
        )
        self._group: ProcessGroup | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def api_url(self) -> str:
        return self._layout.api_url

    @property
    def etcd_endpoint(self) -> str:
        return self._layout.etcd_endpoint

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the components that run, by name."""
        components_ = (self._etcd, self._api_server, self._controller_manager)
        return {component.name: component.pid for component in components_ if component.pid is not None}

    def start(self) -> None:
        """Start everything and wait until the API is ready and the controllers work.

        Raises:
            ComponentError: a component ended or did not become ready; nothing is left running.
        """
        if self._group is not None:
            raise ControlPlaneError("the control plane is running already")
        self._prepare()
        self._group = ProcessGroup()
        try:
            self._start_etcd()
            self.start_api_server()
            self._start(self._controller_manager, self._controllers_work)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything; what is in the directory stays."""
        if self._group is None:
            return
        for component in (self._controller_manager, self._api_server, self._etcd):
            component.stop(STOP_TIMEOUT)
        self._group.kill()
        self._group = None

    def check(self) -> None:
        """Raise ComponentError if a component has ended by itself."""
        for component in (self._etcd, self._api_server, self._controller_manager):
            component.check()

    def kill_api_server(self) -> None:
        """End the API server without warning (SIGKILL); etcd and the controllers keep running."""
        self._api_server.kill()

    def start_api_server(self) -> None:
        """Start the API server, always on the same port, and wait until it is ready."""
        client = AdminClient(self.api_url, self._certificates)
        self._start(self._api_server, lambda: client.answers("/readyz"))

    def compact_etcd(self) -> int:
        """Make etcd forget all history up to now; return the current revision.

        The API server still has its watch cache: see `expire_watches`.
        """
        return etcd.compact(self._layout.etcd_http_socket)

    def put_into_etcd(self, key: str, value: str) -> None:
        """Write an object of an earlier cluster into etcd, with its former uid and times."""
        etcd.put(self._layout.etcd_http_socket, key, value)

    def back_up(self, copy: Path) -> None:
        """Copy etcd's data into a new folder. The API server is without etcd for a moment."""
        # etcd would wait 7 s for the connections of the API server. What it has acknowledged survives a kill.
        self._etcd.kill()
        shutil.copytree(self._layout.etcd_data, copy)
        self._start_etcd()

    def restore(self, copy: Path) -> None:
        """Replace etcd's data with a copy, as after a disaster, and start everything."""
        for component in (self._controller_manager, self._api_server, self._etcd):
            component.kill()  # the API server would wait for the watches of its clients
        shutil.rmtree(self._layout.etcd_data)
        shutil.copytree(copy, self._layout.etcd_data)
        self._start_etcd()
        self.start_api_server()
        self._start(self._controller_manager, self._controllers_work)

    def _start_etcd(self) -> None:
        self._start(self._etcd, lambda: etcd.is_healthy(self._layout.etcd_http_socket))

    def expire_watches(self) -> None:
        """Make the API server answer 410 Gone to every watch that resumes from an earlier resourceVersion.

        The API server loses its watch cache by being killed and started. Meanwhile etcd gets a new
        revision, so that even a client that has seen everything is behind, and loses the older ones.
        """
        self.kill_api_server()
        etcd.advance(self._layout.etcd_http_socket)
        self.compact_etcd()
        self.start_api_server()

    def _component(self, name: str, command: list[str]) -> Component:
        return Component(name, command, self._layout.log(name))

    def _prepare(self) -> None:
        if len(bytes(self._layout.etcd_http_socket)) > SOCKET_PATH_LIMIT:
            raise ControlPlaneError(
                f"the path of a socket in {self.directory} is too long: use a shorter one"
            )
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layout.log("etcd").parent.mkdir(exist_ok=True)
        ensure_certificates(self._certificates, service_ip=components.SERVICE_IP)
        (self.directory / PORT_FILE).write_text(str(self._layout.api_port))
        self._write_kubeconfig(self.admin_kubeconfig, "admin", self._certificates.admin)
        controller_manager = self._layout.controller_manager_kubeconfig
        self._write_kubeconfig(
            controller_manager, "controller-manager", self._certificates.controller_manager
        )

    def _write_kubeconfig(self, path: Path, user: str, pair: KeyPair) -> None:
        authority = components.inline(self._certificates.ca)
        credentials: dict[str, Any] = {
            "client-certificate-data": components.inline(pair.certificate),
            "client-key-data": components.inline(pair.key),
        }
        server = {"server": self.api_url, "certificate-authority-data": authority}
        write_private(path, kubeconfig(user, server, credentials))

    def _controllers_work(self) -> bool:
        """Return whether the controllers have created what each namespace needs before it admits Pods."""
        client = AdminClient(self.api_url, self._certificates)
        paths = ("serviceaccounts/default", "configmaps/kube-root-ca.crt")
        return all(client.answers(f"/api/v1/namespaces/default/{path}") for path in paths)

    def _start(self, component: Component, is_ready: Callable[[], bool]) -> None:
        if self._group is None:
            raise ControlPlaneError("the control plane is not running: call start()")
        component.start(self._group)
        component.wait_ready(is_ready, START_TIMEOUT)


def _last_port(directory: Path) -> int | None:
    """Return the port that this directory's control plane had before, unless it is taken."""
    try:
        port = int((directory / PORT_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    # A server that was just killed can hold its port a moment longer, until its last thread ends.
    deadline = Deadline(PORT_TIMEOUT)
    while not is_free(port):
        if deadline.passed():
            return None
        time.sleep(PORT_INTERVAL)
    return port
