"""SIGKILL at random moments under load: cluster and archive still have the same uids in the end."""

import asyncio
import random

import pytest

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.workbench import MakeWorkbench, Workbench
from harness.archive import rows, uids
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until

KILLS = 20
RECORDS = 3000
# Seconds between a start and the next kill: from "has not listed yet" to "in the middle of everything".
EARLIEST_KILL, LATEST_KILL = 0.5, 4.0


@pytest.mark.timeout(900)
async def test_killed_at_random_moments(make_workbench: MakeWorkbench, client: BulkClient) -> None:
    """Two at once: objects that are deleted without a status, and objects that get one first."""
    async with asyncio.TaskGroup() as group:
        for ttl in (0, 1):
            group.create_task(_kill_at_random_moments(ttl, await make_workbench(), client))


async def _kill_at_random_moments(ttl: int, workbench: Workbench, client: BulkClient) -> None:
    namespace = workbench.namespace
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=ttl, wait=False)
    accepted: set[str] = set()
    unstored_deletions: list[str] = []
    watching = asyncio.create_task(_check_deletions(client, workbench, unstored_deletions))
    load = asyncio.create_task(_create(client, namespace, accepted))
    try:
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(EARLIEST_KILL, LATEST_KILL))  # the random moment
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
    assert len(accepted) == RECORDS
    assert set(found) == accepted, "nothing lost, nothing invented"
    assert len(found) == RECORDS, "no row twice"
    assert unstored_deletions == [], "nothing left the cluster before it was stored"


async def _create(client: BulkClient, namespace: str, accepted: set[str]) -> None:
    # Spread over about as long as the kills take.
    pause = KILLS * (EARLIEST_KILL + LATEST_KILL) / 2 / RECORDS
    for n in range(RECORDS):
        body = await client.create(AUDIT_RECORD, namespace, audit_record(f"crash-{n}"))
        accepted.add(body["metadata"]["uid"])
        await asyncio.sleep(pause / 2)


async def _check_deletions(client: BulkClient, workbench: Workbench, unstored: list[str]) -> None:
    """Note each object whose row is missing at the moment when its deletion is seen."""
    async for event, body in client.watch(AUDIT_RECORD, workbench.namespace):
        if event == "DELETED" and not await workbench.has_row(body["metadata"]["uid"]):
            unstored.append(body["metadata"]["name"])


def _kill_and_start(operator: OperatorProcess) -> None:
    operator.check()
    operator.kill()
    operator.start()
