"""`datastorage top` on a person's machine, with the rights that its page names and no others."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import pytest

from datastorage import __version__
from e2e.installed.clientpod import ClientPod
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.granting import granted
from e2e.installed.installation import LEASE, Installation
from harness.installed import NAMESPACE
from harness.polling import until
from harness.terminal import OWN_SCREEN, opened_terminal

# docs/operations/monitoring.md names them.
RIGHTS: Final = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]},
)


class Person:
    """Somebody with a kubeconfig and the product's command line."""

    def __init__(self, installation: Installation, namespace: str) -> None:
        cluster = installation.cluster
        cluster.kubectl("create", "serviceaccount", "person", "-n", namespace)
        self._kubeconfig = cluster.service_account_kubeconfig(namespace, "person")
        path = os.pathsep.join((str(cluster.kubectl_path.parent), os.environ["PATH"]))
        self._environment = cluster.environment | {"PATH": path, "TERM": "xterm"}
        self._environment.pop("DATASTORAGE_DATABASE_URL", None)

    async def top(self, *options: str, output: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        """Start ``datastorage top`` in a session of its own, whose identifier is that of the process."""
        where = ("-n", NAMESPACE, f"--kubeconfig={self._kubeconfig}")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "datastorage", "top", *where, *options),
            stdin=output if output >= 0 else asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            env=self._environment, start_new_session=True,
        )  # fmt: skip

    async def look(self) -> tuple[int | None, Any]:
        """Return the exit status and the parsed output of one look."""
        process = await self.top("--once", "-o", "json", "--interval=3")
        async with asyncio.timeout(SETTLE_SECONDS):
            printed, errors = await process.communicate()
        assert printed, errors.decode()
        return process.returncode, json.loads(printed)


@pytest.fixture
def person(installation: Installation, namespace: str) -> Iterator[Person]:
    """Provide a person with the rights that the page names."""
    made = Person(installation, namespace)
    with granted(installation.cluster, namespace, "person", RIGHTS):
        yield made


async def test_a_look_shows_every_replica_who_leads_and_the_rates(
    installation: Installation,
    counting: Counting,
    client_pod: ClientPod,
    read_paths: Sequence[str],
    person: Person,
) -> None:
    replicas = {each.name for each in await installation.ready_pods()}
    leader = await installation.leader()
    assert leader is not None
    async with client_pod.reads(read_paths), counting.load():
        status, look = await person.look()
    assert status == 0
    assert {each["name"]: (each["trouble"], each["version"]) for each in look["replicas"]} == dict.fromkeys(
        replicas, (None, __version__)
    )
    assert look["leases"] == [{"name": LEASE, "holders": [leader.pod.name]}]
    # The leader alone takes records in, and each replica answers requests.
    stored = {each["name"] for each in look["replicas"] if each["storedPerSecond"] > 0}
    assert stored == {leader.pod.name}
    assert look["perSecond"]["stored"] > 0
    assert look["perSecond"]["statusWrites"] > 0
    assert look["perSecond"]["reads"] > 0
    assert all(each["requestsPerSecond"] > 0 for each in look["replicas"])
    assert {each["name"]: each["awayFor"] for each in look["dependencies"]}["postgres"] == []
    assert all(each["inForce"] for each in look["guards"])


async def test_the_view_on_a_terminal_ends_with_all_that_it_has_started(
    installation: Installation, counting: Counting, person: Person
) -> None:
    leader = await installation.leader()
    assert leader is not None
    with opened_terminal(lines=40, columns=100) as terminal:
        async with counting.load(), asyncio.timeout(SETTLE_SECONDS):
            process = await person.top("--interval=1", output=terminal.end)
            terminal.close_end()
            try:
                live = await terminal.shown_until("replicas answering: 3 of 3", "rates over")
                process.send_signal(signal.SIGINT)
                rest, status = await asyncio.gather(terminal.rest(), process.wait())
            finally:
                with suppress(ProcessLookupError):  # it has ended, unless something failed
                    process.kill()
    assert status == 0, rest
    assert "stored, p95" in live
    last = rest.partition(OWN_SCREEN)[2]
    assert "replicas answering: 3 of 3" in last
    assert f"{LEASE} held by {leader.pod.name}" in last
    await until(_all_ended(process.pid), seconds=SETTLE_SECONDS, what="no kubectl is left")


async def test_without_the_right_to_forward_each_replica_has_the_reason(
    installation: Installation, namespace: str
) -> None:
    person = Person(installation, namespace)
    with granted(installation.cluster, namespace, "person", RIGHTS[:1]):
        status, look = await person.look()
    assert status == 1
    assert len(look["replicas"]) == installation.replicas
    assert all("forbidden" in each["trouble"] for each in look["replicas"]), look["replicas"]


def _all_ended(session: int) -> Callable[[], Awaitable[bool]]:
    """Return a condition: no process of a session is left."""

    async def ended() -> bool:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        return False

    return ended
