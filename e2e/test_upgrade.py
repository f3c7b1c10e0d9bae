"""An upgrade: the operator takes over an archive and a cluster from an earlier version.

``upgrade/`` has what the operator of commit 1a2b0ac left behind, the last one before the rows' key had the
content: a dump of its database (pg_dump of the schema, with the statements of psql left out), and what etcd
had of the objects in each phase. Some had come while no operator ran.
"""

import asyncio
import gzip
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg

from datastorage.resources.kinds import KINDS
from datastorage.storage.migrate import migrate
from datastorage.storage.schema import ARCHIVE, VECTORS
from e2e.workbench import Workbench, shipped_account
from harness.archive import fetch
from harness.bulk import BulkClient
from harness.controlplane import ControlPlane
from harness.polling import until
from harness.postgres import TestDatabases

LEFT: Final = Path(__file__).with_name("upgrade")
NAMESPACE: Final = "upgrade"  # as the objects say
TEN_YEARS: Final = 315_360_000  # as that operator was set up

UNTOUCHED: Final = {
    "stored-0", "stored-1", "stored-2", "exotic", "held", "terminating", "rejected", "recording",
    "trace-stored",
}  # fmt: skip
"""Objects whose status is not written again."""
PHASES: Final = {
    **dict.fromkeys(UNTOUCHED, "Stored"),
    **dict.fromkeys(("unstored-0", "unstored-1", "unstored-2", "degraded-0", "degraded-1"), "Stored"),
    **dict.fromkeys(("recording", "recording-degraded", "unstored-trace"), "Recording"),
    "changed": "Stored",
    "rejected": "Rejected",
}
"""The phase that each object reaches; the one that was due is deleted."""
GENERATIONS: Final = {
    **dict.fromkeys(PHASES.keys() - {"rejected"}, 1),
    **dict.fromkeys(("due", "gone"), 1),
    **dict.fromkeys(("recording", "trace-stored", "changed"), 2),
}
"""How many rows each object has in the end; "gone" had left the cluster before."""

_ROWS: Final = """
    SELECT name, uid::text, generation, content, content_hash, stored_at FROM datastorage.audit_records
    UNION ALL
    SELECT name, uid::text, generation, content, content_hash, stored_at FROM datastorage.action_traces
"""
_WITHOUT_VECTOR: Final = """
    SELECT name FROM (
        SELECT name, text_hash FROM datastorage.audit_records
        UNION ALL SELECT name, text_hash FROM datastorage.action_traces) AS r
    WHERE NOT EXISTS (SELECT FROM datastorage.embeddings_1 e WHERE e.text_hash = r.text_hash)
"""


async def _statuses(client: BulkClient) -> dict[str, tuple[str | None, str]]:
    """Return phase (of what the object says now) and version of each object, by name."""
    statuses = {}
    for kind in KINDS:
        for body in await client.list(kind, NAMESPACE):
            metadata, status = body["metadata"], body.get("status", {})
            is_current = status.get("observedGeneration") == metadata["generation"]
            is_current |= "deletionTimestamp" in metadata  # a deletion raises the generation once
            statuses[metadata["name"]] = (
                status.get("phase") if is_current else None, metadata["resourceVersion"]
            )  # fmt: skip
    return statuses


def _left_objects() -> dict[str, Any]:
    left: dict[str, Any] = json.loads((LEFT / "objects.json").read_text(encoding="utf-8"))
    return left


async def _take_over(own_control_plane: ControlPlane, databases: TestDatabases, directory: Path) -> Workbench:
    """Bring the database to this version, and the objects into the cluster."""
    database = await databases.empty()
    dump = gzip.decompress((LEFT / "database.sql.gz").read_bytes()).decode()
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute("CREATE EXTENSION vector")
    await owner.execute(dump)
    await owner.close()
    for chain in (ARCHIVE, VECTORS):
        before, after = await asyncio.to_thread(migrate, database.owner_url, chain)
        assert before is not None
        assert after == chain.version
    own_control_plane.kubectl("create", "namespace", NAMESPACE)
    for key, body in _left_objects().items():
        own_control_plane.put_into_etcd(key, json.dumps(body, ensure_ascii=False))
    return Workbench(
        cluster=own_control_plane, kubeconfig=shipped_account(own_control_plane), namespace=NAMESPACE,
        owner_url=database.owner_url, database_url=database.service_url, directory=directory,
    )  # fmt: skip


async def test_what_an_earlier_version_left_is_taken_over(
    own_control_plane: ControlPlane, databases: TestDatabases, client: BulkClient, tmp_path: Path
) -> None:
    bench = await _take_over(own_control_plane, databases, tmp_path)
    try:
        await _check(bench, client)
    finally:
        await bench.close()
        own_control_plane.kubectl(
            "label", "namespace", NAMESPACE, "datastorage.kubernaut.io/deletion-guard=disabled"
        )
        # Its finalizer would keep the definitions from being deleted by a later test.
        patch = ("patch", "auditrecord", "terminating", f"--namespace={NAMESPACE}", "--type=merge")
        own_control_plane.kubectl(*patch, '--patch={"metadata": {"finalizers": null}}', check=False)
        own_control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


async def _check(bench: Workbench, client: BulkClient) -> None:
    rows_before = {(row["uid"], row["generation"]): row for row in await fetch(bench.owner_url, _ROWS)}
    statuses_before = await until(partial(_all_listed, client), what="the API server has all")
    operator = bench.start_operator(TTL_SECONDS_AFTER_STORED=TEN_YEARS, SWEEP_INTERVAL_SECONDS=5)

    async def reached() -> bool:
        return {name: phase for name, (phase, _) in (await _statuses(client)).items()} == PHASES

    await until(reached, what="every object has its phase")

    async def all_have_vectors() -> bool:
        return not await fetch(bench.owner_url, _WITHOUT_VECTOR)

    await until(all_have_vectors, what="every row has its vector")
    assert not await fetch(bench.owner_url, "SELECT * FROM datastorage.vector_outbox")
    swept = operator.metric('datastorage_sweep_total{outcome="success"}')

    async def looked_again() -> bool:
        return operator.metric('datastorage_sweep_total{outcome="success"}') >= swept + 2

    await until(looked_again, what="two more sweeps")
    await _check_rows(bench, rows_before)
    statuses = await _statuses(client)
    assert {name: statuses[name] for name in UNTOUCHED} == {name: statuses_before[name] for name in UNTOUCHED}
    assert "missing" not in operator.log()
    for table in ("audit_records", "action_traces"):
        assert operator.metric(f'datastorage_diverged_records_total{{table="{table}"}}') == 0
    await _check_rejected(bench, client)


async def _all_listed(client: BulkClient) -> dict[str, tuple[str | None, str]] | None:
    statuses = await _statuses(client)
    return statuses if len(statuses) == len(_left_objects()) else None


async def _check_rows(bench: Workbench, before: dict[tuple[str, int], Any]) -> None:
    rows = await fetch(bench.owner_url, _ROWS)
    generations = Counter(row["name"] for row in rows)
    assert generations == GENERATIONS
    after = {(row["uid"], row["generation"]): row for row in rows}
    assert len(after) == len(rows)
    for key, row in before.items():
        assert tuple(after[key]) == tuple(row)
    # Each row has the uid that the cluster's object of its name had.
    uids = {body["metadata"]["name"]: body["metadata"]["uid"] for body in _left_objects().values()}
    assert {row["uid"] for row in rows if row["name"] != "gone"} == {
        uid for name, uid in uids.items() if name != "rejected"
    }


async def _check_rejected(bench: Workbench, client: BulkClient) -> None:
    """Check that a record that the earlier version rejected can be stored from its kept bytes."""
    bench.datastorage("rejected", "retry", "--all")

    async def stored() -> bool:
        return (await _statuses(client))["rejected"][0] == "Stored"

    await until(stored, what="the rejected record is Stored")
    rows = Counter(row["name"] for row in await fetch(bench.owner_url, _ROWS))
    assert rows == {**GENERATIONS, "rejected": 1}
