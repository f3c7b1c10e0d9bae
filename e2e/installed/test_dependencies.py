"""PostgreSQL is restarted, and Redis is away: records wait or do without, and none is lost."""

import json
from collections.abc import Sequence

from e2e.installed.clientpod import PATIENCE_SECONDS, ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.installation import Installation
from harness.installed import POSTGRES, REDIS
from harness.polling import until


async def test_postgres_is_restarted(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    """Its container ends at once and is started again in the same pod.

    The overlay's PostgreSQL has its data in an emptyDir, which ends with the pod: so the pod has to stay.
    """
    containers = {each.container for each in await installation.pods()}
    async with (
        client_pod.reads(read_paths, patience_seconds=2 * PATIENCE_SECONDS) as reads,
        counting.load() as counted,
    ):
        restarts = await _restarts(installation)
        # In the container the first process can be ended by the signals that it handles, and not by SIGKILL.
        stop = ("pg_ctl", "stop", "--mode=immediate", "--no-wait")
        installation.kubectl("exec", POSTGRES, "--", *stop)

        async def restarted() -> bool:
            return await _restarts(installation) > restarts

        await until(restarted, seconds=SETTLE_SECONDS, what="the container of PostgreSQL starts again")
        await installation.wait_complete()
    say(f"PostgreSQL restarted: {counted}; {reads}")
    assert reads.unanswered == 0, reads
    assert {each.container for each in await installation.pods()} == containers, "no operator was restarted"


async def test_redis_is_away(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    """It is a cache of vectors: these are computed, records are stored, and searches by meaning answer."""
    containers = {each.container for each in await installation.pods()}
    search = ("search", "an event was seen", "--mode", "vector", "-n", client_pod.namespace, "-o", "json")
    try:
        async with client_pod.reads(read_paths) as reads, counting.load() as counted:
            installation.kubectl("scale", REDIS, "--replicas=0")
            installation.kubectl(
                "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=redis", "--timeout=60s"
            )
            await counted.some_more()
            found = json.loads(client_pod.datastorage(*search).stdout)
            assert found["mode"] == "vector"
            assert found["results"]
    finally:
        installation.kubectl("scale", REDIS, "--replicas=1")
    say(f"Redis away: {counted}; {reads}")
    assert reads.failed == 0, reads
    assert {each.container for each in await installation.ready_pods()} == containers
    await installation.wait_complete()


async def _restarts(installation: Installation) -> int:
    pods = await installation.pods_of("postgres")
    return sum(each["restartCount"] for pod in pods for each in pod["status"]["containerStatuses"])
