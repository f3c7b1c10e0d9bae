"""Several operators share the work by Leases: what one leaves, another takes up, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.load import CATCH_UP_SECONDS, Load, all_stored
from e2e.workbench import Workbench
from harness.bulk import BulkClient
from harness.operatorprocess import OperatorProcess
from harness.polling import until

_ROLE: Final = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: datastorage-leases, namespace: {namespace}}}
rules:
  - {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: datastorage-leases, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: datastorage-leases}}
subjects: [{{kind: ServiceAccount, name: datastorage, namespace: datastorage-system}}]
"""
_HELD: Final = 'datastorage_lease_held{lease="datastorage-shard-0-of-1"}'
# The Lease lasts 15 s; the rest is for a machine that does other work too.
_TAKE_OVER_SECONDS: Final = 60.0


def _start(workbench: Workbench, count: int) -> list[OperatorProcess]:
    role = _ROLE.format(namespace=workbench.namespace)
    workbench.cluster.kubectl("apply", "-f", "-", input=role)
    started = [
        workbench.start_operator(
            wait=False, LEASE_NAMESPACE=workbench.namespace, TTL_SECONDS_AFTER_STORED=3600
        )
        for _ in range(count)
    ]
    for operator in started:
        operator.wait_ready()
    return started


def _leaders(operators: list[OperatorProcess]) -> list[OperatorProcess]:
    return [each for each in operators if each.pid is not None and each.metric(_HELD) == 1]


async def _leader(operators: list[OperatorProcess]) -> OperatorProcess:
    async def there_is_one() -> bool:
        return len(await asyncio.to_thread(_leaders, operators)) == 1

    await until(there_is_one, seconds=_TAKE_OVER_SECONDS, what="one operator holds the Lease")
    return _leaders(operators)[0]


def _kill(leader: OperatorProcess) -> None:
    leader.kill()


def _stop(leader: OperatorProcess) -> None:
    assert leader.terminate() == 0


@pytest.mark.parametrize("end", [_kill, _stop], ids=["killed", "stopped"])
async def test_another_operator_goes_on_when_the_leader_ends(
    workbench: Workbench, client: BulkClient, end: Callable[[OperatorProcess], None]
) -> None:
    operators = await asyncio.to_thread(_start, workbench, 3)
    leader = await _leader(operators)
    async with Load(client, workbench.namespace, per_second=20) as load:
        await until(lambda: _some_stored(client, workbench), seconds=CATCH_UP_SECONDS, what="some are stored")
        await asyncio.to_thread(end, leader)
        others = [each for each in operators if each is not leader]
        await _leader(others)
        count = len(load.accepted)
        await until(_reached(load, count + 20), seconds=CATCH_UP_SECONDS, what="more were created")
    await until(
        lambda: all_stored(client, workbench, load.accepted), seconds=CATCH_UP_SECONDS, what="all stored"
    )


async def test_a_leader_that_wakes_up_again_does_no_harm(workbench: Workbench, client: BulkClient) -> None:
    """It was paused for longer than its Lease lasts, so that there are two for a moment."""
    operators = await asyncio.to_thread(_start, workbench, 2)
    leader = await _leader(operators)
    async with Load(client, workbench.namespace, per_second=20) as load:
        leader.pause()
        others = [each for each in operators if each is not leader]
        try:
            await _leader(others)
        finally:
            leader.resume()

        async def stepped_back() -> bool:
            return await asyncio.to_thread(leader.metric, _HELD) == 0

        await until(stepped_back, seconds=_TAKE_OVER_SECONDS, what="the former leader steps back")
        await until(
            _reached(load, len(load.accepted) + 20), seconds=CATCH_UP_SECONDS, what="more were created"
        )
    await until(
        lambda: all_stored(client, workbench, load.accepted), seconds=CATCH_UP_SECONDS, what="all stored"
    )
    assert leader.exit_code is None


async def _some_stored(client: BulkClient, workbench: Workbench) -> bool:
    return bool(await client.list(AUDIT_RECORD, workbench.namespace, field_selector="status.phase=Stored"))


def _reached(load: Load, count: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return len(load.accepted) >= count

    return reached
