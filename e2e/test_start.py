"""The start: an error that waiting can't cure ends it with one line, and a pooler is supported."""

import asyncio
import contextlib
import socket

import pytest

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.workbench import Workbench
from harness import operatorprocess
from harness.archive import rows
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.pooler import pooler
from harness.ports import free_port
from harness.postgres import TestDatabase

_RECORDS = 60


async def _error_lines(operator: OperatorProcess) -> list[str]:
    """Wait until an operator has ended by itself; return its error lines."""

    async def ended() -> bool:
        return operator.exit_code is not None

    await until(ended, what="the operator has ended")
    assert operator.exit_code == 2
    return [line for line in operator.log().splitlines() if line.startswith("datastorage: ")]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("channel_binding=require", "channel_binding=require is not supported"),
        ("schema=public", 'unrecognized configuration parameter "schema"'),
        ("sslmode=verify-full&sslrootcert=/no/such/ca.crt", "/no/such/ca.crt, which is not there"),
    ],
)
async def test_a_url_with_an_unsupported_option_ends_the_start(
    workbench: Workbench, query: str, said: str
) -> None:
    workbench.database_url += f"?{query}"
    [line] = await _error_lines(workbench.start_operator(wait=False))
    assert "DATASTORAGE_DATABASE_URL" in line
    assert said in line


async def test_a_role_that_lacks_a_right_ends_the_start_and_migrating_grants_it(workbench: Workbench) -> None:
    await workbench.execute_as_owner("REVOKE INSERT ON datastorage.audit_records FROM datastorage_service")
    [line] = await _error_lines(workbench.start_operator(wait=False))
    assert "may not INSERT into datastorage.audit_records: run 'datastorage migrate'" in line
    service_url, workbench.database_url = workbench.database_url, workbench.owner_url
    workbench.datastorage("migrate")
    workbench.database_url = service_url
    await asyncio.to_thread(workbench.start_operator)  # until it is ready


async def test_a_pooler_that_changes_the_session_is_supported(
    workbench: Workbench, client: BulkClient
) -> None:
    direct, namespace = workbench.database_url, workbench.namespace
    database = TestDatabase("", workbench.owner_url, direct)
    async with contextlib.AsyncExitStack() as stack:
        pooled = await stack.enter_async_context(pooler(database.service_url, database.owner_url, size=4))
        workbench.database_url = pooled.url
        operator = await asyncio.to_thread(workbench.start_operator)
        for n in range(_RECORDS):
            await client.create(AUDIT_RECORD, namespace, audit_record(f"pooled-{n}"))

        async def all_stored() -> bool:
            found = await client.list(AUDIT_RECORD, namespace)
            return [body.get("status", {}).get("phase") for body in found] == ["Stored"] * _RECORDS

        await until(all_stored, what="all records are Stored, with their vectors")
        answer = await asyncio.to_thread(workbench.datastorage, "search", "patch", "--limit", "1")
        assert "pooled-" in answer
        # The model is in the operator itself, and may be slow on a busy machine.
        away = [line for line in operator.log().splitlines() if "does not serve" in line]
        assert [line for line in away if "embedder does not serve" not in line] == []
        await asyncio.to_thread(operator.terminate)
    assert len(await rows(direct, namespace)) == _RECORDS


async def test_the_harness_moves_when_its_port_is_taken(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any program may take a port between its choice and its use; that must not fail a test."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(operatorprocess, "free_port", lambda: next(ports, None) or free_port())
        workbench.start_operator()  # until it is ready
        assert next(ports, None) is None, "it has chosen the port that was taken"
