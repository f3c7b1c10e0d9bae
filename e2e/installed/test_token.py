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
_FOLDER: Final = "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/kube-api-access-*/..data"
# In one step, as the kubelet replaces it: nobody reads one half of a token. If the kubelet has put another
# folder in this one's place meanwhile, nothing was replaced, and that is no failure.
_REPLACE: Final = """
for link in {folder}; do
    now=$(readlink -f "$link")
    cp -p "$now/token" "$now/token.new" && cat >"$now/token.new" && mv "$now/token.new" "$now/token" ||
        test "$(readlink -f "$link")" != "$now"
done
"""


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
    pods = [_Tokens(installation, nodes, each) for each in await installation.ready_pods()]
    other, revoke = bound_token(workbench, "other")
    account = installation.cluster.service_account_kubeconfig(NAMESPACE, "datastorage")
    kubeconfig = write_config(tmp_path / "other", json.loads(account.read_text()), {"token": other})
    async with client_pod.reads(read_paths) as reads, counting.load() as counted:
        for pod in pods:
            await pod.give(other)
        await counted.some_more()
        for pod in pods:
            await pod.give_back()
        revoke()
        await until(
            lambda: refused(workbench, kubeconfig), seconds=SETTLE_SECONDS, what="the other token is refused"
        )
        await counted.some_more()
    say(f"the token rotated: {counted}; {reads}")
    assert reads.failed == 0, reads
    assert {each.container for each in await installation.ready_pods()} == {
        each.pod.container for each in pods
    }


class _Tokens:
    """The token of a pod: its own one at first."""

    def __init__(self, installation: Installation, nodes: Nodes, pod: Pod) -> None:
        self.pod = pod
        self._installation = installation
        self._nodes = nodes
        self._own = self._on_node()
        self._before = self._readings()

    async def give(self, token: str) -> None:
        """Replace the pod's own token, and wait until the operator has read the other one."""
        await self._until_read(token, odd=True)

    async def give_back(self) -> None:
        """Replace the other token by the pod's own one, and wait until the operator has read it."""
        await self._until_read(self._own, odd=False)

    async def _until_read(self, token: str, *, odd: bool) -> None:
        """Keep ``token`` in the file until the operator has read it.

        Every few seconds the kubelet puts the pod's own token back, and the operator may read that before the
        test does the same. But it says so only when it reads another token than before: after an odd number
        of readings it has the other one, after an even number its own.
        """

        async def read() -> bool:
            if await asyncio.to_thread(self._on_node) != token:
                await asyncio.to_thread(self._replace, token)
            readings = await asyncio.to_thread(self._readings) - self._before
            return readings > 0 and readings % 2 == odd

        await until(read, seconds=SETTLE_SECONDS, what=f"{self.pod.name} reads its new token")

    def _on_node(self) -> str:
        folder = _FOLDER.format(uid=self.pod.uid)
        return self._nodes.run(self.pod.node, "sh", "-c", f"cat {folder}/token").strip()

    def _replace(self, token: str) -> None:
        script = _REPLACE.format(folder=_FOLDER.format(uid=self.pod.uid))
        self._nodes.run(self.pod.node, "sh", "-c", script, text=token)

    def _readings(self) -> int:
        return self._installation.logs(self.pod).count(_READ_AGAIN)
