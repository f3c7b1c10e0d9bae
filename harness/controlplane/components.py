"""The command lines of etcd, kube-apiserver and kube-controller-manager."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.binaries import Binaries
from harness.controlplane.certificates import Certificates

SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"

# The controllers that work without nodes: for namespaces, ServiceAccounts, workloads down to their Pods, the
# garbage collection of dependents, and the type checks of admission policies.
CONTROLLERS = (
    "namespace-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "replicaset-controller",
    "job-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "resourcequota-controller",
    "validatingadmissionpolicy-status-controller",
)


@dataclass(frozen=True)
class Layout:
    """Where a control plane keeps its files and listens."""

    directory: Path
    api_port: int

    @property
    def etcd_socket(self) -> Path:
        return self.directory / "etcd.sock"

    @property
    def etcd_http_socket(self) -> Path:
        """Where etcd answers JSON over HTTP instead of gRPC."""
        return self.directory / "etcd-http.sock"

    @property
    def etcd_data(self) -> Path:
        return self.directory / "etcd"

    @property
    def etcd_endpoint(self) -> str:
        return f"unix://{self.etcd_socket}"

    @property
    def api_url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def controller_manager_kubeconfig(self) -> Path:
        return self.directory / "controller-manager.kubeconfig"

    def log(self, component: str) -> Path:
        return self.directory / "logs" / f"{component}.log"


def etcd_command(binaries: Binaries, layout: Layout, *, fsync: bool) -> list[str]:
    """Return etcd's command line: on Unix sockets, which no other user and no other run can reach."""
    # etcd requires host:port in the URLs that it advertises; a single member never dials them.
    unused = "http://127.0.0.1:0"
    return [
        str(binaries.etcd),
        "--name=e2e",
        f"--data-dir={layout.etcd_data}",
        f"--listen-client-urls={layout.etcd_endpoint}",
        f"--listen-client-http-urls=unix://{layout.etcd_http_socket}",
        f"--advertise-client-urls={unused}",
        f"--listen-peer-urls={unused}",
        f"--initial-advertise-peer-urls={unused}",
        f"--initial-cluster=e2e={unused}",
        "--quota-backend-bytes=8589934592",
        "--log-level=warn",
        *([] if fsync else ["--unsafe-no-fsync"]),
    ]


def api_server_command(
    binaries: Binaries,
    layout: Layout,
    certificates: Certificates,
    *,
    audit_policy: Path | None,
    more: Sequence[str] = (),
) -> list[str]:
    """Return kube-apiserver's command line and `more`; with an audit policy it writes logs/audit.log too."""
    audit = [
        f"--audit-policy-file={audit_policy}",
        f"--audit-log-path={layout.log('audit')}",
    ]
    return [
        str(binaries.kube_apiserver),
        f"--etcd-servers={layout.etcd_endpoint}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={layout.api_port}",
        f"--tls-cert-file={certificates.api_server.certificate}",
        f"--tls-private-key-file={certificates.api_server.key}",
        f"--client-ca-file={certificates.ca}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={certificates.service_account_key}",
        f"--service-account-signing-key-file={certificates.service_account_key}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--endpoint-reconciler-type=none",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--event-ttl=1h",
        "--profiling=false",
        *(audit if audit_policy is not None else []),
        *more,
    ]


def controller_manager_command(binaries: Binaries, layout: Layout, certificates: Certificates) -> list[str]:
    """Return kube-controller-manager's command line; each controller uses its own ServiceAccount."""
    return [
        str(binaries.kube_controller_manager),
        f"--kubeconfig={layout.controller_manager_kubeconfig}",
        "--use-service-account-credentials=true",
        f"--root-ca-file={certificates.ca}",
        f"--service-account-private-key-file={certificates.service_account_key}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--profiling=false",
    ]


def inline(path: Path) -> str:
    """Return a file's content as the *-data fields of a kubeconfig take it."""
    return base64.b64encode(path.read_bytes()).decode()
