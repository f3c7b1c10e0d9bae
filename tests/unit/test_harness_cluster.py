"""How the harness runs kubectl against a cluster."""

from pathlib import Path

import pytest

from harness.controlplane import Cluster, ControlPlaneError, KubectlError


def cluster(folder: Path, command: str) -> Cluster:
    """Return a cluster with a shell command in place of kubectl."""
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)
    return Cluster(folder / "kubeconfig", program, folder)


def test_an_error_has_the_words_of_kubectl(tmp_path: Path) -> None:
    failing = cluster(tmp_path, "echo no such pod >&2; exit 3")
    with pytest.raises(KubectlError, match=r"^kubectl get pod x \(exit 3\): no such pod$"):
        failing.kubectl("get", "pod", "x")
    assert failing.kubectl("get", "pod", "x", check=False).returncode == 3


@pytest.mark.parametrize("check", [True, False])
def test_a_command_that_takes_too_long_is_an_error_of_the_cluster(*, check: bool, tmp_path: Path) -> None:
    """What catches such errors then shows the pods and the logs."""
    hanging = cluster(tmp_path, "exec sleep 600")
    with pytest.raises(ControlPlaneError, match=r"^kubectl apply -k x took more than 0 s$"):
        hanging.kubectl("apply", "-k", "x", check=check, timeout=0.1)
