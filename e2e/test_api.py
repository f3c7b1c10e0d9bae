"""Records over HTTP: the same pipeline, the same questions, and the callers' own rights in the cluster."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.request import urlopen

import pytest

from datastorage.api.document import document
from e2e.storing import SPEC, Callers, body
from e2e.workbench import Workbench
from harness.apiclient import Answer
from harness.apidocument import DocumentedClient
from harness.polling import DEADLINE_SECONDS, until, until_blocking

TARGET = {"targetKind": "Deployment", "targetNamespace": "shop", "targetName": "checkout"}
FILTERS = {
    "action": "scale-deployment", "environment": "production", "cluster": "eu-1", "actorKind": "User",
    "actorName": "jo", "via": "api", "correlationID": "rr-1", "phase": "Completed",
    "alertFingerprint": "f00d",
}  # fmt: skip
FULL_SPEC = {
    **SPEC, "environment": "production", "cluster": "eu-1", "actor": {"kind": "User", "name": "jo"},
    "alertFingerprint": "f00d",
    "resourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "checkout"},
}  # fmt: skip


@pytest.fixture
def callers(workbench: Workbench) -> Iterator[Callers]:
    made = Callers(workbench.cluster, workbench.namespace)
    yield made
    made.close()


@pytest.fixture
def both(workbench: Workbench, callers: Callers) -> DocumentedClient:
    """Provide a client that may store and read in the namespace."""
    token = callers.token("both", "datastorage-writer", "datastorage-archive-reader")
    return DocumentedClient(workbench.running_operator().api_url, token)


@pytest.mark.shared_operator
def test_what_is_stored_is_found(workbench: Workbench, both: DocumentedClient) -> None:
    stored = both.post("/store/workflow", body(workbench.namespace))
    assert stored.status == 201, stored.content
    found = both.send("GET", stored.headers["location"].removeprefix("/api/v1"), None, {})
    assert found.status == 200, found.content
    assert found.json["record"]["spec"] == {**SPEC, "type": "Workflow"}
    account = f"system:serviceaccount:{workbench.namespace}:both"
    assert (found.json["recordedBy"], found.json["via"]) == (account, "api")
    assert found.headers["etag"] == stored.headers["etag"]
    path = f"/query/records/{stored.json['uid']}"
    again = both.get(path, {"If-None-Match": found.headers["etag"]}, namespace=workbench.namespace)
    assert (again.status, again.content) == (304, b"")
    exact = both.get(
        path, {"Accept": "application/vnd.kubernaut.canonical+json"}, namespace=workbench.namespace
    )
    assert json.loads(exact.content) == found.json["record"]
    refused = both.get("/query/records/no-uid", namespace=workbench.namespace)
    assert refused.status == 400
    # The prompt of a shell begins a new line. The canonical bytes are those that were stored.
    for answer in (stored, found, refused):
        assert answer.content.endswith(b"}\n")
    assert exact.content.endswith(b"}")
    for answer in (
        both.get("/query/workflow", namespace=workbench.namespace),
        both.get("/query/semantic", namespace=workbench.namespace, q="scaling of checkout"),
        both.post(
            "/query/semantic", {"namespace": workbench.namespace, "q": "scaled checkout", "mode": "text"}
        ),
        both.get("/timeline/rr-1", namespace=workbench.namespace),
    ):
        assert answer.status == 200, answer.content
        assert answer.content.endswith(b"}\n")
        assert [item["uid"] for item in answer.json["items"]] == [stored.json["uid"]]
    assert both.get("/query/execution", namespace=workbench.namespace).json["items"] == []


@pytest.mark.shared_operator
def test_an_object_has_a_history_and_records_a_summary(workbench: Workbench, both: DocumentedClient) -> None:
    namespace = workbench.namespace
    stored = both.post("/store/workflow", {**body(namespace), "spec": FULL_SPEC})
    assert both.post("/store/workflow", body(namespace)).status == 201
    [entry] = both.get("/history", None, namespace=namespace, **TARGET).json["items"]
    assert (entry["uid"], entry["outcome"]) == (stored.json["uid"], "Completed")
    assert "scale-deployment on Deployment/shop/checkout: Completed." in entry["sentence"]
    counted = both.get("/summary", None, namespace=namespace, groupBy="targetKind").json
    assert [(each["group"], each["records"]) for each in counted["items"]] == [
        ({"targetKind": "Deployment"}, 1), ({"targetKind": None}, 1),
    ]  # fmt: skip
    for name, value in FILTERS.items():
        found = both.get("/query/records", None, namespace=namespace, **TARGET, **{name: value}).json["items"]
        assert [(each["uid"], each["action"]) for each in found] == [(stored.json["uid"], "scale-deployment")]
        assert not {"record", "intact"} & found[0].keys()
    [with_fields] = both.get(
        "/query/records", None, namespace=namespace, **TARGET, fields="record.spec.message,record.spec.actor"
    ).json["items"]
    assert with_fields["record"] == {
        "spec": {"message": SPEC["message"], "actor": {"kind": "User", "name": "jo"}}
    }
    refused = both.get("/query/records", None, namespace=namespace, fields="record.spec.mesage")
    assert (refused.status, "message" in refused.json["detail"]) == (400, True)


@pytest.mark.shared_operator
async def test_an_identifier_of_an_earlier_namespace_is_free(
    workbench: Workbench, callers: Callers, make_namespace: Callable[[], str]
) -> None:
    """The new owner of a name neither meets the records of the last one, nor learns of them."""
    token = callers.token("robot", "datastorage-writer", everywhere=True)
    client = DocumentedClient(workbench.running_operator().api_url, token)
    namespace, uid = make_namespace(), str(uuid.uuid4())
    assert client.post("/store/workflow", body(namespace, uid=uid)).status == 201
    workbench.cluster.kubectl("delete", "namespace", namespace)
    workbench.cluster.kubectl("create", "namespace", namespace)
    other = {**body(namespace, uid=uid), "spec": {**SPEC, "phase": "Failed"}}

    async def stored() -> bool:
        # The operator remembers the age of a namespace for some seconds.
        answer = await asyncio.to_thread(client.post, "/store/workflow", other)
        assert answer.status in {201, 422}, answer.content
        return answer.status == 201

    await until(stored, what="the identifier is free")
    assert client.post("/store/workflow", other).status == 200
    assert client.post("/store/workflow", body(namespace, uid=uid)).status == 422


@pytest.mark.shared_operator
def test_the_document_and_its_page_are_served_without_a_token(workbench: Workbench) -> None:
    url = workbench.running_operator().api_url
    with urlopen(f"{url}/openapi.json", timeout=DEADLINE_SECONDS) as answer:
        assert json.load(answer) == document()
    with urlopen(f"{url}/docs", timeout=DEADLINE_SECONDS) as answer:
        assert answer.headers.get_content_type() == "text/html"


@pytest.mark.shared_operator
def test_the_same_request_is_stored_once(workbench: Workbench, both: DocumentedClient) -> None:
    by_uid = body(workbench.namespace, uid=str(uuid.uuid4()))
    for sent, headers in ((by_uid, {}), (body(workbench.namespace), {"Idempotency-Key": "step 1"})):
        first, second = (both.post("/store/workflow", sent, headers) for _ in range(2))
        assert (first.status, second.status) == (201, 200), second.content
        assert first.json == second.json
        other = both.post("/store/workflow", {**sent, "spec": {**SPEC, "phase": "Failed"}}, headers)
        assert (other.status, other.json["code"]) == (422, "identifier-reused")
    assert len(both.get("/query/records", namespace=workbench.namespace).json["items"]) == 2


@pytest.mark.shared_operator
def test_racing_requests_of_one_identifier_store_one_record(
    workbench: Workbench, both: DocumentedClient
) -> None:
    by_uid = body(workbench.namespace, uid=str(uuid.uuid4()))
    with ThreadPoolExecutor(16) as pool:
        for sent, headers in ((by_uid, {}), (body(workbench.namespace), {"Idempotency-Key": "step 1"})):
            post = partial(both.post, "/store/workflow", sent, headers)
            answers = [each.result() for each in [pool.submit(post) for _ in range(32)]]
            assert Counter(answer.status for answer in answers) == {201: 1, 200: 31}
            assert {answer.content for answer in answers} == {answers[0].content}
    repeated = both.post("/store/workflow", [by_uid] * 3)
    assert [item["status"] for item in repeated.json["items"]] == [200, 200, 200], repeated.content
    assert len(both.get("/query/records", namespace=workbench.namespace).json["items"]) == 2


@pytest.mark.shared_operator
def test_each_record_of_a_batch_has_its_result(workbench: Workbench, both: DocumentedClient) -> None:
    good, bad = body(workbench.namespace), {**body(workbench.namespace), "spec": {"phase": "Completed"}}
    foreign = body("kube-system")
    array = both.post("/store/workflow", [good, bad, foreign])
    lines = b"\n".join([json.dumps(good).encode(), b"{", json.dumps(bad).encode()])
    in_lines = both.post("/store/workflow", lines, {"Content-Type": "application/x-ndjson"})
    assert (array.status, in_lines.status) == (207, 207), in_lines.content
    assert [item["status"] for item in array.json["items"]] == [201, 400, 403]
    assert [item["status"] for item in in_lines.json["items"]] == [201, 400, 400]
    pointers = {error["pointer"] for error in array.json["items"][1]["problem"]["errors"]}
    assert pointers == {"/spec/action", "/spec/correlationID"}
    assert len(both.get("/query/records", namespace=workbench.namespace).json["items"]) == 2


@pytest.mark.shared_operator
def test_a_batch_is_stored_as_a_whole_or_not_at_all(workbench: Workbench, both: DocumentedClient) -> None:
    namespace, path = workbench.namespace, "/store/workflow?atomic=true"
    batch = [body(namespace, uid=str(uuid.uuid4())) for _ in range(3)]
    wrong = {**body(namespace), "spec": {"phase": "Completed"}}
    refused = both.post(path, [*batch, wrong, body("kube-system")])
    assert (refused.status, refused.json["code"]) == (422, "batch-not-stored"), refused.content
    assert [(item["index"], item["status"]) for item in refused.json["items"]] == [(3, 400), (4, 403)]
    assert both.get("/query/records", namespace=namespace).json["items"] == []
    lines = b"\n".join(json.dumps(each).encode() for each in batch)
    for status in (201, 200):
        stored = both.post(path, lines, {"Content-Type": "application/x-ndjson"})
        assert stored.status == 207, stored.content
        assert [item["status"] for item in stored.json["items"]] == [status] * 3
    reused = both.post(path, [body(namespace), {**batch[1], "spec": {**SPEC, "phase": "Failed"}}])
    assert [(item["index"], item["problem"]["code"]) for item in reused.json["items"]] == [
        (1, "identifier-reused")
    ]
    found: list[dict[str, Any]] = []

    def has_a_vector() -> bool:  # on a busy machine, it is written later
        found[:] = both.get("/query/semantic", namespace=namespace, q="scaling of checkout").json["items"]
        return bool(found) and found[0]["similarity"] is not None

    until_blocking(has_a_vector, what="a vector was written, too")
    assert {item["uid"] for item in found} <= {each["metadata"]["uid"] for each in batch}
    assert len(both.get("/query/records", namespace=namespace).json["items"]) == 3


@pytest.mark.shared_operator
def test_without_a_token_or_a_right_nothing_is_done(workbench: Workbench, callers: Callers) -> None:
    url = workbench.running_operator().api_url
    nobody, stranger = DocumentedClient(url), DocumentedClient(url, callers.token("stranger"))
    reader = DocumentedClient(url, callers.token("reader", "datastorage-archive-reader"))
    writer = DocumentedClient(url, callers.token("writer", "datastorage-writer"))
    namespace = workbench.namespace

    def questions(client: DocumentedClient, **query: str) -> list[Answer]:
        paths = ("/query/records", "/query/actiontraces", f"/query/records/{uuid.uuid4()}", "/timeline/rr-1",
                 f"/query/actiontraces/{uuid.uuid4()}/history")  # fmt: skip
        found = [client.get(path, None, **query) for path in paths]
        return [
            *found,
            client.get("/query/semantic", None, q="x", **query),
            client.get("/history", None, targetKind="Pod", targetName="x", **query),
            client.get("/summary", None, groupBy="namespace", **query),
        ]

    for answer in (nobody.post("/store/workflow", body(namespace)), *questions(nobody, namespace=namespace)):
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), answer.content
    for client in (stranger, writer):
        assert {answer.status for answer in questions(client, namespace=namespace)} == {403}
    for client in (stranger, reader):
        assert client.post("/store/workflow", body(namespace)).status == 403
    for query in ({}, {"namespace": "kube-system"}):
        assert {answer.status for answer in questions(reader, **query)} == {403}, query
    assert writer.post("/store/workflow", body(namespace)).status == 201


def test_a_right_in_one_namespace_shows_no_row_of_another(
    workbench: Workbench, callers: Callers, both: DocumentedClient
) -> None:
    everywhere = callers.token("admin", "datastorage-writer", "datastorage-archive-reader", everywhere=True)
    admin = DocumentedClient(both.url, everywhere)
    uid = str(uuid.uuid4())
    assert admin.post("/store/workflow", {**body("default", uid=uid), "spec": FULL_SPEC}).status == 201
    namespace = workbench.namespace
    for path in (f"/query/records/{uid}", f"/query/workflow/{uid}"):
        absent = both.get(f"/query/records/{uuid.uuid4()}", namespace=namespace)
        assert both.get(path, namespace=namespace).json.keys() == absent.json.keys()
        assert both.get(path, namespace=namespace).status == absent.status == 404
        assert admin.get(path, namespace="default").status == admin.get(path).status == 200
    for answer in (
        both.get("/query/records", namespace=namespace),
        both.get("/timeline/rr-1", namespace=namespace),
        both.get("/query/semantic", namespace=namespace, q="scaled checkout"),
    ):
        assert answer.json["items"] == []
    _assert_no_filter_shows_it(both, namespace)
    _assert_no_filter_shows_it(admin, "kube-system")
    # The identifier of a foreign record is free, and does not say that it exists.
    own = both.post("/store/workflow", body(namespace, uid=uid))
    assert own.status == 201
    cursor = admin.get("/query/records", pageSize="1").json["nextPageToken"]
    assert both.get("/query/records", namespace=namespace, pageToken=cursor).status == 400
    assert admin.post("/store/workflow", {**body("default"), "spec": FULL_SPEC}).status == 201
    page = admin.get("/history", None, **TARGET, pageSize="1").json
    assert page["nextPageToken"] is not None
    for path in ("/history", "/query/records"):
        foreign = both.get(path, None, **TARGET, namespace=namespace, pageToken=page["nextPageToken"])
        assert (foreign.status, foreign.json["code"]) == (400, "invalid-query")


def _assert_no_filter_shows_it(client: DocumentedClient, namespace: str) -> None:
    """Ask for the record of the namespace "default" by everything that is true of it."""
    filters = {**FILTERS, "recordedBy": f"system:serviceaccount:{namespace}:admin"}
    for asked in ({}, *({name: value} for name, value in filters.items()), {**TARGET, **FILTERS}):
        own = {"namespace": namespace, **asked}
        for answer in (
            client.get("/query/records", None, **own),
            client.get("/query/records", None, **own, fields="record"),
            client.get("/query/semantic", None, **own, q="scaled checkout"),
            client.get("/history", None, **{**TARGET, **own}),
            client.get("/summary", None, **own, groupBy="namespace,day"),
        ):
            assert (answer.status, answer.json["items"]) == (200, []), answer.content
        counted = client.get("/summary", None, **own, groupBy="action").json
        assert (counted["records"], counted["groups"], counted["truncated"]) == (0, 0, False)


async def test_rows_of_an_earlier_namespace_of_the_name_are_not_shown(
    workbench: Workbench, both: DocumentedClient
) -> None:
    namespace = workbench.namespace
    stored = both.post("/store/workflow", {**body(namespace), "spec": FULL_SPEC})
    earlier = "UPDATE datastorage.audit_records SET created_at = created_at - interval '1 day'"
    await workbench.execute_as_owner(earlier)
    assert both.get("/query/records", namespace=namespace).json["items"] == []
    assert both.get("/history", None, namespace=namespace, **TARGET).json["items"] == []
    assert both.get("/summary", None, namespace=namespace, groupBy="action").json["records"] == 0
    for path in (f"/query/records/{stored.json['uid']}", "/timeline/rr-1"):
        answer = both.get(path, namespace=namespace)
        assert answer.status == 404 or answer.json["items"] == []
