"""The overlay's NetworkPolicies: what they allow works, and everything else is refused."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from e2e.installed.clientpod import CONNECT, ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.installation import Installation, image_of
from harness.installed import NAMESPACE
from harness.polling import until

API: Final = (f"datastorage.{NAMESPACE}.svc", 8080)
METRICS: Final = (f"datastorage.{NAMESPACE}.svc", 9090)
POSTGRES: Final = (f"postgres.{NAMESPACE}.svc", 5432)
REDIS: Final = (f"redis.{NAMESPACE}.svc", 6379)
ALL: Final = (API, METRICS, POSTGRES, REDIS)

_LABEL: Final = "datastorage.kubernaut.io/{}-client"


@pytest.fixture
def stranger(installation: Installation, namespace: str) -> ClientPod:
    """Provide a pod in a namespace that nobody has labelled."""
    pod = ClientPod(installation.cluster, namespace, "stranger", image_of(installation.cluster))
    pod.start()
    return pod


async def test_only_what_the_policies_name_is_reached(
    installation: Installation,
    counting: Counting,
    client_pod: ClientPod,
    stranger: ClientPod,
    policies: Path,
    read_paths: Sequence[str],
    say: Say,
) -> None:
    kubectl = installation.cluster.kubectl
    operator = (await installation.ready_pods())[0]

    def from_operator(place: tuple[str, int]) -> bool:
        return installation.python(operator, CONNECT, place[0], str(place[1])).strip() == "open"

    assert all(stranger.reaches(*place) for place in ALL), "without policies everything is open"
    outward = (POSTGRES, REDIS, stranger.place)
    assert all(from_operator(place) for place in outward)
    kubectl("label", "namespace", client_pod.namespace, f"{_LABEL.format('api')}=true", "--overwrite")
    async with client_pod.reads(read_paths) as reads, counting.load() as counted:
        installation.cluster.apply(policies)
        await until(_reaches(stranger), seconds=SETTLE_SECONDS, what="a stranger reaches nothing")
        await until(_reaches(client_pod, API), seconds=SETTLE_SECONDS, what="a client reaches the API alone")
        assert {place for place in outward if from_operator(place)} == {POSTGRES, REDIS}
        kubectl("label", "namespace", stranger.namespace, f"{_LABEL.format('metrics')}=true")
        await until(_reaches(stranger, METRICS), seconds=SETTLE_SECONDS, what="Prometheus reaches its port")
        await counted.some_more()
    say(f"NetworkPolicies: {counted}; {reads}")
    assert reads.failed == 0, reads
    assert await installation.leader() is not None


def _reaches(pod: ClientPod, *places: tuple[str, int]) -> Callable[[], Awaitable[bool]]:
    """Return a condition: a pod reaches these places, and none of the others."""

    async def holds() -> bool:
        found = [await asyncio.to_thread(pod.reaches, *place) for place in ALL]
        return found == [place in places for place in ALL]

    return holds
