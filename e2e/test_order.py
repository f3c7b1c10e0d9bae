"""Records that a controller writes within one second are shown in the order of writing."""

import json
import random
from typing import Any

import pytest

from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from e2e.workbench import Workbench
from harness.archive import rows
from harness.bulk import BulkClient
from harness.manifests import action_trace, audit_record
from harness.polling import until

# More than one page of a list; the API server sorts lists by name.
_RECORDS = 600


async def _write(client: BulkClient, namespace: str) -> list[str]:
    """Write a remediation whose records have no times of their own; return the names in order."""
    names = [f"step-{n}" for n in range(_RECORDS)]
    random.Random(7).shuffle(names)
    await client.create(ACTION_TRACE, namespace, action_trace("trace"))
    for name in names:
        body = audit_record(name)
        del body["spec"]["startTime"], body["spec"]["endTime"]
        await client.create(AUDIT_RECORD, namespace, body)
    return ["trace", *names]


@pytest.mark.parametrize("backlog", [False, True], ids=["as it happens", "after an outage"])
async def test_a_timeline_has_the_order_of_writing(
    workbench: Workbench, client: BulkClient, *, backlog: bool
) -> None:
    namespace = workbench.namespace
    if not backlog:
        workbench.start_operator(TTL_SECONDS_AFTER_STORED=3600)
    names = await _write(client, namespace)
    if backlog:
        workbench.start_operator(TTL_SECONDS_AFTER_STORED=3600)

    async def all_are_stored() -> bool:
        traces = await rows(workbench.database_url, namespace, Table.ACTION_TRACES)
        return bool(traces) and len(await rows(workbench.database_url, namespace)) == _RECORDS

    await until(all_are_stored, what="all are stored")

    def timeline(*options: str) -> Any:
        return json.loads(workbench.datastorage("timeline", "rr-0001", "-o", "json", *options))

    first = timeline("--limit", "400")
    second = timeline("--limit", "400", "--cursor", first["cursor"])
    assert second["complete"]
    assert [entry["name"] for entry in [*first["entries"], *second["entries"]]] == names
