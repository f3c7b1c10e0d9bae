"""The export under the callers' own rights in the cluster, and ``datastorage export`` beside it."""

import json
import uuid
from collections.abc import Iterator

import pytest

from e2e.storing import Callers, body
from e2e.workbench import Workbench
from harness.apidocument import DocumentedClient

READER, EXPORTER = "datastorage-archive-reader", "datastorage-archive-exporter"
WRITER = "datastorage-writer"


@pytest.fixture
def callers(workbench: Workbench) -> Iterator[Callers]:
    made = Callers(workbench.cluster, workbench.namespace)
    yield made
    made.close()


def uids(client: DocumentedClient, **query: str) -> list[str]:
    """Return what an export has, after checking that it is complete."""
    answer = client.get("/export", {"Accept-Encoding": "identity"}, **query)
    assert answer.status == 200, answer.content
    *lines, end = map(json.loads, answer.content.splitlines())
    assert (end["kind"], end["count"]) == ("ExportEnd", len(lines))
    return [line["uid"] for line in lines]


async def test_an_export_needs_both_rights_and_has_no_row_of_another_namespace(
    workbench: Workbench, callers: Callers
) -> None:
    url, namespace = workbench.start_operator().api_url, workbench.namespace
    admin = DocumentedClient(url, callers.token("admin", WRITER, READER, EXPORTER, everywhere=True))
    reader = DocumentedClient(url, callers.token("reader", READER))
    only_exporter = DocumentedClient(url, callers.token("only-exporter", EXPORTER))
    exporter = DocumentedClient(url, callers.token("exporter", READER, EXPORTER))

    earlier, own, foreign = (str(uuid.uuid4()) for _ in range(3))
    assert admin.post("/store/workflow", body(namespace, uid=earlier)).status == 201
    await workbench.execute_as_owner(
        "UPDATE datastorage.audit_records SET created_at = created_at - interval '1 day'"
    )
    for where, uid in ((namespace, own), ("default", foreign)):
        assert admin.post("/store/workflow", body(where, uid=uid)).status == 201

    assert DocumentedClient(url).get("/export").status == 401
    for client, verb in ((reader, "export"), (only_exporter, "list")):
        answer = client.get("/export", None, namespace=namespace)
        assert answer.status == 403
        assert f"no right to {verb} records.archive.datastorage.kubernaut.io" in answer.json["detail"]
        assert answer.json["detail"].endswith(f"in namespace {namespace}")
    for query in ({}, {"namespace": "default"}):
        assert exporter.get("/export", None, **query).status == 403

    # Of its own namespace, a caller gets the records since the namespace was created.
    assert uids(exporter, namespace=namespace) == [own]
    assert uids(admin, namespace=namespace) == [earlier, own]
    assert uids(admin) == [earlier, own, foreign]
    # Nobody resumes with a token from other rights.
    [*_, end] = admin.get(
        "/export", {"Accept-Encoding": "identity"}, namespace=namespace
    ).content.splitlines()
    token = json.loads(end)["resumeToken"]
    assert exporter.get("/export", None, namespace=namespace, resumeToken=token).status == 400
