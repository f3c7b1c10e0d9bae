"""Definitions, rights and namespaces come and go while the operator runs: it needs no restart."""

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, KINDS, ResourceKind
from e2e.conftest import GUARD_OPT_OUT
from e2e.workbench import Workbench
from harness.archive import rows
from harness.bulk import BulkClient, RequestError
from harness.controlplane import Cluster
from harness.controlplane.cluster import PRODUCT
from harness.installed import apply_at_rest
from harness.manifests import action_trace, audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until

ENDED = {"execution": {"status": "Completed"}}
# For tests that allow no warning: on a busy machine, a start without the model's answer gives one.
NO_MODEL: dict[str, Any] = {"EMBEDDING_PROVIDER": "none"}


class Definitions:
    """The definitions on the cluster, taken away and brought back."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def delete(self, *kinds: ResourceKind) -> None:
        """Delete definitions with everything of their kinds."""
        names = [f"crd/{kind.crd_name}" for kind in kinds]
        await asyncio.to_thread(self._cluster.kubectl, "label", *names, GUARD_OPT_OUT, "--overwrite")
        await asyncio.to_thread(self._cluster.kubectl, "delete", *names, "--timeout=60s")

    async def apply(self) -> None:
        """Apply the definitions as they are shipped; they are established then."""
        await asyncio.to_thread(self._cluster.apply_product, PRODUCT[0])

    async def serve(self, kind: ResourceKind, *, served: bool) -> None:
        """Switch the one version on or off; its objects stay."""
        patch = [{"op": "replace", "path": "/spec/versions/0/served", "value": served}]
        arguments = ("patch", "crd", kind.crd_name, "--type=json", "-p", json.dumps(patch))
        await asyncio.to_thread(self._cluster.kubectl, *arguments)


@pytest.fixture
def definitions(control_plane: Cluster) -> Iterator[Definitions]:
    """The definitions, which are all there again after the test."""
    yield Definitions(control_plane)
    apply_at_rest(control_plane)


async def create(client: BulkClient, kind: ResourceKind, namespace: str, body: dict[str, Any]) -> str:
    """Create an object as soon as the API server takes it; return its uid."""

    async def created() -> Any:
        try:
            return await client.create(kind, namespace, body)
        except RequestError as error:
            if error.status not in {404, 405, 429, 503}:
                raise
            return None

    made = await until(created, what="the API server takes the object")
    return str(made["metadata"]["uid"])


async def stored(client: BulkClient, kind: ResourceKind, namespace: str, name: str) -> bool:
    body = await client.get(kind, namespace, name)
    return body is not None and body.get("status", {}).get("phase") == "Stored"


async def says(operator: OperatorProcess, *words: str) -> bool:
    status, body = await asyncio.to_thread(operator.ask, "/ready")
    return status == 503 and all(word in body for word in words)


async def ready(operator: OperatorProcess) -> bool:
    return await asyncio.to_thread(operator.ready)


def lines(operator: OperatorProcess, level: int) -> list[str]:
    """Return the messages of the log from a level on."""
    parsed = [json.loads(line) for line in operator.log().splitlines()]
    return [one["message"] for one in parsed if logging.getLevelNamesMapping()[one["level"]] >= level]


async def test_a_definition_is_deleted_and_created_again(
    workbench: Workbench, client: BulkClient, definitions: Definitions
) -> None:
    namespace = workbench.namespace
    workbench.opt_out_of_the_guard()
    operator = workbench.start_operator(SWEEP_INTERVAL_SECONDS=3600, **NO_MODEL)
    pid = operator.pid
    uids = [await create(client, AUDIT_RECORD, namespace, audit_record("first"))]
    await until(lambda: stored(client, AUDIT_RECORD, namespace, "first"), what="the first record")
    await definitions.delete(AUDIT_RECORD)
    await until(lambda: says(operator, AUDIT_RECORD.crd_name), what="/ready names it")
    await create(client, ACTION_TRACE, namespace, action_trace("meanwhile", **ENDED))
    await until(
        lambda: stored(client, ACTION_TRACE, namespace, "meanwhile"),
        what="the other kind goes on",
    )  # fmt: skip
    status, body = await asyncio.to_thread(operator.ask, "/health")
    assert status == 200, body
    await definitions.apply()
    uids.append(await create(client, AUDIT_RECORD, namespace, audit_record("first")))
    await until(
        lambda: stored(client, AUDIT_RECORD, namespace, "first"),
        what="a record of the new definition",
    )  # fmt: skip
    await until(lambda: ready(operator), what="/ready again")
    assert operator.pid == pid
    assert sorted(str(row["uid"]) for row in await rows(workbench.database_url, namespace)) == sorted(uids)
    warnings = lines(operator, logging.WARNING)
    assert [AUDIT_RECORD.crd_name in line for line in warnings] == [True], "one line, however long it is away"
    assert (
        lines(operator, logging.INFO).count(
            f"The API server serves the definition now: {AUDIT_RECORD.crd_name}"
        )
        == 1
    )


async def test_the_dry_run_of_the_collector_names_missing_definitions(
    workbench: Workbench, definitions: Definitions
) -> None:
    await definitions.delete(ACTION_TRACE)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        workbench.datastorage("gc", "--dry-run")
    assert failed.value.returncode == 1
    assert failed.value.stdout == "stored objects in the cluster: 0\n", "the other kind is listed"
    assert f"does not serve {ACTION_TRACE.crd_name}: " in failed.value.stderr
    assert "kubectl apply -k crds" in failed.value.stderr
    await definitions.delete(AUDIT_RECORD)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        workbench.datastorage("gc", "--dry-run")
    assert failed.value.stdout == "", "nothing is said about objects that can't be listed"
    assert f"does not serve {AUDIT_RECORD.crd_name} and {ACTION_TRACE.crd_name}: " in failed.value.stderr


async def test_the_definitions_are_installed_after_the_operator(
    workbench: Workbench, client: BulkClient, definitions: Definitions
) -> None:
    await definitions.delete(*KINDS)
    operator = workbench.start_operator(wait=False, SWEEP_INTERVAL_SECONDS=3600)
    names = [kind.crd_name for kind in KINDS]
    await until(lambda: says(operator, *names), what="/ready names both")
    await definitions.apply()
    await create(client, AUDIT_RECORD, workbench.namespace, audit_record("record"))
    await create(client, ACTION_TRACE, workbench.namespace, action_trace("trace", **ENDED))
    for kind, name in ((AUDIT_RECORD, "record"), (ACTION_TRACE, "trace")):
        await until(
            lambda kind=kind, name=name: stored(client, kind, workbench.namespace, name),  # type: ignore[misc]
            what=name,
        )  # fmt: skip
    await until(lambda: ready(operator), what="/ready")
    assert lines(operator, logging.ERROR) == []


async def test_a_first_start_beside_new_definitions_logs_no_trouble(
    workbench: Workbench, client: BulkClient, definitions: Definitions, tmp_path: Path
) -> None:
    """The API server refuses the first requests for a new definition (429), which is no trouble."""
    await definitions.delete(*KINDS)
    began, held = tmp_path / "began", tmp_path / "held"
    os.mkfifo(held)
    config = _held_back(workbench, began, held)
    operator = workbench.start_operator(wait=False, kubeconfig=config, **NO_MODEL)

    async def has_begun() -> bool:
        operator.check()
        return began.exists()

    await until(has_begun, seconds=120, what="the operator is loaded")
    await definitions.apply()
    await asyncio.to_thread(held.write_text, "go")
    await create(client, AUDIT_RECORD, workbench.namespace, audit_record("record"))
    await until(
        lambda: stored(client, AUDIT_RECORD, workbench.namespace, "record"),
        what="the record",
    )  # fmt: skip
    await until(lambda: ready(operator), what="/ready")
    assert lines(operator, logging.WARNING) == []


def _held_back(workbench: Workbench, began: Path, held: Path) -> Path:
    """Return a kubeconfig whose program makes the file ``began``, and waits until ``held`` is written.

    So the operator, which takes seconds to load, sends its first requests when the test wants it.
    """
    config = json.loads(workbench.kubeconfig.read_text())
    [user] = config["users"]
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": user["user"]["token"]},
    }  # fmt: skip
    answer = f"touch {began}; read _ < {held}; echo '{json.dumps(credential)}'"
    user["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": "sh", "args": ["-c", answer],
        }
    }  # fmt: skip
    path = began.with_name("held-back.kubeconfig")
    path.write_text(json.dumps(config))
    return path


async def test_a_version_is_switched_off_and_on(
    workbench: Workbench, client: BulkClient, definitions: Definitions
) -> None:
    """The objects stay, and are cleared at their time although a deletion has found nothing meanwhile."""
    namespace = workbench.namespace
    operator = workbench.start_operator(
        SWEEP_INTERVAL_SECONDS=3600,
        GC_INTERVAL_SECONDS=3600,
        TTL_SECONDS_AFTER_STORED=12,
    )
    await create(client, AUDIT_RECORD, namespace, audit_record("record"))
    await until(lambda: stored(client, AUDIT_RECORD, namespace, "record"), what="the record")
    operator.pause()  # so that the version is off before the time of the record has come
    try:
        await definitions.serve(AUDIT_RECORD, served=False)
    finally:
        operator.resume()
    await until(lambda: says(operator, AUDIT_RECORD.crd_name), what="/ready names it")

    async def tried() -> bool:
        gone = await asyncio.to_thread(operator.metric, 'datastorage_gc_total{outcome="gone"}')
        return gone >= 1

    await until(tried, what="the deletion finds nothing")
    await definitions.serve(AUDIT_RECORD, served=True)

    async def cleared() -> bool:
        try:
            return await client.get(AUDIT_RECORD, namespace, "record") is None and await ready(operator)
        except RequestError:
            return False

    await until(cleared, what="it is deleted after all")
    assert operator.metric('datastorage_gc_total{outcome="deleted"}') == 1


async def test_rights_are_granted_later(
    workbench: Workbench, client: BulkClient, control_plane: Cluster
) -> None:
    namespace = workbench.namespace
    workbench.opt_out_of_the_guard()  # another ServiceAccount than the shipped one may not write statuses
    control_plane.kubectl("create", "serviceaccount", "stranger", f"--namespace={namespace}")
    operator = workbench.start_operator(
        wait=False, kubeconfig=control_plane.service_account_kubeconfig(namespace, "stranger")
    )
    await client.create(AUDIT_RECORD, namespace, audit_record("record"))
    await until(lambda: says(operator, "auditrecords", "actiontraces", "403"), what="/ready")
    control_plane.kubectl(
        "create", "rolebinding", "stranger", "--clusterrole=datastorage", f"--namespace={namespace}",
        f"--serviceaccount={namespace}:stranger",
    )  # fmt: skip
    await until(lambda: stored(client, AUDIT_RECORD, namespace, "record"), what="the record is stored")
    await until(lambda: ready(operator), what="/ready")
    refused = [line for line in lines(operator, logging.WARNING) if "watch" in line]
    assert len(refused) == 2, "one line a watch, however often it is refused"


async def test_namespaces_come_and_go(
    workbench: Workbench, client: BulkClient, control_plane: Cluster
) -> None:
    other = f"{workbench.namespace}-other"
    operator = workbench.start_operator(
        NAMESPACES=f"{other},{workbench.namespace}", SWEEP_INTERVAL_SECONDS=3600, **NO_MODEL
    )
    for made_again in (False, True):
        if made_again:
            await asyncio.to_thread(control_plane.kubectl, "delete", "namespace", other)
        await asyncio.to_thread(control_plane.kubectl, "create", "namespace", other)
        for namespace in (other, workbench.namespace):
            await client.create(AUDIT_RECORD, namespace, audit_record("record", ttlSecondsAfterStored=0))
            await until(
                lambda namespace=namespace: _gone(client, namespace),  # type: ignore[misc]
                what=f"the record in {namespace} is stored and cleared",
            )  # fmt: skip
    control_plane.kubectl("delete", "namespace", other, "--wait=false")
    assert len(await rows(workbench.database_url, other)) == 2
    await until(lambda: ready(operator), what="/ready")
    assert lines(operator, logging.WARNING) == []


async def _gone(client: BulkClient, namespace: str) -> bool:
    return await client.get(AUDIT_RECORD, namespace, "record") is None
