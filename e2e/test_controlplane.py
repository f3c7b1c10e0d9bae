"""The control plane itself, whose behaviour the other tests rely on."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness import REPOSITORY
from harness.controlplane import Cluster, ComponentError, ControlPlane, ControlPlaneError, KubectlError
from harness.controlplane.binaries import kubernetes_version
from harness.controlplane.processes import Component, ProcessGroup
from harness.polling import DEADLINE_SECONDS, until_blocking
from harness.ports import free_port

PARENT = """
import sys, time
from pathlib import Path
from harness.controlplane import ControlPlane

control_plane = ControlPlane(Path(sys.argv[1]))
control_plane.start()
control_plane.kubectl("create", "configmap", "kept")
kubeconfig = control_plane.service_account_kubeconfig("default", "default")
print(*control_plane.pids.values(), flush=True)
print(kubeconfig, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def python(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        pytest.fail(f"ended early: {process.communicate()[1]}")
    return line


def test_server_reports_the_version_it_was_built_from(own_control_plane: ControlPlane) -> None:
    answer = json.loads(own_control_plane.kubectl("version", "-o", "json").stdout)
    assert answer["serverVersion"]["gitVersion"] == kubernetes_version()
    assert answer["clientVersion"]["gitVersion"] == kubernetes_version()


def test_deployment_becomes_pods_and_events(control_plane: Cluster, namespace: str) -> None:
    here = f"--namespace={namespace}"
    control_plane.kubectl("create", "deployment", "web", "--image=example.invalid/web", here)
    control_plane.kubectl("scale", "deployment/web", "--replicas=3", here)

    def reasons() -> set[str]:
        return {event["reason"] for event in control_plane.get("events", here)["items"]}

    until_blocking(lambda: len(control_plane.get("pods", here)["items"]) == 3, what="three Pods")
    until_blocking(
        lambda: {"ScalingReplicaSet", "SuccessfulCreate"} <= reasons(),
        what="Events of the scaling",
    )


def test_namespace_with_content_goes_away(control_plane: Cluster, make_namespace: Callable[[], str]) -> None:
    namespace = make_namespace()
    control_plane.kubectl("create", "configmap", "content", f"--namespace={namespace}")
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")

    def is_gone() -> bool:
        return control_plane.kubectl("get", "namespace", namespace, check=False).returncode != 0

    until_blocking(is_gone, what="the namespace is gone")


def test_service_account_acts_under_its_own_name(control_plane: Cluster, namespace: str) -> None:
    control_plane.kubectl("create", "serviceaccount", "robot", f"--namespace={namespace}")
    robot = control_plane.service_account_kubeconfig(namespace, "robot", duration=600)
    answer = control_plane.kubectl("auth", "whoami", "-o", "json", kubeconfig=robot)
    user = json.loads(answer.stdout)["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{namespace}:robot"
    assert robot.stat().st_mode & 0o077 == 0


def test_service_account_has_only_the_rights_of_its_role(control_plane: Cluster, namespace: str) -> None:
    here = f"--namespace={namespace}"
    control_plane.kubectl("create", "serviceaccount", "robot", here)
    robot = control_plane.service_account_kubeconfig(namespace, "robot")
    with pytest.raises(KubectlError, match="Forbidden"):
        control_plane.kubectl("get", "configmaps", here, kubeconfig=robot)
    control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", here)
    grant = ["--role=reader", f"--serviceaccount={namespace}:robot"]
    control_plane.kubectl("create", "rolebinding", "reader", *grant, here)

    def may_read() -> bool:
        return control_plane.kubectl("get", "configmaps", here, kubeconfig=robot, check=False).returncode == 0

    until_blocking(may_read, what="the Role is in force")
    with pytest.raises(KubectlError, match="Forbidden"):
        control_plane.kubectl("get", "secrets", here, kubeconfig=robot)


def test_killed_api_server_comes_back_with_its_data(own_control_plane: ControlPlane, namespace: str) -> None:
    here = f"--namespace={namespace}"
    own_control_plane.kubectl("create", "configmap", "kept", "--from-literal=color=blue", here)
    robot = own_control_plane.service_account_kubeconfig(namespace, "default")
    others = {name: pid for name, pid in own_control_plane.pids.items() if name != "kube-apiserver"}
    own_control_plane.kill_api_server()
    assert own_control_plane.pids == others
    with pytest.raises(KubectlError, match="refused"):
        own_control_plane.kubectl("get", "configmap", "kept", here)
    own_control_plane.start_api_server()
    assert own_control_plane.get("configmap", "kept", here)["data"] == {"color": "blue"}
    own_control_plane.kubectl("auth", "whoami", kubeconfig=robot)


def test_expired_watches_are_answered_410(own_control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    latest = json.loads(own_control_plane.kubectl("get", "--raw", path).stdout)["metadata"]["resourceVersion"]
    watch = f"{path}?watch=true&timeoutSeconds=1&resourceVersion={latest}"
    before = own_control_plane.kubectl("get", "--raw", watch)
    own_control_plane.expire_watches()
    after = own_control_plane.kubectl("get", "--raw", watch)
    assert "ERROR" not in before.stdout
    assert json.loads(after.stdout)["object"]["code"] == 410


def test_metrics_count_requests(control_plane: Cluster, namespace: str) -> None:
    def created() -> float:
        total = 0.0
        for line in control_plane.metrics().splitlines():
            if (
                line.startswith("apiserver_request_total{")
                and 'resource="secrets"' in line
                and 'verb="POST"' in line
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total

    before = created()
    control_plane.kubectl("create", "secret", "generic", "counted", f"--namespace={namespace}")
    until_blocking(
        lambda: created() > before, what="the server has counted it, which it does after its answer"
    )
    assert created() == before + 1


def test_children_die_with_their_parent_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    directory = tmp_path / "cp"
    parent = python("-c", PARENT, str(directory))
    pids = [int(pid) for pid in read_line(parent).split()]
    robot = Path(read_line(parent))
    assert len(pids) == 3
    parent.kill()
    parent.communicate()
    until_blocking(lambda: not any(map(is_running, pids)), what="all children are gone")
    with ControlPlane(directory) as again:
        assert again.get("configmap", "kept")["metadata"]["name"] == "kept"
        again.kubectl("auth", "whoami", kubeconfig=robot)  # same port, authority and signing key


def test_children_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    group = ProcessGroup()
    child = Component("sleep", ["sleep", "600"], tmp_path / "log")
    thread = threading.Thread(target=child.start, args=(group,))
    thread.start()
    task = Path(f"/proc/self/task/{thread.native_id}")
    thread.join()
    until_blocking(lambda: not task.exists(), what="the kernel has ended the thread too")
    assert not child.wait(0.5)
    group.kill()
    assert child.wait(DEADLINE_SECONDS)


def test_a_component_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    control_plane = ControlPlane(tmp_path / "cp", audit_policy=tmp_path / "missing.yaml")
    with pytest.raises(ComponentError, match=r"(?s)kube-apiserver ended with status 1.*missing\.yaml"):
        control_plane.start()
    assert control_plane.pids == {}


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    control_plane = ControlPlane(tmp_path / ("x" * 90))
    with pytest.raises(ControlPlaneError, match="too long"):
        control_plane.start()


def test_a_given_port_is_used(tmp_path: Path) -> None:
    port = free_port()
    assert ControlPlane(tmp_path, api_port=port).api_url == f"https://127.0.0.1:{port}"


def test_command_runs_until_it_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "cp"
    place = ["--directory", str(directory)]
    up = python("-m", "harness.controlplane", "up", *place)
    line = read_line(up)
    assert line == f"export KUBECONFIG={directory}/admin.kubeconfig"

    where = python("-m", "harness.controlplane", "kubeconfig", *place)
    assert where.communicate()[0].strip() == f"{directory}/admin.kubeconfig"
    second = python("-m", "harness.controlplane", "up", *place)
    assert "is up in" in second.communicate()[1]
    assert second.returncode == 1

    up.send_signal(signal.SIGTERM)
    assert "Traceback" not in up.communicate(timeout=DEADLINE_SECONDS)[1]
    assert up.returncode == 0
    assert not directory.exists()


def test_command_leaves_folders_of_others_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    up = python("-m", "harness.controlplane", "up", "--directory", str(tmp_path))
    assert "contains other files" in up.communicate()[1]
    assert up.returncode == 1
    assert os.listdir(tmp_path) == ["thesis.txt"]  # noqa: PTH208 -- the names, not the paths
