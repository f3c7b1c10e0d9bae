"""The token of the operator's ServiceAccount is replaced while the pods run, and another one becomes void."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from e2e.installed.clientpod import ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.installation import Installation, Pod
from e2e.installed.nodes import Nodes
from e2e.test_access import bound_token, refused, write_config
from e2e.workbench import Workbench
from harness.installed import NAMESPACE
from harness.polling import until

_READ_AGAIN: Final = "The configuration for the API server has changed and was read again"
# Where the kubelet keeps the files that a pod sees below /var/run/secrets/kubernetes.io/serviceaccount.
_FILE: Final = "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/kube-api-access-*/..data/token"
# In one step, as the kubelet replaces it: nobody reads one half of a token.
_REPLACE: Final = 'for f in {file}; do cp -p "$f" "$f.new" && cat >"$f.new" && mv "$f.new" "$f"; done'


async def test_the_token_is_rotated(
    installation: Installation,
    nodes: Nodes,
    counting: Counting,
    client_pod: ClientPod,
    read_paths: Sequence[str],
    workbench: Workbench,
    tmp_path: Path,
    say: Say,
) -> None:
    """The pods go from their own token to another one and back; then the other one is revoked."""
    pods = await installation.ready_pods()
    own = {pod: _token(nodes, pod) for pod in pods}
    other, revoke = bound_token(workbench, "other")
    account = installation.cluster.service_account_kubeconfig(NAMESPACE, "datastorage")
    kubeconfig = write_config(tmp_path / "other", json.loads(account.read_text()), {"token": other})
    async with client_pod.reads(read_paths) as reads, counting.load() as counted:
        for pod in pods:
            await _give(installation, nodes, pod, other)
        await counted.some_more()
        for pod in pods:
            await _give(installation, nodes, pod, own[pod])
        revoke()
        await until(
            lambda: refused(workbench, kubeconfig), seconds=SETTLE_SECONDS, what="the other token is refused"
        )
        await counted.some_more()
    say(f"the token rotated: {counted}; {reads}")
    assert reads.failed == 0, reads
    assert {each.container for each in await installation.ready_pods()} == {each.container for each in pods}


async def _give(installation: Installation, nodes: Nodes, pod: Pod, token: str) -> None:
    """Replace the token of a pod, and wait until the operator has read it.

    Now and then the kubelet puts the pod's own token back, which it believes to be there.
    """
    replace = ("sh", "-c", _REPLACE.format(file=_FILE.format(uid=pod.uid)))
    before = _readings(installation, pod)

    async def read() -> bool:
        if await asyncio.to_thread(_token, nodes, pod) != token:
            await asyncio.to_thread(nodes.run, pod.node, *replace, text=token)
        return await asyncio.to_thread(_readings, installation, pod) > before

    await until(read, seconds=SETTLE_SECONDS, what=f"{pod.name} reads its new token")


def _token(nodes: Nodes, pod: Pod) -> str:
    return nodes.run(pod.node, "sh", "-c", f"cat {_FILE.format(uid=pod.uid)}").strip()


def _readings(installation: Installation, pod: Pod) -> int:
    return installation.logs(pod).count(_READ_AGAIN)
