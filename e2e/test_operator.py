"""A record's path on a real cluster: it is stored, its status says so, and it is deleted."""

import asyncio
import json
import re
import shlex
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from datastorage.records.canonical import canonical_bytes
from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from e2e.workbench import Workbench
from harness.archive import rows, uids
from harness.bulk import BulkClient
from harness.manifests import action_trace, audit_record
from harness.polling import until


async def test_record_is_stored_reported_and_cleared(workbench: Workbench, client: BulkClient) -> None:
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=1)
    namespace = workbench.namespace
    # A watch sees the status also if the object is cleared before this test looks again.
    async with watched(client, AUDIT_RECORD, namespace) as seen:
        body = audit_record("one", details={"a": [1, None, "x"]})
        created = await client.create(AUDIT_RECORD, namespace, body)

        async def stored() -> Any:
            return next((each for each in seen if each.get("status", {}).get("phase") == "Stored"), None)

        body = await until(stored, what="phase Stored")
    [row] = await rows(operator.database_url, namespace)
    status = body["status"]
    assert status["recordID"] == created["metadata"]["uid"] == str(row["uid"])
    assert status["observedGeneration"] == created["metadata"]["generation"] == row["generation"]
    assert status["contentHash"] == f"sha256:{row['content_hash'].hex()}"
    content = json.loads(row["content"])
    assert content["spec"] == created["spec"]
    assert row["content"] == canonical_bytes(content)

    async def gone() -> bool:
        return await client.get(AUDIT_RECORD, namespace, "one") is None

    await until(gone, what="the object is cleared")
    assert len(await rows(operator.database_url, namespace)) == 1


@asynccontextmanager
async def watched(
    client: BulkClient, kind: ResourceKind, namespace: str
) -> AsyncIterator[list[dict[str, Any]]]:
    """Provide a list that takes each object of the namespace whenever it changes."""
    opened, seen = asyncio.Event(), list[dict[str, Any]]()

    async def watch() -> None:
        async for _, body in client.watch(kind, namespace, opened=opened):
            seen.append(body)

    watching = asyncio.create_task(watch())
    try:
        await opened.wait()
        yield seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def writes_since(workbench: Workbench, before: Counter[str], *, deleted: int) -> Counter[str]:
    """Return the writes of AuditRecords since then; the API server counts one only after its answer."""

    async def counted() -> Counter[str] | None:
        written = workbench.api_writes("auditrecords")
        written.subtract(before)
        return written if written["DELETE"] >= deleted else None

    return await until(counted, what=f"the API server has counted {deleted} deletions")


async def test_ttl_zero_deletes_without_a_status_write(workbench: Workbench, client: BulkClient) -> None:
    workbench.start_operator()
    before = workbench.api_writes("auditrecords")
    names = [f"zero-{n}" for n in range(20)]
    for name in names:
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name, ttlSecondsAfterStored=0))

    async def empty() -> bool:
        return not await client.list(AUDIT_RECORD, workbench.namespace)

    await until(empty, what="all objects are cleared")
    written = await writes_since(workbench, before, deleted=len(names))
    assert (written["PATCH status"], written["DELETE"]) == (0, len(names))
    assert len(await rows(workbench.database_url, workbench.namespace)) == len(names)


async def test_two_writes_a_record(workbench: Workbench, client: BulkClient) -> None:
    workbench.start_operator(TTL_SECONDS_AFTER_STORED=1)
    before = workbench.api_writes("auditrecords")
    count = 50
    for n in range(count):
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(f"two-{n}"))

    async def empty() -> bool:
        return not await client.list(AUDIT_RECORD, workbench.namespace)

    await until(empty, what="all objects are cleared")
    written = await writes_since(workbench, before, deleted=count)
    assert (written["PATCH status"], written["DELETE"]) == (count, count)
    assert len(await rows(workbench.database_url, workbench.namespace)) == count


@pytest.mark.shared_operator
async def test_action_trace_keeps_every_generation_until_it_is_final(
    workbench: Workbench, client: BulkClient
) -> None:
    workbench.running_operator()
    namespace = workbench.namespace
    await client.create(ACTION_TRACE, namespace, action_trace("grow", execution={"status": "Pending"}))

    async def phase_of_generation(generation: int) -> Any:
        body = await client.get(ACTION_TRACE, namespace, "grow")
        status = (body or {}).get("status", {})
        return status.get("phase") if status.get("observedGeneration") == generation else None

    states = [
        {"status": "Executing", "startTime": "2026-01-01T00:00:00Z"},
        {"status": "Completed", "endTime": "2026-01-01T00:00:09Z"},
    ]
    assert await until(lambda: phase_of_generation(1), what="generation 1") == "Recording"
    await client.patch(ACTION_TRACE, namespace, "grow", {"spec": {"execution": states[0]}})
    assert await until(lambda: phase_of_generation(2), what="generation 2") == "Recording"
    await client.patch(ACTION_TRACE, namespace, "grow", {"spec": {"execution": states[1]}})
    assert await until(lambda: phase_of_generation(3), what="generation 3") == "Stored"
    history = await rows(workbench.database_url, namespace, Table.ACTION_TRACES)
    assert [(row["generation"], row["execution_status"], row["final"]) for row in history] == [
        (1, "Pending", False),
        (2, "Executing", False),
        (3, "Completed", True),
    ]


@pytest.mark.shared_operator
async def test_a_trace_whose_assessment_was_never_made_stays_open(
    workbench: Workbench, client: BulkClient
) -> None:
    """Go writes its zero time for an assessedAt that was never set."""
    workbench.running_operator()
    namespace, unset = workbench.namespace, "0001-01-01T00:00:00Z"
    due = {"dueTime": "2026-01-01T01:00:00Z", "assessedAt": unset}
    ended = {"status": "Completed", "startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-01T00:00:09Z"}
    await client.create(ACTION_TRACE, namespace, action_trace("due", execution=ended, effectiveness=due))
    never = action_trace("never", execution=ended | {"endTime": unset}, effectiveness={"dueTime": unset})
    await client.create(ACTION_TRACE, namespace, never)

    async def phase(name: str) -> Any:
        return ((await client.get(ACTION_TRACE, namespace, name)) or {}).get("status", {}).get("phase")

    assert await until(lambda: phase("due"), what="a phase of the trace") == "Recording"
    assert await until(lambda: phase("never"), what="a phase of the other") == "Stored"
    made = {"effectiveness": {"assessedAt": "2026-01-01T01:01:00Z", "score": 0.9}}
    await client.patch(ACTION_TRACE, namespace, "due", {"spec": made})

    async def is_stored() -> bool:
        return bool(await phase("due") == "Stored")

    await until(is_stored, what="the assessed trace is Stored")
    history = await rows(workbench.database_url, namespace, Table.ACTION_TRACES)
    assert [(row["name"], row["generation"], row["final"]) for row in history] == [
        ("due", 1, False), ("due", 2, True), ("never", 1, True),
    ]  # fmt: skip
    assert history[-1]["end_time"] is None


@pytest.mark.shared_operator
async def test_the_advice_of_the_guard_ends_a_trace_whose_assessment_was_never_made(
    workbench: Workbench, client: BulkClient
) -> None:
    workbench.running_operator()
    ended = action_trace(
        "given-up", execution={"status": "Completed"}, effectiveness={"dueTime": "2026-03-01T12:00:00Z"}
    )
    await client.create(ACTION_TRACE, workbench.namespace, ended)
    kubectl = workbench.cluster.kubectl
    deletion = ("delete", "actiontrace", "given-up", "-n", workbench.namespace, "--dry-run=server")

    async def advice() -> re.Match[str] | None:
        refusal = (await asyncio.to_thread(kubectl, *deletion, check=False)).stderr
        return re.search(r"end it with: kubectl (patch .*?'.*?')\.", refusal)

    command = await until(advice, what="the refusal says how to end it")
    await asyncio.to_thread(kubectl, *shlex.split(command[1]))

    async def stored() -> bool:
        body = await client.get(ACTION_TRACE, workbench.namespace, "given-up")
        return body is not None and body.get("status", {}).get("phase") == "Stored"

    await until(stored, what="phase Stored")


@pytest.mark.shared_operator
async def test_final_state_that_follows_at_once_is_stored(workbench: Workbench, client: BulkClient) -> None:
    """The step to Stored must never hide a later generation: 60 traces changed right after their creation."""
    workbench.running_operator()
    namespace = workbench.namespace
    names = [f"quick-{n}" for n in range(60)]
    for name in names:
        await client.create(ACTION_TRACE, namespace, action_trace(name, execution={"status": "Executing"}))
        await client.patch(ACTION_TRACE, namespace, name, {"spec": {"execution": {"status": "Completed"}}})

    async def all_stored() -> bool:
        bodies = await client.list(ACTION_TRACE, namespace)
        return all(body.get("status", {}).get("phase") == "Stored" for body in bodies)

    await until(all_stored, what="all traces are Stored")
    history = await rows(workbench.database_url, namespace, Table.ACTION_TRACES)
    assert {row["name"] for row in history if row["generation"] == 2 and row["final"]} == set(names)


async def test_legal_hold_keeps_a_stored_object(workbench: Workbench, client: BulkClient) -> None:
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=1, GC_INTERVAL_SECONDS=5)
    namespace = workbench.namespace
    held = audit_record("held")
    held["metadata"]["labels"] = {"datastorage.kubernaut.io/legal-hold": "true"}
    await client.create(AUDIT_RECORD, namespace, held)
    await client.create(AUDIT_RECORD, namespace, audit_record("free"))

    async def free_is_gone() -> bool:
        return await client.get(AUDIT_RECORD, namespace, "free") is None

    async def held_is_noticed() -> bool:
        return operator.metric('datastorage_gc_total{outcome="held"}') > 0

    await until(free_is_gone, what="the object without a hold is cleared")
    await until(held_is_noticed, what="a listing passes over the held object")
    body = await client.get(AUDIT_RECORD, namespace, "held")
    assert body is not None
    assert body["status"]["phase"] == "Stored"
    await client.patch(
        AUDIT_RECORD,
        namespace,
        "held",
        {"metadata": {"labels": {"datastorage.kubernaut.io/legal-hold": None}}},
    )

    async def held_is_gone() -> bool:
        return await client.get(AUDIT_RECORD, namespace, "held") is None

    await until(held_is_gone, what="the object is cleared when the hold ends")


async def test_missing_row_is_never_deleted_but_stored_again(
    workbench: Workbench, client: BulkClient
) -> None:
    """A status may be wrong (a restored backup, a status made by hand): the collector asks the archive."""
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=3600)
    namespace = workbench.namespace
    await client.create(AUDIT_RECORD, namespace, audit_record("lost"))

    async def is_stored() -> bool:
        body = await client.get(AUDIT_RECORD, namespace, "lost")
        return bool(body) and body["status"]["phase"] == "Stored" if body and "status" in body else False

    await until(is_stored, what="phase Stored")
    await workbench.execute_as_owner("DELETE FROM datastorage.audit_records")
    # Only now is the record to be cleared, however long all this took.
    await asyncio.to_thread(operator.terminate)
    operator.settings["DATASTORAGE_TTL_SECONDS_AFTER_STORED"] = "1"
    await asyncio.to_thread(operator.start)

    async def gone() -> bool:
        return await client.get(AUDIT_RECORD, namespace, "lost") is None

    await until(gone, what="the object is cleared after all")
    assert len(await rows(workbench.database_url, namespace)) == 1


async def test_stop_flushes_and_exits_zero(workbench: Workbench, client: BulkClient) -> None:
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=3600)
    namespace = workbench.namespace
    for n in range(200):
        await client.create(AUDIT_RECORD, namespace, audit_record(f"flush-{n}"))
    assert operator.terminate() == 0
    taken_in = {row["name"] for row in await rows(workbench.database_url, namespace)}
    stored = {
        body["metadata"]["name"]
        for body in await client.list(AUDIT_RECORD, namespace)
        if body.get("status", {}).get("phase") == "Stored"
    }
    assert stored == taken_in, "every committed record has its status"


@pytest.mark.shared_operator
async def test_gc_dry_run_lists_and_deletes_nothing(workbench: Workbench, client: BulkClient) -> None:
    operator = workbench.running_operator()
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("listed"))

    async def is_stored() -> bool:
        return len(uids(await rows(operator.database_url, workbench.namespace))) == 1

    await until(is_stored, what="the row")

    async def listed() -> str | None:
        output = workbench.datastorage("gc", "--dry-run")
        return output if "listed" in output else None

    output = await until(listed, what="the dry run lists it")
    assert "yes" in output
    assert re.search(r"Z +(59m|1h) ", output), output
    assert await client.get(AUDIT_RECORD, workbench.namespace, "listed") is not None
