"""A cluster or a database is restored from a backup: both histories are kept, and no row stays missing."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from e2e.workbench import Workbench, shipped_account
from harness.archive import rows
from harness.bulk import BulkClient
from harness.controlplane import ControlPlane
from harness.manifests import action_trace, audit_record
from harness.polling import until
from harness.postgres import TestDatabases

FINALIZER = {"finalizers": ["example.com/backup"]}
PENDING = {"status": "Pending"}


async def phase_of(
    client: BulkClient, kind: ResourceKind, namespace: str, name: str, generation: int = 1
) -> str | None:
    """Return the phase of a generation, by the object's status."""
    status = ((await client.get(kind, namespace, name)) or {}).get("status", {})
    return status.get("phase") if status.get("observedGeneration") == generation else None


async def test_a_cluster_restored_from_a_backup_keeps_both_histories(
    tmp_path: Path, databases: TestDatabases
) -> None:
    """Objects that were stored after the backup exist again without a status, and then change differently."""
    database = await databases.clone()
    with ControlPlane(tmp_path / "cluster", fsync=False) as cluster:
        cluster.apply_product()
        cluster.kubectl("create", "namespace", "restored")
        bench = Workbench(
            cluster=cluster, kubeconfig=shipped_account(cluster), namespace="restored",
            owner_url=database.owner_url, database_url=database.service_url, directory=tmp_path,
        )  # fmt: skip
        try:
            await _go_back_and_on(bench, cluster, tmp_path / "backup")
        finally:
            await bench.close()
    await databases.drop(database)


async def _go_back_and_on(bench: Workbench, cluster: ControlPlane, backup: Path) -> None:
    operator = bench.start_operator(SWEEP_INTERVAL_SECONDS=5, TTL_SECONDS_AFTER_STORED=1)
    async with BulkClient.connect(cluster.admin_kubeconfig) as client:
        await client.create(ACTION_TRACE, "restored", action_trace("trace", execution=PENDING))
        await until(lambda: phase_of(client, ACTION_TRACE, "restored", "trace"), what="generation 1")
        operator.pause()  # so that the backup has the record without a status
        record = await client.create(
            AUDIT_RECORD, "restored", audit_record("record", ttlSecondsAfterStored=3600)
        )
    cluster.back_up(backup)
    operator.resume()
    async with BulkClient.connect(cluster.admin_kubeconfig) as client:
        await until(lambda: phase_of(client, AUDIT_RECORD, "restored", "record"), what="stored")
        await _change_trace(client, "first", "Executing")
        await until(lambda: phase_of(client, ACTION_TRACE, "restored", "trace", 2), what="generation 2")
    cluster.restore(backup)
    async with BulkClient.connect(cluster.admin_kubeconfig) as client:
        await _change_trace(client, "second", "Failed")
        stored = await until(
            lambda: phase_of(client, AUDIT_RECORD, "restored", "record"), what="stored again"
        )
        assert stored == "Stored"

        async def trace_is_cleared() -> bool:
            return await client.get(ACTION_TRACE, "restored", "trace") is None

        await until(trace_is_cleared, what="the second history is cleared")
    found = await rows(bench.database_url, "restored", Table.ACTION_TRACES)
    histories = [(row["generation"], json.loads(row["content"])["spec"].get("parameters")) for row in found]
    assert sorted(histories, key=str) == sorted(
        [(1, None), (2, {"history": "first"}), (2, {"history": "second"})], key=str
    )
    assert [row["diverged"] for row in found if row["execution_status"] == "Failed"] == [True]
    assert [str(row["uid"]) for row in await rows(bench.database_url, "restored")] == [
        record["metadata"]["uid"]
    ]
    assert "Another content of this generation" in operator.log()
    assert operator.metric('datastorage_diverged_records_total{table="action_traces"}') == 1


async def _change_trace(client: BulkClient, history: str, status: str) -> None:
    spec = {"parameters": {"history": history}, "execution": {"status": status}}
    await client.patch(ACTION_TRACE, "restored", "trace", {"spec": spec})


async def test_rows_that_a_restored_database_lacks_are_stored_again(
    workbench: Workbench, client: BulkClient
) -> None:
    """A failover lost the last commits; the statuses of what was lost stay."""
    namespace = workbench.namespace
    workbench.start_operator(SWEEP_INTERVAL_SECONDS=5, GC_INTERVAL_SECONDS=5)
    await client.create(ACTION_TRACE, namespace, action_trace("runs", execution=PENDING))
    await client.create(AUDIT_RECORD, namespace, audit_record("stored"))
    for kind, name in ((ACTION_TRACE, "runs"), (AUDIT_RECORD, "stored")):
        await until(partial(phase_of, client, kind, namespace, name), what=name)
    lost = {
        table: [row["content"] for row in await rows(workbench.database_url, namespace, table)]
        for table in Table
    }
    assert all(lost.values())
    for table in Table:
        await workbench.execute_as_owner(f"DELETE FROM datastorage.{table}")

    async def back() -> bool:
        found = {
            table: [row["content"] for row in await rows(workbench.database_url, namespace, table)]
            for table in Table
        }
        return found == lost

    await until(back, what="the rows are back, with the same bytes")


async def test_a_terminating_object_is_one_record(workbench: Workbench, client: BulkClient) -> None:
    """The API server counts a deletion that waits for a finalizer as a generation; it says nothing new."""
    namespace = workbench.namespace
    workbench.opt_out_of_the_guard()
    operator = workbench.start_operator()
    await client.create(AUDIT_RECORD, namespace, _finalized(audit_record("record")))
    await client.create(ACTION_TRACE, namespace, _finalized(action_trace("trace", execution=PENDING)))
    for kind, name in ((AUDIT_RECORD, "record"), (ACTION_TRACE, "trace")):
        await until(partial(phase_of, client, kind, namespace, name), what=name)
        for _ in range(3):
            await client.delete(kind, namespace, name)
    operator.pause()
    await client.create(AUDIT_RECORD, namespace, _finalized(audit_record("unstored")))
    await client.delete(AUDIT_RECORD, namespace, "unstored")
    operator.resume()
    for kind, name in ((AUDIT_RECORD, "unstored"), (ACTION_TRACE, "trace")):
        body = await client.get(kind, namespace, name)
        assert body is not None
        assert body["metadata"]["generation"] == 2
        await until(partial(phase_of, client, kind, namespace, name, 2), what=f"the status of {name}")
    stored = await rows(workbench.database_url, namespace)
    assert [(row["name"], row["generation"]) for row in stored] == [("record", 1), ("unstored", 1)]
    traces = await rows(workbench.database_url, namespace, Table.ACTION_TRACES)
    assert [(row["name"], row["generation"]) for row in traces] == [("trace", 1)]
    for kind, name in ((AUDIT_RECORD, "record"), (AUDIT_RECORD, "unstored"), (ACTION_TRACE, "trace")):
        await client.patch(kind, namespace, name, {"metadata": {"finalizers": None}})


def _finalized(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], **FINALIZER}}
