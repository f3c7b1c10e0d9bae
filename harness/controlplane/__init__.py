"""A real Kubernetes control plane for tests, the demo and the benchmark.

etcd, kube-apiserver and kube-controller-manager run as child processes with TLS and RBAC on.
There are no nodes: Pods are created and stay Pending.
"""

from harness.controlplane.cluster import Cluster
from harness.controlplane.controlplane import ControlPlane
from harness.controlplane.errors import BuildError, ComponentError, ControlPlaneError, KubectlError

__all__ = [
    "BuildError",
    "Cluster",
    "ComponentError",
    "ControlPlane",
    "ControlPlaneError",
    "KubectlError",
]
