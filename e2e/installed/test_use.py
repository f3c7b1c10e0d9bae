"""The operators in the pods do what users want of them: store, find, guard, clear, and show it."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from e2e.installed.clientpod import ClientPod
from e2e.installed.counted import SETTLE_SECONDS, InstalledPostgres
from e2e.installed.installation import Installation
from e2e.installed.portforward import PortForward
from e2e.storing import Callers
from e2e.workbench import Workbench
from harness.apiclient import ApiClient
from harness.archive import rows, uids
from harness.bulk import BulkClient
from harness.installed import NAMESPACE
from harness.manifests import action_trace, audit_record

_WAIT = f"--timeout={SETTLE_SECONDS:.0f}s"


async def test_a_custom_resource_is_stored_shown_found_and_cleared(
    workbench: Workbench, client: BulkClient, client_pod: ClientPod, postgres: InstalledPostgres
) -> None:
    namespace, kubectl = workbench.namespace, workbench.cluster.kubectl
    message = "Gave the checkout pods more memory, because the kernel had killed them"
    record = audit_record("more-memory", message=message, ttlSecondsAfterStored=3600)
    uid = (await client.create(AUDIT_RECORD, namespace, record))["metadata"]["uid"]
    name = f"{AUDIT_RECORD.singular}/more-memory"
    wait = ("wait", "-n", namespace, name, _WAIT)
    await asyncio.to_thread(kubectl, *wait, "--for=jsonpath={.status.phase}=Stored", timeout=SETTLE_SECONDS)

    header, line = kubectl("get", "-n", namespace, AUDIT_RECORD.plural).stdout.splitlines()
    assert header.split() == ["NAME", "TYPE", "ACTION", "OUTCOME", "TARGET", "PHASE", "VECTOR", "AGE"]
    assert {"more-memory", "Remediation", "restart-pod", "Completed", "Stored"} <= set(line.split())

    with postgres.forward() as way:
        assert uids(await rows(postgres.url(way), namespace)) == [uid]
    for mode in ("vector", "text"):
        search = ("out of memory" if mode == "vector" else "checkout memory", "--mode", mode)
        found = client_pod.datastorage("search", *search, "-n", namespace, "-o", "json").stdout
        assert [each["uid"] for each in json.loads(found)["results"]] == [uid], mode
    got = client_pod.datastorage("get", uid, "-o", "json").stdout
    assert json.loads(got)["record"]["spec"]["message"] == message

    soon_gone = audit_record("soon-gone", ttlSecondsAfterStored=1)
    await client.create(AUDIT_RECORD, namespace, soon_gone)
    gone = ("wait", "-n", namespace, f"{AUDIT_RECORD.singular}/soon-gone", "--for=delete", _WAIT)
    await asyncio.to_thread(kubectl, *gone, timeout=SETTLE_SECONDS)
    assert "soon-gone" in client_pod.datastorage("list", "-n", namespace, "-o", "json").stdout


async def test_the_service_stores_for_a_serviceaccount(
    workbench: Workbench, client_pod: ClientPod, postgres: InstalledPostgres
) -> None:
    """From a pod in the cluster by the Service's name, and from a person's machine by a forwarded port."""
    namespace = workbench.namespace
    inside, outside = str(uuid.uuid4()), str(uuid.uuid4())
    record = audit_record("from-a-pod")
    record["metadata"] |= {"namespace": namespace, "uid": inside}
    stored = json.loads(
        client_pod.datastorage("store", "-f", "-", "-o", "json", text=json.dumps(record)).stdout
    )
    assert (stored["stored"], stored["failed"]) == (1, 0)

    callers = Callers(workbench.cluster, namespace)
    token = callers.token("both", "datastorage-writer", "datastorage-archive-reader")
    with PortForward(workbench.cluster, NAMESPACE, "service/datastorage", 8080) as service:
        api = ApiClient(f"http://127.0.0.1:{service.port}", token)
        body: dict[str, Any] = {"metadata": {"namespace": namespace, "uid": outside}, "spec": record["spec"]}
        answer = api.post("/store/remediation", body)
        assert answer.status == 201, answer.content
        again = api.post("/store/remediation", body)
        assert (again.status, again.json) == (200, answer.json), "stored once"
        listed = api.get("/query/records", namespace=namespace)
        assert {each["uid"] for each in listed.json["items"]} == {inside, outside}
        assert {each["recordedBy"] for each in listed.json["items"]} == {
            f"system:serviceaccount:{client_pod.namespace}:{client_pod.name}",
            f"system:serviceaccount:{namespace}:both",
        }
        # The role is bound in one namespace alone.
        assert api.get("/query/records", namespace=client_pod.namespace).status == 403
        assert ApiClient(api.url, "abc").get("/query/records", namespace=namespace).status == 401
    with postgres.forward() as way:
        assert sorted(uids(await rows(postgres.url(way), namespace))) == sorted((inside, outside))


async def test_what_is_not_stored_can_not_be_deleted(
    workbench: Workbench, client: BulkClient, postgres: InstalledPostgres
) -> None:
    namespace = workbench.namespace
    delete = ("delete", "-n", namespace, "--timeout=30s")
    with postgres.forward() as way:
        workbench.owner_url = postgres.url(way, owner=True)
        async with workbench.no_rows_accepted():
            await client.create(AUDIT_RECORD, namespace, audit_record("waits"))
            refusal = workbench.cluster.kubectl(*delete, AUDIT_RECORD.crd_name, "waits", check=False).stderr
            assert "must not be deleted: the operator has not stored it yet" in refusal
    wait = ("wait", "-n", namespace, f"{AUDIT_RECORD.singular}/waits", _WAIT)
    await asyncio.to_thread(
        workbench.cluster.kubectl, *wait, "--for=jsonpath={.status.phase}=Stored", timeout=SETTLE_SECONDS
    )
    workbench.cluster.kubectl(*delete, AUDIT_RECORD.crd_name, "waits")

    # A trace whose execution goes on is stored, and is not complete.
    trace = action_trace("goes-on", execution={"status": "Executing"})
    await client.create(ACTION_TRACE, namespace, trace)
    wait = ("wait", "-n", namespace, f"{ACTION_TRACE.singular}/goes-on", _WAIT)
    await asyncio.to_thread(
        workbench.cluster.kubectl, *wait, "--for=jsonpath={.status.phase}=Recording", timeout=SETTLE_SECONDS
    )
    refusal = workbench.cluster.kubectl(*delete, ACTION_TRACE.crd_name, "goes-on", check=False).stderr
    assert "it is not complete yet (phase Recording)" in refusal


@pytest.mark.usefixtures("spread")
async def test_the_replicas_are_on_several_nodes_and_answer_all(
    installation: Installation, client_pod: ClientPod
) -> None:
    assert installation.replicas == 3
    pods = await installation.ready_pods()
    workers = {each.node for each in pods}
    assert len(workers) > 1, pods
    program = (
        "import sys, urllib.request as r;"
        "print(r.urlopen(f'http://127.0.0.1:{sys.argv[1]}/ready', timeout=10).status)"
    )
    for pod in pods:
        for port in ("8080", "9090"):
            assert installation.python(pod, program, port).strip() == "200"
    assert client_pod.datastorage("list", "-n", client_pod.namespace, check=False).returncode == 0
