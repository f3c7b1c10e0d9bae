"""An API server that divides lists and watches (alpha in Kubernetes 1.36) divides them as the shards do.

Other servers ignore the selector; all other tests run on one of those.
"""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.selection import Selection
from e2e import replicas
from e2e.load import all_stored
from e2e.workbench import Workbench, shipped_account
from harness.bulk import BulkClient, gather_bounded, path
from harness.controlplane import ControlPlane
from harness.manifests import audit_record
from harness.polling import until
from harness.postgres import TestDatabases

_SHARDS: Final = 3
_NAMESPACE: Final = "sharded"
_GATE: Final = "--feature-gates=ShardedListAndWatch=true"
# A watch that begins at any version sends all objects first; it is ended after these seconds.
_WATCH: Final = {"watch": "true", "resourceVersion": "0", "timeoutSeconds": "3"}


async def test_the_server_sends_each_shard_its_own_objects(tmp_path: Path, databases: TestDatabases) -> None:
    database = await databases.clone()
    with ControlPlane(tmp_path / "cp", fsync=False, api_server_flags=[_GATE]) as cluster:
        cluster.apply_product()
        cluster.kubectl("create", "namespace", _NAMESPACE)
        bench = Workbench(
            cluster=cluster, kubeconfig=shipped_account(cluster), namespace=_NAMESPACE,
            owner_url=database.owner_url, database_url=database.service_url, directory=tmp_path,
        )  # fmt: skip
        try:
            async with BulkClient.connect(cluster.admin_kubeconfig) as client:
                await _lists_and_watches_are_divided(cluster, client)
                await asyncio.to_thread(replicas.start, bench, [None], SHARDS=_SHARDS)
                created = [body["metadata"]["uid"] for body in await _create(client, "later")]
                waiting = await client.list(AUDIT_RECORD, _NAMESPACE)
                uids = {body["metadata"]["uid"] for body in waiting} | set(created)
                stored = partial(all_stored, client, bench, list(uids))
                await until(stored, what="the objects of all shards are stored")
        finally:
            await bench.close()
    await databases.drop(database)


async def _lists_and_watches_are_divided(cluster: ControlPlane, client: BulkClient) -> None:
    bodies = await _create(client, "first")
    for shard in range(_SHARDS):
        selection = Selection(shard=shard, shards=_SHARDS)
        own = {body["metadata"]["name"] for body in bodies if selection.has(body)}
        assert own
        for query in ({}, _WATCH):
            answer = await asyncio.to_thread(
                _raw, cluster, {"shardSelector": selection.shard_selector, **query}
            )
            assert answer == own


def _raw(cluster: ControlPlane, query: dict[str, str | None]) -> set[str]:
    """Return the names of the objects in a list, or in the events of a watch."""
    text = cluster.kubectl("get", "--raw", f"{path(AUDIT_RECORD, _NAMESPACE)}?{urlencode(query)}").stdout
    if "watch" not in query:
        return {item["metadata"]["name"] for item in json.loads(text)["items"]}
    events = [json.loads(line) for line in text.splitlines()]
    return {event["object"]["metadata"]["name"] for event in events if event["type"] == "ADDED"}


async def _create(client: BulkClient, prefix: str) -> list[dict[str, Any]]:
    records = (audit_record(f"{prefix}-{number}") for number in range(30))
    return await gather_bounded((client.create(AUDIT_RECORD, _NAMESPACE, each) for each in records), 10)
