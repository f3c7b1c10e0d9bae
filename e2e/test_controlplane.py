"""The control plane itself: what the other tests take for granted."""

from e2e.controlplane import Cluster


def test_namespace_appears(control_plane: Cluster, namespace: str) -> None:
    assert control_plane.get("namespace", namespace)["status"]["phase"] == "Active"
