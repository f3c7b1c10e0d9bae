"""Records over HTTP: stored by the same pipeline, found by the same questions."""

import uuid
from typing import Any

import pytest

from e2e.workbench import Workbench
from harness.apiclient import ApiClient

SPEC = {
    "action": "scale-deployment",
    "phase": "Completed",
    "correlationID": "rr-1",
    "message": "scaled checkout",
}


def body(namespace: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, **metadata}, "spec": SPEC}


@pytest.mark.asyncio
async def test_what_is_stored_is_found(workbench: Workbench) -> None:
    client = ApiClient(workbench.start_operator().api_url)
    stored = client.post("/store/workflow", body("payments"))
    assert stored.status == 201, stored.content
    found = client.get(f"/query/workflow/{stored.json['uid']}")
    assert found.status == 200, found.content
    assert found.json["record"]["spec"] == {**SPEC, "type": "Workflow"}
    assert found.headers["etag"] == stored.headers["etag"]
    listed = client.get("/query/records", namespace="payments").json
    assert [item["uid"] for item in listed["items"]] == [stored.json["uid"]]


@pytest.mark.asyncio
async def test_the_same_request_is_stored_once(workbench: Workbench) -> None:
    client = ApiClient(workbench.start_operator().api_url)
    sent = body("payments", uid=str(uuid.uuid4()))
    first, second = client.post("/store/workflow", sent), client.post("/store/workflow", sent)
    assert (first.status, second.status) == (201, 200), second.content
    assert first.json == second.json
    other = {**sent, "spec": {**SPEC, "phase": "Failed"}}
    assert client.post("/store/workflow", other).status == 422
    elsewhere = {**sent, "metadata": {**sent["metadata"], "namespace": "shop"}}
    assert client.post("/store/workflow", elsewhere).status == 201
    assert len(client.get("/query/records").json["items"]) == 2
