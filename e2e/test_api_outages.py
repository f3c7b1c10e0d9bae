"""The API while PostgreSQL or its standby is away, and while its own process stops."""

import asyncio
import json
import uuid
from functools import partial

import asyncpg
import pytest

from e2e.storing import Callers, body
from e2e.workbench import MakeWorkbench, Workbench
from harness.apidocument import DocumentedClient
from harness.polling import until
from harness.postgres import PostgresServer

_ROLES = ("datastorage-writer", "datastorage-archive-reader")
# The mode of an INSERT: a process that has just started may also wait here to prepare partitions.
_WAITING_INSERTS = """
    SELECT count(*) FROM pg_locks
    WHERE relation = 'datastorage.audit_records'::regclass AND mode = 'RowExclusiveLock' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def _token(workbench: Workbench) -> str:
    """Return the token of a caller that may store and read in the namespace."""
    return Callers(workbench.cluster, workbench.namespace).token("both", *_ROLES)


async def test_nothing_is_acknowledged_while_postgresql_is_away(
    make_workbench: MakeWorkbench, postgres: PostgresServer
) -> None:
    workbench = await make_workbench()
    client = DocumentedClient(workbench.start_operator().api_url, _token(workbench))
    sent = body(workbench.namespace, uid=str(uuid.uuid4()))
    postgres.stop("fast")
    try:
        answers = [
            client.post("/store/workflow", sent),
            client.post("/store/workflow?atomic=true", [sent, body(workbench.namespace)]),
        ]
    finally:
        postgres.start()
    for answer in answers:
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.content
        assert int(answer.headers["retry-after"]) > 0

    async def stored() -> bool:
        return client.post("/store/workflow", sent).status in {200, 201}

    await until(stored, what="the request that is sent again is stored")
    assert len(client.get("/query/records", namespace=workbench.namespace).json["items"]) == 1


async def test_a_stop_answers_what_is_under_way_and_refuses_what_comes_later(workbench: Workbench) -> None:
    operator = workbench.start_operator()
    client = DocumentedClient(operator.api_url, _token(workbench))
    sent = body(workbench.namespace, uid=str(uuid.uuid4()))
    async with workbench.no_rows_accepted():
        storing = asyncio.create_task(asyncio.to_thread(client.post, "/store/workflow", sent))
        await until(partial(_insert_waits, workbench), what="the commit waits")
        stopping = asyncio.create_task(asyncio.to_thread(operator.terminate))

        async def stopping_is_said() -> bool:
            return (await asyncio.to_thread(operator.ask, "/ready"))[0] == 503

        await until(stopping_is_said, what="/ready sends clients elsewhere")
        late = await asyncio.to_thread(client.post, "/store/workflow", body(workbench.namespace))
        assert (late.status, late.json["code"]) == (503, "unavailable"), late.content
        assert "stopping" in late.json["detail"]
        assert int(late.headers["retry-after"]) > 0
        listed = await asyncio.to_thread(client.get, "/query/records", namespace=workbench.namespace)
        assert (listed.status, listed.json["items"]) == (200, []), "questions go on until the end"
        assert not storing.done()
    stored = await storing
    assert stored.status == 201, stored.content
    assert await stopping == 0
    with pytest.raises(ConnectionRefusedError):
        client.post("/store/workflow", sent)
    assert await workbench.has_row(stored.json["uid"])


async def _insert_waits(workbench: Workbench) -> bool:
    connection = await asyncpg.connect(workbench.owner_url)
    try:
        return bool(await connection.fetchval(_WAITING_INSERTS))
    finally:
        await connection.close()


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "away"])
async def test_questions_go_to_the_standby_of_the_settings(workbench: Workbench, *, is_there: bool) -> None:
    """The primary is named as its own standby: here it counts that the setting is used."""
    away = "postgresql://nobody@127.0.0.1:1/none"
    operator = workbench.start_operator(READ_DATABASE_URL=workbench.database_url if is_there else away)
    client = DocumentedClient(operator.api_url, _token(workbench))
    stored = await asyncio.to_thread(client.post, "/store/workflow", body(workbench.namespace))
    assert stored.status == 201, stored.content

    async def is_shown() -> bool:
        status, said = await asyncio.to_thread(operator.ask, "/ready")
        standby = json.loads(said)["checks"]["standby"]
        return status == 200 and (standby == "ok" if is_there else "127.0.0.1:1" in standby)

    await until(is_shown, what="/ready shows the standby, and stays well")
    for path in ("/query/records", f"/query/workflow/{stored.json['uid']}"):
        answer = await asyncio.to_thread(client.get, path, namespace=workbench.namespace)
        assert answer.status == 200, answer.content
        assert float(answer.headers["datastorage-replica-lag"]) == 0 or is_there
    text = await asyncio.to_thread(operator.metrics)
    assert f'datastorage_dependency_up{{dependency="standby"}} {1.0 if is_there else 0.0}' in text
    assert "datastorage_event_loop_held_seconds_count" in text
    assert ('datastorage_standby_skipped_total{reason="away"} 0.0' in text) is is_there
