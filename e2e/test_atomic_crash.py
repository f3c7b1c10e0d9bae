"""Batches as a whole, repeated at two operators while one of them and PostgreSQL are killed."""

import asyncio
import http.client
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from e2e.storing import Callers, body
from e2e.workbench import Workbench
from harness.apiclient import Answer, ApiClient
from harness.operatorprocess import OperatorProcess
from harness.postgres import PostgresServer

SENDERS = 6
KILLS = 4
BATCH = 7
# Between two faults, in seconds: from "has not listened yet" to "in the middle of everything".
EARLIEST, LATEST = 1.0, 4.0
_COUNTS = (
    "SELECT uid::text AS uid, count(*) AS rows FROM datastorage.audit_records WHERE namespace = $1 GROUP BY 1"
)


@dataclass
class Sent:
    """What was sent, and what was acknowledged."""

    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.fixture
def token(workbench: Workbench) -> str:
    return Callers(workbench.cluster, workbench.namespace).token("both", "datastorage-writer")


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_no_batch_is_torn_or_lost_or_stored_twice(
    workbench: Workbench, token: str, postgres: PostgresServer
) -> None:
    operators = [workbench.start_operator(), workbench.start_operator()]
    sent, over = Sent(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(_send(workbench.namespace, operators, token, sent, over))
        for number in range(KILLS):
            await asyncio.sleep(random.uniform(EARLIEST, LATEST))  # the random moment
            victim = operators[number % 2]
            if number % 2:
                await asyncio.to_thread(postgres.restart, "immediate")
                await asyncio.to_thread(victim.terminate)
            else:
                await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(victim.wait_ready)
        over.set()
    assert {200, 207} & set(sent.statuses), sent.statuses
    rows = await _rows(workbench)
    for number, batch in enumerate(sent.batches):
        counts = [rows.get(record["metadata"]["uid"], 0) for record in batch]
        assert counts in ([0] * BATCH, [1] * BATCH), "a batch is there as a whole or not at all"
        assert number not in sent.acknowledged or counts == [1] * BATCH, "nothing acknowledged is missing"
    for batch in sent.batches:
        answer = await _post(operators[0], token, batch)
        assert answer is not None, "the operator answers again"
        assert answer.json["stored"] == BATCH, answer.content
    assert set((await _rows(workbench)).values()) == {1}


async def _send(
    namespace: str, operators: list[OperatorProcess], token: str, sent: Sent, over: asyncio.Event
) -> None:
    """Send batches, each to both operators at the same time."""
    while not over.is_set():
        number = len(sent.batches)
        batch = [body(namespace, uid=str(uuid.uuid4())) for _ in range(BATCH)]
        sent.batches.append(batch)
        for answer in await asyncio.gather(*(_post(operator, token, batch) for operator in operators)):
            if answer is None:
                continue
            sent.statuses[answer.status] += 1
            if answer.status in {200, 207}:
                # All are stored. The receipt of an earlier request may be out of reach.
                assert {item["status"] for item in answer.json["items"]} <= {200, 201, 503}, answer.content
                sent.acknowledged.add(number)
            else:
                assert answer.status in {429, 503}, answer.content


async def _post(operator: OperatorProcess, token: str, batch: list[dict[str, Any]]) -> Answer | None:
    """Return the answer, or None for a connection that broke."""
    client = ApiClient(operator.api_url, token)
    try:
        return await asyncio.to_thread(client.post, "/store/workflow?atomic=true", batch)
    except (OSError, http.client.HTTPException):
        return None


async def _rows(workbench: Workbench) -> dict[str, int]:
    connection = await asyncpg.connect(workbench.owner_url)
    try:
        found = await connection.fetch(_COUNTS, workbench.namespace)
    finally:
        await connection.close()
    return {row["uid"]: row["rows"] for row in found}
