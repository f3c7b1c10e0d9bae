"""The pod that takes the records in ends, one way or another: a standby goes on, and nothing is lost."""

import asyncio
from collections.abc import Sequence

from e2e.installed.clientpod import PATIENCE_SECONDS, ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import Counting
from e2e.installed.installation import Installation
from e2e.installed.nodes import Nodes
from e2e.installed.waiting import leader_of, other_leader


async def test_the_process_is_killed(
    installation: Installation,
    nodes: Nodes,
    counting: Counting,
    client_pod: ClientPod,
    read_paths: Sequence[str],
    say: Say,
) -> None:
    async with client_pod.reads(read_paths, patience_seconds=PATIENCE_SECONDS) as reads:
        async with counting.load() as counted:
            leader = await leader_of(installation)
            await asyncio.to_thread(nodes.kill, leader.pod)
            await other_leader(installation, leader)
        await installation.wait_complete()
    pods = await installation.pods()
    restarted = next(each for each in pods if each.uid == leader.pod.uid)
    assert restarted.restarts == leader.pod.restarts + 1
    say(f"SIGKILL to the leader: {counted}; {reads}")
    assert reads.unanswered == 0, reads


async def test_the_pod_is_deleted_without_grace(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    async with client_pod.reads(read_paths, patience_seconds=PATIENCE_SECONDS) as reads:
        async with counting.load() as counted:
            leader = await leader_of(installation)
            await asyncio.to_thread(
                installation.kubectl, "delete", "pod", leader.pod.name, "--grace-period=0", "--force"
            )
            await other_leader(installation, leader)
        await installation.wait_complete()
    say(f"the leader's pod deleted with --grace-period=0 --force: {counted}; {reads}")
    assert reads.unanswered == 0, reads


async def test_the_pod_is_stopped_in_order(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    """Nothing breaks: no read needs a second try."""
    async with client_pod.reads(read_paths) as reads:
        async with counting.load() as counted:
            leader = await leader_of(installation)
            await asyncio.to_thread(installation.kubectl, "delete", "pod", leader.pod.name)
            await other_leader(installation, leader)
        await installation.wait_complete()
    say(f"the leader's pod deleted: {counted}; {reads}")
    assert reads.failed == 0, reads
