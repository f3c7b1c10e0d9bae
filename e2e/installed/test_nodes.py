"""Nodes fail and are drained: the pods on the others go on."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import pytest

from e2e.installed.clientpod import NODE_PATIENCE_SECONDS, PATIENCE_SECONDS, ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.installation import Installation, Leader
from e2e.installed.nodes import Nodes
from e2e.installed.waiting import leader_of, other_leader
from harness.installed import NAMESPACE
from harness.polling import until

_LOOK_SECONDS: Final = 0.1


@pytest.mark.usefixtures("spread")
async def test_the_leaders_node_fails(
    installation: Installation,
    nodes: Nodes,
    counting: Counting,
    client_pod: ClientPod,
    read_paths: Sequence[str],
    say: Say,
) -> None:
    """PostgreSQL is on another node. The node comes back before its pods are given up (5 minutes)."""
    leader = await _led_away_from(installation, await installation.postgres_node())
    try:
        async with (
            client_pod.reads(read_paths, patience_seconds=NODE_PATIENCE_SECONDS) as reads,
            counting.load() as counted,
        ):
            await asyncio.to_thread(nodes.stop, leader.pod.node)
            await other_leader(installation, leader)
    finally:
        await asyncio.to_thread(nodes.start, leader.pod.node)
    say(f"the leader's node stopped: {counted}; {reads}")
    assert reads.unanswered == 0, reads
    await installation.wait_complete()


@pytest.mark.usefixtures("spread")
async def test_the_node_of_postgres_fails(
    installation: Installation, nodes: Nodes, counting: Counting, client_pod: ClientPod, say: Say
) -> None:
    """Nothing can be read meanwhile, and the API says so. The data is still there when the node is back.

    The overlay's PostgreSQL has its data in an emptyDir. It stays as long as the pod stays on its node, and
    the pod stays if the node is back within 5 minutes.
    """
    node = await installation.postgres_node()
    listing = ("list", "-n", client_pod.namespace)
    async with counting.load() as counted:
        try:
            await asyncio.to_thread(nodes.stop, node)

            async def said() -> bool:
                done = await asyncio.to_thread(client_pod.datastorage, *listing, check=False)
                return done.returncode != 0 and "PostgreSQL" in done.stderr

            await until(said, seconds=SETTLE_SECONDS, what="the API says that PostgreSQL is away")
            await counted.some_more()
        finally:
            await asyncio.to_thread(nodes.start, node)
        await installation.wait_complete()
    say(f"the node of PostgreSQL stopped: {counted}")

    async def answered() -> bool:
        done = await asyncio.to_thread(client_pod.datastorage, *listing, check=False)
        return done.returncode == 0

    # For seconds after a node is back, its pods are ready and have no route from everywhere yet.
    await until(answered, seconds=SETTLE_SECONDS, what="the API answers again")


async def test_a_second_pod_is_evicted_only_when_the_first_is_replaced(installation: Installation) -> None:
    first, second, _ = await installation.ready_pods()
    assert _evict(installation, first.name) == ""
    refusal = _evict(installation, second.name)
    assert "Cannot evict pod as it would violate the pod's disruption budget" in refusal

    async def evicted() -> bool:
        return await asyncio.to_thread(_evict, installation, second.name) == ""

    await until(evicted, seconds=SETTLE_SECONDS, what="the first pod is replaced, and the second may go")
    await installation.wait_complete()


@pytest.mark.usefixtures("spread")
async def test_a_node_is_drained(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    """The node of the leader, unless PostgreSQL is there, whose data would be gone with its pod.

    A read may have to be sent again: all that was on the node is started elsewhere at once, and while a CNI
    applies its policies to the new pods of a busy node, it may refuse connections to the old ones there.
    """
    leader = await _led_away_from(installation, await installation.postgres_node())
    kubectl = installation.cluster.kubectl
    drain = ("drain", leader.pod.node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
    try:
        async with (
            client_pod.reads(read_paths, patience_seconds=PATIENCE_SECONDS) as reads,
            counting.load() as counted,
            _ready_counts(installation) as ready,
        ):
            await asyncio.to_thread(kubectl, *drain, timeout=270)
            await installation.wait_complete()
    finally:
        await asyncio.to_thread(kubectl, "uncordon", leader.pod.node)
    assert leader.pod.node not in {each.node for each in await installation.pods()}
    say(f"the leader's node drained, at least {min(ready)} pods ready: {counted}; {reads}")
    assert min(ready) >= installation.replicas - 1
    assert reads.unanswered == 0, reads


async def _led_away_from(installation: Installation, node: str) -> Leader:
    """Return the leader once it is on another node, moving it by orderly stops."""
    leader = await leader_of(installation)
    while leader.pod.node == node:
        await asyncio.to_thread(installation.kubectl, "delete", "pod", leader.pod.name)
        leader = await other_leader(installation, leader)
        await installation.wait_complete()
    return leader


def _evict(installation: Installation, pod: str) -> str:
    """Evict a pod as a drain does; return the refusal."""
    metadata = {"name": pod, "namespace": NAMESPACE}
    eviction = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    done = installation.kubectl("create", "--raw", path, "-f", "-", input=eviction, check=False)
    return done.stderr if done.returncode else ""


@asynccontextmanager
async def _ready_counts(installation: Installation) -> AsyncIterator[list[int]]:
    """Note how many pods are ready, again and again."""
    counts: list[int] = []

    async def look() -> None:
        while True:
            counts.append(len(await installation.ready_pods()))
            await asyncio.sleep(_LOOK_SECONDS)

    task = asyncio.create_task(look())
    try:
        yield counts
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
