"""Dependencies go away and come back: nothing is lost, and the operator catches up soon after."""

import asyncio

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.load import Load, all_stored
from e2e.workbench import Workbench, answers, has_ended
from harness.archive import rows, uids
from harness.bulk import BulkClient
from harness.controlplane import ControlPlane
from harness.controlplane.errors import ComponentError
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.postgres import PostgresServer

# An outage is longer than any pause or wait for PostgreSQL (8 s for a request), so that each has reached its
# limit when PostgreSQL is back.
OUTAGE_SECONDS = 12.0
# At least as many records as that are created meanwhile: more than one page of a list, and several batches.
OUTAGE_RECORDS = 700


def assert_never_restarted(operator: OperatorProcess, pid: int | None) -> None:
    operator.check()
    assert operator.pid == pid, "the operator did not restart"


async def test_postgres_away_under_load(
    workbench: Workbench, client: BulkClient, postgres: PostgresServer
) -> None:
    operator = workbench.start_operator()
    pid = operator.pid
    async with Load(client, workbench.namespace, per_second=100) as load:
        await until(lambda: _at_least(load, 60), what="some load before the outage")
        postgres.stop("fast")
        try:
            await until(lambda: _not_ready(operator), what="/ready says so")
            waiting = len(load.accepted) + OUTAGE_RECORDS
            await asyncio.sleep(OUTAGE_SECONDS)  # the length of the outage is what is tested
            await until(lambda: _at_least(load, waiting), what="many records wait")
        finally:
            postgres.start()
    await until(lambda: all_stored(client, workbench, load.accepted), what="all caught up")
    await until(lambda: _is_ready(operator), what="/ready again")
    assert_never_restarted(operator, pid)
    found = uids(await rows(workbench.database_url, workbench.namespace))
    assert sorted(found) == sorted(load.accepted), "no row twice"


async def test_postgres_crash_under_load(
    workbench: Workbench, client: BulkClient, postgres: PostgresServer
) -> None:
    operator = workbench.start_operator()
    pid = operator.pid
    async with Load(client, workbench.namespace, per_second=100) as load:
        await until(lambda: _at_least(load, 100), what="some load before the crash")
        await asyncio.to_thread(postgres.restart, "immediate")
        more = len(load.accepted) + 100
        await until(lambda: _at_least(load, more), what="some load after the crash")
    await until(lambda: all_stored(client, workbench, load.accepted), what="all caught up")
    assert_never_restarted(operator, pid)
    found = uids(await rows(workbench.database_url, workbench.namespace))
    assert sorted(found) == sorted(load.accepted)


async def test_operator_starts_while_postgres_is_away(
    workbench: Workbench, client: BulkClient, postgres: PostgresServer
) -> None:
    postgres.stop("fast")
    try:
        operator = workbench.start_operator(wait=False)
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record("early"))
        await until(lambda: answers(operator), what="/health answers")
        assert not operator.ready()
    finally:
        postgres.start()
    operator.wait_ready()
    await until(lambda: _row_count(workbench, 1), what="the row")


async def test_api_server_restarted_under_load(
    workbench: Workbench, client: BulkClient, own_control_plane: ControlPlane
) -> None:
    operator = workbench.start_operator()
    pid = operator.pid
    async with Load(client, workbench.namespace, per_second=30) as load:
        await until(lambda: _at_least(load, 30), what="some load before")
        await asyncio.to_thread(own_control_plane.kill_api_server)
        await asyncio.to_thread(own_control_plane.start_api_server)
        more = len(load.accepted) + 30
        await until(lambda: _at_least(load, more), what="some load after")
    await until(lambda: all_stored(client, workbench, load.accepted), what="all caught up")
    await until(lambda: _is_ready(operator), what="/ready again")
    assert_never_restarted(operator, pid)


async def test_expired_watch_goes_on(
    workbench: Workbench, client: BulkClient, own_control_plane: ControlPlane
) -> None:
    """The API server answers 410 to a watch that wants to go on from a version it has forgotten."""
    operator = workbench.start_operator(SWEEP_INTERVAL_SECONDS=3600)
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("before"))
    await until(lambda: _row_count(workbench, 1), what="the first row")
    await asyncio.to_thread(own_control_plane.expire_watches)
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("after"))
    await until(lambda: _row_count(workbench, 2), what="the second row")
    await until(lambda: _is_ready(operator), what="/ready again")


async def test_refuses_an_unmigrated_database(workbench: Workbench) -> None:
    await workbench.execute_as_owner("DROP TABLE datastorage.schema_version")
    operator = workbench.start_operator(wait=False)
    await until(lambda: has_ended(operator), what="it ends")
    assert operator.exit_code == 2
    assert "run 'datastorage migrate'" in operator.log()


async def test_overflow_is_brought_back_by_the_sweep(workbench: Workbench, client: BulkClient) -> None:
    """More objects wait at the start than the intake takes: the watch drops them, the sweep brings them."""
    names = [f"many-{n}" for n in range(300)]
    created = [await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name)) for name in names]
    accepted = [body["metadata"]["uid"] for body in created]
    # Nothing can be stored meanwhile: however slow the watch is, the intake fills.
    async with workbench.no_rows_accepted():
        # It is not ready: it finds that rows are not accepted.
        operator = workbench.start_operator(wait=False, INTAKE_MAX_ITEMS=20, SWEEP_INTERVAL_SECONDS=3600)
        await until(lambda: _has_overflowed(operator), what="the intake overflows")
    await until(lambda: all_stored(client, workbench, accepted), what="all stored")


async def _has_overflowed(operator: OperatorProcess) -> bool:
    try:
        return await asyncio.to_thread(operator.metric, 'datastorage_intake_total{verdict="full"}') >= 1
    except ComponentError:  # it does not listen yet
        operator.check()
        return False


async def _at_least(load: Load, count: int) -> bool:
    return len(load.accepted) >= count


async def _not_ready(operator: OperatorProcess) -> bool:
    return not await asyncio.to_thread(operator.ready)


async def _is_ready(operator: OperatorProcess) -> bool:
    return await asyncio.to_thread(operator.ready)


async def _row_count(workbench: Workbench, count: int) -> bool:
    return len(await rows(workbench.database_url, workbench.namespace)) == count
