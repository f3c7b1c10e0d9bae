"""The replicas in a cluster: a program in the place of kubectl, which forwards to servers of the test."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import pytest_asyncio
from aiohttp import web

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.metrics import INTAKE_DEPTH
from datastorage.replicas.pods import Installation, Pace, Pods, pods_in
from datastorage.replicas.reading import PageReader
from datastorage.replicas.watching import Watching
from harness.polling import eventually, until
from tests.support.metricspages import counted, page_text, shown

# As kubectl does, it prints where it forwards, a line for each connection, and an error at its end.
_KUBECTL: Final = """#!{python} -IS
import json, pathlib, sys, time
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
state = json.loads((folder / "state").read_text())
if "get" in sys.argv:
    if state.get("error"):
        sys.exit("error: " + state["error"])
    print(json.dumps({{"items": state["pods"]}}))
else:
    [name] = [word.removeprefix("pod/") for word in sys.argv if word.startswith("pod/")]
    if name not in state["ports"]:
        sys.exit("error: unable to forward port because pod is not running")
    print(f"Forwarding from 127.0.0.1:{{state['ports'][name]}} -> 9090", flush=True)
    print("Handling connection for 1\\n" * 20_000, flush=True)
    (folder / f"up-{{name}}").touch()
    while (folder / f"up-{{name}}").exists():
        time.sleep(0.02)
    sys.exit("error: lost connection to pod")
"""
_QUICK: Final = Pace(again_seconds=0.0)


def _pod(name: str, phase: str = "Running", waiting: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    return {
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "sidecar"}, {"ports": [{"name": "metrics", "containerPort": 9090}]}]
        },
        "status": {"phase": phase, "containerStatuses": [{"state": state}]},
    }


class Kubectl:
    """The program, what it answers, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "kubectl"
        program.write_text(_KUBECTL.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)

    def set(self, *pods: Mapping[str, Any], error: str = "", **ports: int) -> None:
        """Say which pods there are, and which port leads to each."""
        (self.folder / "state").write_text(json.dumps({"pods": pods, "ports": ports, "error": error}))

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    async def cut(self, name: str) -> None:
        """End the forwarding to a pod, as a restart of its container does."""
        up = self.folder / f"up-{name}"
        # It comes after more lines than a pipe holds, so somebody has to read them.
        await eventually(up.exists)
        up.unlink()


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    made = Kubectl(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return made


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    """The port of a healthy replica."""
    async with shown(lambda: web.Response(text=page_text(counted(INTAKE_DEPTH, 3)))) as url:
        assert url.port is not None
        yield url.port


async def _has_ended(process: psutil.Process) -> bool:
    return not process.is_running()


def _forwarding() -> list[psutil.Process]:
    """Return the running programs; other tests may have left ended ones, which have no command."""
    return [child for child in psutil.Process().children() if "port-forward" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # or a zombie
        return []


async def test_each_pod_is_asked_through_a_port_of_its_own_and_nothing_stays(
    kubectl: Kubectl, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    kubectl.set(_pod("a"), _pod("b"), _pod("c", "Pending"), _pod("d", waiting="CrashLoopBackOff"), a=port)
    installation = Installation(namespace="system", kubeconfig="/k", context="one")
    async with Pods(installation, _QUICK) as pods, PageReader() as reader:
        look = await Watching(pods, reader).look()
        assert len(_forwarding()) == 1
        assert [(replica.name, replica.trouble) for replica in look.replicas] == [
            ("a", None),
            ("b", "kubectl: unable to forward port because pod is not running"),
            ("c", "the pod is Pending"),
            ("d", "the pod is Running: CrashLoopBackOff"),
        ]
        assert look.depths.intake == 3.0
    assert _forwarding() == []
    assert caplog.messages == []
    flags = "--namespace=system --kubeconfig=/k --context=one"
    assert kubectl.calls[0] == f"get pods --selector=app.kubernetes.io/name=datastorage --output=json {flags}"
    assert f"port-forward --address=127.0.0.1 pod/a :9090 {flags}" in kubectl.calls


async def test_a_forwarding_that_has_ended_is_begun_again_and_a_pod_that_is_gone_is_forgotten(
    kubectl: Kubectl, port: int
) -> None:
    kubectl.set(_pod("a"), _pod("b"), a=port, b=port)
    async with Pods(Installation(namespace="system"), _QUICK) as pods, PageReader() as reader:
        watching = Watching(pods, reader)
        assert (await watching.look()).answering == 2
        [first] = [child for child in _forwarding() if "pod/a" in child.cmdline()]
        await kubectl.cut("a")
        await until(lambda: _has_ended(first), what="the forwarding has ended")
        kubectl.set(_pod("a"), a=port)
        look = await watching.look()
        assert [replica.name for replica in look.replicas] == ["a"]
        assert look.answering == 1
        assert [child.cmdline()[-2:-1] == [":9090"] for child in _forwarding()] == [True]


async def test_a_list_that_fails_later_leaves_the_pods_that_are_known(kubectl: Kubectl, port: int) -> None:
    kubectl.set(_pod("a"), a=port)
    async with Pods(Installation(namespace="system"), _QUICK) as pods, PageReader() as reader:
        watching = Watching(pods, reader)
        await watching.look()
        kubectl.set(error="connection refused", a=port)
        assert (await watching.look()).answering == 1


async def test_a_first_list_that_fails_or_is_empty_says_why(kubectl: Kubectl) -> None:
    async with Pods(Installation(namespace="system"), _QUICK) as pods:
        kubectl.set(error='pods is forbidden: User "x" cannot list resource "pods"')
        with pytest.raises(ClusterUnavailableError, match="kubectl: pods is forbidden"):
            await pods.find()
        kubectl.set()
        with pytest.raises(ConfigurationError, match="no pod in the namespace 'system' has the label"):
            await pods.find()


async def test_without_kubectl_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="kubectl is not on PATH"):
        async with Pods(Installation(namespace="system")):
            pass


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"items": 1}', b'{"items": [1]}', b'{"items": [{"metadata": 1}]}']
)
def test_what_is_no_list_of_pods_is_refused(text: bytes) -> None:
    with pytest.raises(ClusterUnavailableError, match="no list of pods"):
        pods_in(text, 3)


def test_a_list_is_bounded_and_a_pod_without_the_port_is_named() -> None:
    bare = {"metadata": {"name": "a"}, "spec": {"containers": [{}]}, "status": {"phase": "Running"}}
    found = pods_in(json.dumps({"items": [_pod("c"), _pod("b"), bare]}).encode(), 2)
    assert [(pod.name, pod.trouble) for pod in found] == [
        ("a", "no container has a port named metrics"), ("b", None),
    ]  # fmt: skip
