"""Several operators share the work by Leases: what one leaves, another takes over, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import pytest

from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.leases import Leases
from datastorage.kube.transport import Transport
from datastorage.pipeline.lease import Lease
from datastorage.resources.kinds import AUDIT_RECORD
from e2e import replicas
from e2e.load import Load, all_stored, check_deletions
from e2e.workbench import MakeWorkbench, Workbench, cluster_proxy
from harness.archive import rows, uids
from harness.bulk import BulkClient, gather_bounded
from harness.installed import NAMESPACE
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.proxy import FreezableProxy

_ACCEPTED: Final = 'datastorage_intake_total{verdict="accepted"}'


# How long a test waits for something: all of them start their operators at the same time.
_SECONDS: Final = 180.0

Scenario = Callable[[Workbench, BulkClient], Awaitable[None]]


async def a_killed_leader_is_replaced(workbench: Workbench, client: BulkClient) -> None:
    await _is_replaced(workbench, client, lambda leader: leader.kill())


async def a_leader_that_is_stopped_is_replaced(workbench: Workbench, client: BulkClient) -> None:
    last = await _is_replaced(workbench, client, lambda leader: leader.terminate())
    await asyncio.to_thread(last.terminate)
    async with Transport(load_endpoint) as transport:
        lease = await Leases(transport, NAMESPACE).get(workbench.lease_name(), seconds=_SECONDS)
    assert lease is not None
    assert lease.holder == "", "it was released, so that nobody has to wait until it expires"


async def _is_replaced(
    workbench: Workbench, client: BulkClient, end: Callable[[OperatorProcess], object]
) -> OperatorProcess:
    """End the leader under load; return the operator that has replaced it."""
    operators = await asyncio.to_thread(replicas.start, workbench, [None] * 2)
    leader = await replicas.leader(operators)
    async with Load(client, workbench.namespace, per_second=10) as load:
        await _until_some_stored(client, workbench)
        await asyncio.to_thread(end, leader)
        replacing = await replicas.leader([each for each in operators if each is not leader])
        await _until_created(load, 20)
    await _until_all_stored(client, workbench, load.accepted)
    return replacing


async def a_leader_that_wakes_up_again_does_no_harm(workbench: Workbench, client: BulkClient) -> None:
    """It was paused for longer than its Lease lasts, so that there are two for a moment."""
    operators = await asyncio.to_thread(replicas.start, workbench, [None] * 2)
    leader = await replicas.leader(operators)
    async with Load(client, workbench.namespace, per_second=10) as load:
        leader.pause()
        try:
            await replicas.leader([each for each in operators if each is not leader])
        finally:
            leader.resume()
        await _until_holds_none(leader)
        await _until_created(load, 20)
    await _until_all_stored(client, workbench, load.accepted)
    leader.check()


async def a_leader_without_the_api_server_is_replaced_and_does_not_exit(
    workbench: Workbench, client: BulkClient
) -> None:
    async with (
        cluster_proxy(workbench) as (first, config),
        cluster_proxy(workbench) as (second, other_config),
    ):
        operators = await asyncio.to_thread(replicas.start, workbench, [config, other_config])
        leader = await replicas.leader(operators)
        proxy = (first, second)[operators.index(leader)]
        async with Load(client, workbench.namespace, per_second=10) as load:
            await _until_some_stored(client, workbench)
            proxy.freeze()
            await replicas.leader([each for each in operators if each is not leader])
            await _until_holds_none(leader)
            await _until_created(load, 20)
            proxy.thaw()
            await _until_created(load, 20)
        await _until_all_stored(client, workbench, load.accepted)
        for operator in operators:
            operator.check()


async def a_leader_that_alone_has_lost_postgresql_hands_its_lease_over(
    workbench: Workbench, client: BulkClient
) -> None:
    async with FreezableProxy(workbench.database_url) as proxy:
        leader = workbench.start_operator(
            wait=False, database_url=proxy.url, LEASE_NAMESPACE=NAMESPACE, TTL_SECONDS_AFTER_STORED=3600
        )
        await asyncio.to_thread(leader.wait_ready, _SECONDS)
        assert await replicas.leader([leader]) is leader
        (other,) = await asyncio.to_thread(replicas.start, workbench, [None])
        proxy.freeze()
        created = await _create(client, workbench, 20)
        await _until_all_stored(client, workbench, created)
        assert await replicas.leader([leader, other]) is other
        proxy.thaw()
        leader.check()


async def operators_that_all_lose_the_api_server_go_on_when_it_is_back(
    workbench: Workbench, client: BulkClient
) -> None:
    async with cluster_proxy(workbench) as (proxy, config):
        operators = await asyncio.to_thread(replicas.start, workbench, [config] * 2)
        await replicas.leader(operators)
        proxy.freeze()
        for operator in operators:
            await _until_holds_none(operator)
        created = await _create(client, workbench, 20)
        for operator in operators:
            operator.check()
        proxy.thaw()
        await _until_all_stored(client, workbench, created)
        await replicas.leader(operators)


async def shards_spread_over_the_operators_that_are_there(workbench: Workbench, client: BulkClient) -> None:
    shards = 3
    operators = await asyncio.to_thread(replicas.start, workbench, [None] * 3, SHARDS=shards)
    await replicas.shared_evenly(operators, shards)
    async with Load(client, workbench.namespace, per_second=10) as load:

        async def all_do_a_share() -> bool:
            return all([await asyncio.to_thread(operator.metric, _ACCEPTED) for operator in operators])

        await until(all_do_a_share, seconds=_SECONDS, what="all operators take in records")
        await asyncio.to_thread(operators[0].kill)
        others = operators[1:]
        await replicas.shared_evenly(others, shards)
        await _until_created(load, 20)
        others += await asyncio.to_thread(replicas.start, workbench, [None], SHARDS=shards)
        await replicas.shared_evenly(others, shards)
        await _until_created(load, 20)
    await _until_all_stored(client, workbench, load.accepted)


async def two_that_both_process_everything_store_each_record_once(
    workbench: Workbench, client: BulkClient
) -> None:
    """No record depends on a Lease: here there is none, and both store and clear all that they see."""
    operators = [workbench.start_operator(wait=False, TTL_SECONDS_AFTER_STORED=1) for _ in range(2)]
    for operator in operators:
        await asyncio.to_thread(operator.wait_ready, _SECONDS)
    too_early: list[str] = []
    watching = asyncio.create_task(check_deletions(client, workbench, too_early))
    try:
        created = await _create(client, workbench, 300)

        async def cleared() -> bool:
            return not await client.list(AUDIT_RECORD, workbench.namespace)

        await until(cleared, seconds=_SECONDS, what="everything is stored and cleared")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert sorted(uids(await rows(workbench.database_url, workbench.namespace))) == sorted(created)
    assert too_early == [], "nothing left the cluster before it was stored"
    assert all([await asyncio.to_thread(operator.metric, _ACCEPTED) for operator in operators])


async def objects_of_a_shard_that_is_held_and_not_processed_are_stored_late(
    workbench: Workbench, client: BulkClient
) -> None:
    """A process that hangs in a way of its own could renew its Lease and do nothing more."""
    name = workbench.lease_name(shard=1, shards=2)
    async with Transport(load_endpoint) as transport:
        idle = Lease(Leases(transport, NAMESPACE), name, "idle")
        await idle.attempt()
        renewing = asyncio.create_task(idle.run())
        try:
            (operator,) = await asyncio.to_thread(
                replicas.start, workbench, [None], SHARDS=2, SWEEP_INTERVAL_SECONDS=5
            )
            created = await _create(client, workbench, 20)
            await _until_all_stored(client, workbench, created)
            assert len(await asyncio.to_thread(operator.held_leases)) == 1
        finally:
            renewing.cancel()
            await idle.release()


_SCENARIOS: Final[Sequence[Scenario]] = (
    a_killed_leader_is_replaced,
    a_leader_that_is_stopped_is_replaced,
    a_leader_that_wakes_up_again_does_no_harm,
    a_leader_without_the_api_server_is_replaced_and_does_not_exit,
    a_leader_that_alone_has_lost_postgresql_hands_its_lease_over,
    operators_that_all_lose_the_api_server_go_on_when_it_is_back,
    shards_spread_over_the_operators_that_are_there,
    two_that_both_process_everything_store_each_record_once,
    objects_of_a_shard_that_is_held_and_not_processed_are_stored_late,
)


@pytest.mark.timeout(900)
async def test_leases(
    make_workbench: MakeWorkbench, client: BulkClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scenarios run at once: most of the time each waits for a Lease to expire."""
    workbenches = [await make_workbench() for _ in _SCENARIOS]
    monkeypatch.setenv("KUBECONFIG", str(workbenches[0].kubeconfig))
    async with asyncio.TaskGroup() as group:
        for scenario, workbench in zip(_SCENARIOS, workbenches, strict=True):
            group.create_task(_named(scenario, workbench, client))


async def _named(scenario: Scenario, workbench: Workbench, client: BulkClient) -> None:
    try:
        await scenario(workbench, client)
    except Exception as error:
        error.add_note(f"in the scenario {scenario.__name__}")
        raise


async def _create(client: BulkClient, workbench: Workbench, count: int) -> list[str]:
    bodies = await gather_bounded(
        (client.create(AUDIT_RECORD, workbench.namespace, audit_record(f"r-{n}")) for n in range(count)), 10
    )
    return [body["metadata"]["uid"] for body in bodies]


async def _until_created(load: Load, more: int) -> None:
    count = len(load.accepted) + more

    async def reached() -> bool:
        return len(load.accepted) >= count

    await until(reached, seconds=_SECONDS, what="more records are created")


async def _until_some_stored(client: BulkClient, workbench: Workbench) -> None:
    async def some() -> bool:
        found = await client.list(AUDIT_RECORD, workbench.namespace, field_selector="status.phase=Stored")
        return bool(found)

    await until(some, seconds=_SECONDS, what="some are stored")


async def _until_all_stored(client: BulkClient, workbench: Workbench, accepted: list[str]) -> None:
    stored = partial(all_stored, client, workbench, accepted)
    await until(stored, seconds=_SECONDS, what="everything that was accepted is stored")
    assert sorted(uids(await rows(workbench.database_url, workbench.namespace))) == sorted(accepted)


async def _until_holds_none(operator: OperatorProcess) -> None:
    async def holds_none() -> bool:
        return not await asyncio.to_thread(operator.held_leases)

    await until(holds_none, seconds=_SECONDS, what="the operator steps back")
