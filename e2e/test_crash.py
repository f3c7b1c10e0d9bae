"""SIGKILL at random moments under load: cluster and archive still have the same uids in the end."""

import asyncio
import random

import pytest

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.load import check_deletions
from e2e.workbench import MakeWorkbench, Workbench
from harness.archive import rows, uids
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until

KILLS = 10
MANY_KILLS = 20
RECORDS_A_KILL = 150
# Seconds between a start and the next kill: from "has not listed yet" to "in the middle of everything".
EARLIEST_KILL, LATEST_KILL = 0.5, 4.0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY_KILLS, marks=pytest.mark.slow)])
async def test_killed_at_random_moments(
    make_workbench: MakeWorkbench, client: BulkClient, kills: int
) -> None:
    """Two at once: objects that are deleted without a status, and objects that get one first."""
    async with asyncio.TaskGroup() as group:
        for ttl in (0, 1):
            group.create_task(_kill_at_random_moments(ttl, await make_workbench(), client, kills))


def _moments(kills: int) -> list[float]:
    """Return the seconds from each start to its kill, in random order.

    There is a random moment in each of equal pieces of the time, so that a few kills meet every stage.
    """
    piece = (LATEST_KILL - EARLIEST_KILL) / kills
    found = [EARLIEST_KILL + piece * (n + random.random()) for n in range(kills)]
    random.shuffle(found)
    return found


async def _kill_at_random_moments(ttl: int, workbench: Workbench, client: BulkClient, kills: int) -> None:
    namespace = workbench.namespace
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=ttl, wait=False)
    accepted: set[str] = set()
    unstored_deletions: list[str] = []
    watching = asyncio.create_task(check_deletions(client, workbench, unstored_deletions))
    load = asyncio.create_task(_create(client, namespace, accepted, kills))
    try:
        for moment in _moments(kills):
            await asyncio.sleep(moment)
            await asyncio.to_thread(_kill_and_start, operator)
        await load

        async def cleared() -> bool:
            operator.check()
            return not await client.list(AUDIT_RECORD, namespace)

        await until(cleared, seconds=180, what="everything is stored and cleared in the end")
    finally:
        load.cancel()
        watching.cancel()
        await asyncio.gather(load, watching, return_exceptions=True)
    found = uids(await rows(workbench.database_url, namespace))
    assert len(accepted) == kills * RECORDS_A_KILL
    assert set(found) == accepted, "nothing lost, nothing invented"
    assert len(found) == len(accepted), "no row twice"
    assert unstored_deletions == [], "nothing left the cluster before it was stored"


async def _create(client: BulkClient, namespace: str, accepted: set[str], kills: int) -> None:
    # Spread over about as long as the kills take.
    pause = (EARLIEST_KILL + LATEST_KILL) / 2 / RECORDS_A_KILL
    for n in range(kills * RECORDS_A_KILL):
        body = await client.create(AUDIT_RECORD, namespace, audit_record(f"crash-{n}"))
        accepted.add(body["metadata"]["uid"])
        await asyncio.sleep(pause / 2)


def _kill_and_start(operator: OperatorProcess) -> None:
    operator.check()
    operator.kill()
    operator.start()
