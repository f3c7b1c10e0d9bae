"""Trouble with the table of one kind: the other kind is stored all the same, and nothing is lost."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from e2e.workbench import Workbench
from harness.archive import rows
from harness.bulk import BulkClient
from harness.manifests import action_trace, audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until

MAKERS: dict[ResourceKind, Callable[[str], dict[str, Any]]] = {
    AUDIT_RECORD: audit_record,
    ACTION_TRACE: partial(action_trace, execution={"status": "Completed"}),
}
TABLES = {AUDIT_RECORD: Table.AUDIT_RECORDS, ACTION_TRACE: Table.ACTION_TRACES}
OTHER = {AUDIT_RECORD: ACTION_TRACE, ACTION_TRACE: AUDIT_RECORD}
# Each kind has half of the room.
ROOM = 20
RECORDS = 30

_RIGHT = (
    "REVOKE INSERT ON datastorage.{table} FROM datastorage_service",
    "GRANT INSERT ON datastorage.{table} TO datastorage_service",
    "permission denied for table {table}",
)
_COLUMN = (
    "ALTER TABLE datastorage.{table} RENAME COLUMN correlation_id TO gone",
    "ALTER TABLE datastorage.{table} RENAME COLUMN gone TO correlation_id",
    'column "correlation_id" of relation "{table}" does not exist',
)


async def _create(client: BulkClient, bench: Workbench, kind: ResourceKind, prefix: str) -> set[str]:
    names = [f"{prefix}-{n}" for n in range(RECORDS)]
    for name in names:
        await client.create(kind, bench.namespace, MAKERS[kind](name))
    return set(names)


async def _phases(client: BulkClient, bench: Workbench, kind: ResourceKind) -> dict[str, str | None]:
    return {
        body["metadata"]["name"]: body.get("status", {}).get("phase")
        for body in await client.list(kind, bench.namespace)
    }


async def _are_stored(client: BulkClient, bench: Workbench, kind: ResourceKind, names: set[str]) -> bool:
    phases = await _phases(client, bench, kind)
    return {phases.get(name) for name in names} == {"Stored"}


async def _are_cleared(client: BulkClient, bench: Workbench, kind: ResourceKind) -> bool:
    return not await client.list(kind, bench.namespace)


async def _says(operator: OperatorProcess, *words: str) -> bool:
    status, body = await asyncio.to_thread(operator.ask, "/ready")
    return status == 503 and all(word in json.loads(body)["checks"]["postgres"] for word in words)


async def _is_ready(operator: OperatorProcess) -> bool:
    return await asyncio.to_thread(operator.ready)


@pytest.mark.parametrize("trouble", [_RIGHT, _COLUMN], ids=["right", "column"])
@pytest.mark.parametrize("broken", [ACTION_TRACE, AUDIT_RECORD], ids=lambda kind: kind.plural)
async def test_a_table_that_takes_no_rows_stops_its_own_kind_alone(
    workbench: Workbench, client: BulkClient, broken: ResourceKind, trouble: tuple[str, str, str]
) -> None:
    table, works = TABLES[broken], OTHER[broken]
    breaks, mends, why = (text.format(table=table) for text in trouble)
    operator = workbench.start_operator(INTAKE_MAX_ITEMS=ROOM, SWEEP_INTERVAL_SECONDS=3600)
    pid = operator.pid
    await workbench.execute_as_owner(breaks)
    waiting = await _create(client, workbench, broken, "waits")
    await until(partial(_says, operator, f"{table} can't be written", why), what="/ready says why")
    stored = await _create(client, workbench, works, "works")
    await until(partial(_are_stored, client, workbench, works, stored), what="the others")
    assert set((await _phases(client, workbench, broken)).values()) == {None}
    assert operator.metric(f'datastorage_dependency_up{{dependency="{table}"}}') == 0
    assert operator.metric('datastorage_dependency_up{dependency="postgres"}') == 1
    assert operator.metric("datastorage_intake_depth") <= ROOM // 2
    assert why.replace("\\", "") in operator.log().replace("\\", "")
    await workbench.execute_as_owner(mends)
    await until(partial(_are_stored, client, workbench, broken, waiting), what="nothing is lost")
    await until(partial(_is_ready, operator), what="/ready again")
    assert operator.metric(f'datastorage_dependency_up{{dependency="{table}"}}') == 1
    assert operator.pid == pid


@pytest.mark.parametrize("broken", [ACTION_TRACE, AUDIT_RECORD], ids=lambda kind: kind.plural)
async def test_a_locked_table_stops_its_own_kind_alone(
    workbench: Workbench, client: BulkClient, broken: ResourceKind
) -> None:
    """Until the lock is gone, no statement gets an answer: neither an insert nor a look-up."""
    works = OTHER[broken]
    workbench.start_operator(INTAKE_MAX_ITEMS=ROOM, TTL_SECONDS_AFTER_STORED=1, SWEEP_INTERVAL_SECONDS=5)
    async with workbench.no_rows_accepted(TABLES[broken], mode="ACCESS EXCLUSIVE"):
        waiting = await _create(client, workbench, broken, "waits")
        await _create(client, workbench, works, "works")
        await until(partial(_are_cleared, client, workbench, works), what="the others")
        assert set(await _phases(client, workbench, broken)) == waiting
    await until(partial(_are_cleared, client, workbench, broken), what="nothing is lost")
    stored = await rows(workbench.database_url, workbench.namespace, TABLES[broken])
    assert {row["name"] for row in stored} == waiting
