"""A caller with rights in one namespace learns nothing about records of another, whatever it asks."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import urlopen

import pytest

from datastorage.resources.kinds import ACTION_TRACE
from e2e.isolation import Attack, Attempt, Foreign
from e2e.storing import Callers
from e2e.workbench import MakeWorkbench, Workbench
from harness.apiclient import Answer, ApiClient
from harness.controlplane import Cluster
from harness.manifests import manifest
from harness.polling import DEADLINE_SECONDS, until_blocking

CANARY = f"canary{uuid.uuid4().hex}"  # in the other records, and in no request
TYPES = ("remediation", "aianalysis", "workflow", "execution")
WORDS = "quagga"  # in the other records alone, and in requests


@pytest.fixture
def callers(workbench: Workbench) -> Iterator[Callers]:
    made = Callers(workbench.cluster, workbench.namespace)
    yield made
    made.close()


def record(namespace: str, uid: str, *, mark: str, message: str) -> dict[str, Any]:
    """Return a record with values of its own in every field that questions ask for."""
    target = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "namespace": f"ns-{mark}",
        "name": f"target-{mark}",
    }
    spec = {
        "action": f"act-{mark}",
        "phase": "Failed",
        "correlationID": f"rr-{mark}",
        "message": message,
        "startTime": "2026-03-14T09:26:53Z",
        "resourceRef": {**target, "namespace": f"ns-{mark}"},
        "alertFingerprint": f"fp-{mark}",
        "severity": "critical",
        "environment": f"env-{mark}",
        "cluster": f"cluster-{mark}",
        "actor": {"kind": f"kind-{mark}", "name": f"actor-{mark}"},
    }
    return {"metadata": {"namespace": namespace, "uid": uid, "name": f"name-{mark}-{uid[:8]}"}, "spec": spec}


def trace(namespace: str) -> dict[str, Any]:
    """Return the manifest of an ActionTrace with the values that ``record`` has."""
    mark = namespace
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"target-{mark}"}
    spec = {
        "correlationID": f"rr-{mark}",
        "actionType": "ScaleDeployment",
        "targetRef": {**target, "namespace": f"ns-{mark}"},
        "parameters": {"note": f"{WORDS} {CANARY}"},
    }
    return manifest(ACTION_TRACE, spec, namespace=namespace, name=f"name-{mark}")


def foreign_values(mark: str, namespace: str) -> dict[str, Sequence[str]]:
    day, account = datetime.now(UTC), f"system:serviceaccount:{namespace}:admin"
    return {
        "correlationID": [f"rr-{mark}"],
        "correlationId": [f"rr-{mark}"],
        "actionType": ["ScaleDeployment", f"act-{mark}"],
        "action": [f"act-{mark}"],
        "phase": ["Failed", "Completed"],
        "severity": ["critical"],
        "environment": [f"env-{mark}"],
        "cluster": [f"cluster-{mark}"],
        "actorKind": [f"kind-{mark}"],
        "actorName": [f"actor-{mark}"],
        "recordedBy": [account],
        "targetKind": ["Deployment"],
        "targetNamespace": [f"ns-{mark}"],
        "targetName": [f"target-{mark}"],
        "alertFingerprint": [f"fp-{mark}"],
        "kind": ["AuditRecord", "ActionTrace"],
        "name": [f"name-{mark}"],
        "namespace": [namespace],
        "since": [(day - timedelta(days=1)).isoformat()],
        "until": [(day + timedelta(days=1)).isoformat()],
        "q": [WORDS, f'"{WORDS}"', f"rr-{mark}", f"what happened to target-{mark}?"],
    }


def sent(client: ApiClient, attempt: Attempt) -> Answer:
    """Send a request again while the caller has sent too many, or a question had no vector in time."""
    found: list[Answer] = []

    def answered() -> bool:
        headers = {} if attempt.body is None else {"Content-Type": "application/json"}
        content = None if attempt.body is None else json.dumps(attempt.body).encode()
        found[:] = [client.send(attempt.method, attempt.path, content, headers)]
        return found[0].status not in {429, 503} and not is_degraded(found[0])

    until_blocking(answered, what=f"{attempt} is answered")
    return found[0]


def is_degraded(answer: Answer) -> bool:
    """Return whether an answer is a search by words in place of one by meaning."""
    if answer.status != 200 or answer.headers["content-type"] != "application/json":
        return False
    return isinstance(answer.json, dict) and answer.json.get("degraded") is not None


@dataclass
class Neighbours:
    """An operator of two namespaces, a caller with all rights in one of them, and one with all rights."""

    cluster: Cluster
    reader: ApiClient
    admin: ApiClient
    namespace: str
    other: str
    uids: Sequence[str] = field(default_factory=lambda: [str(uuid.uuid4()) for _ in TYPES])

    @property
    def mark(self) -> str:
        return self.other

    def store_own(self) -> None:
        for kind in TYPES:
            own = record(self.namespace, str(uuid.uuid4()), mark="own", message="scaled the shop")
            assert self.reader.post(f"/store/{kind}", own).status == 201

    def store_theirs(self) -> None:
        for uid, kind in zip(self.uids, TYPES, strict=True):
            theirs = record(self.other, uid, mark=self.mark, message=f"{WORDS} {CANARY}")
            assert self.admin.post(f"/store/{kind}", theirs).status == 201

    def store_their_trace(self) -> str:
        """Create a trace in the other namespace; return its uid once it is stored."""
        made = self.cluster.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(trace(self.other)))
        uid: str = json.loads(made.stdout)["metadata"]["uid"]
        path = f"/query/actiontraces/{uid}"

        def stored() -> bool:
            return self.admin.get(path, namespace=self.other).status == 200

        until_blocking(stored, what="the trace is stored")
        return uid

    def attack(self, *, tokens: Sequence[str] = ()) -> Attack:
        """Return the attack that the document of the running operator describes."""
        with urlopen(f"{self.reader.url}/openapi.json", timeout=DEADLINE_SECONDS) as answer:
            document = json.load(answer)
        foreign = Foreign([*self.uids, str(uuid.uuid4())], foreign_values(self.mark, self.other), tokens)
        return Attack(document, foreign)


class NamingClient(ApiClient):
    """Gives all requests the same identifier, which problems repeat: equal answers are then equal bytes."""

    def send(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Send a request to a path below /api/v1."""
        return super().send(method, path, content, {"X-Request-Id": "same", **headers})


@pytest.fixture
async def neighbours(workbench: Workbench, make_workbench: MakeWorkbench, callers: Callers) -> Neighbours:
    other, namespace = (await make_workbench()).namespace, workbench.namespace
    operator = workbench.start_operator(NAMESPACES=f"{namespace},{other}")
    roles = ("datastorage-writer", "datastorage-archive-reader", "datastorage-archive-exporter")
    return Neighbours(
        workbench.cluster,
        NamingClient(operator.api_url, callers.token("reader", *roles)),
        NamingClient(operator.api_url, callers.token("admin", *roles, everywhere=True)),
        namespace,
        other,
    )


def test_every_answer_is_the_same_with_and_without_records_of_another_namespace(
    neighbours: Neighbours,
) -> None:
    neighbours.store_own()
    attack = neighbours.attack(tokens=("x",))
    attempts = list(attack.attempts(neighbours.namespace))
    assert attack.unknown == set(), "give these parameters values of another namespace (foreign_values)"
    assert len({each.path.partition("?")[0] for each in attempts}) > 10
    before = [sent(neighbours.reader, each) for each in attempts]
    assert any(answer.status == 200 for answer in before)
    neighbours.store_theirs()
    uid = neighbours.store_their_trace()
    for each, first in zip(attempts, before, strict=True):
        again = sent(neighbours.reader, each)
        assert CANARY.encode() not in again.content, str(each)
        assert (again.status, again.content) == (first.status, first.content), str(each)
        assert again.headers.keys() == first.headers.keys()
    # A trace of the other namespace is answered like one that is not there.
    absent = str(uuid.uuid4())
    for path in (f"/query/actiontraces/{uid}", f"/query/records/{uid}", f"/query/actiontraces/{uid}/history"):
        there = neighbours.reader.get(path, namespace=neighbours.namespace)
        nowhere = neighbours.reader.get(path.replace(uid, absent), namespace=neighbours.namespace)
        assert (there.status, there.content) == (404, nowhere.content.replace(absent.encode(), uid.encode()))
    # The same requests find the records where the caller has the right to.
    found = [sent(neighbours.admin, each) for each in attack.attempts(neighbours.other)]
    assert sum(CANARY.encode() in answer.content for answer in found) > 20


def test_without_a_namespace_of_its_own_a_caller_is_refused(neighbours: Neighbours) -> None:
    neighbours.store_theirs()
    for place in (None, neighbours.other, "kube-system", "", "*", neighbours.namespace.upper(), "a,b"):
        for each in neighbours.attack().attempts(place):
            if neighbours.namespace not in each.path and neighbours.namespace not in str(each.body):
                answer = sent(neighbours.reader, each)
                assert answer.status in {400, 403}, f"{each}: {answer.content!r}"
                assert CANARY.encode() not in answer.content


def test_no_page_token_of_another_caller_leads_to_its_records(neighbours: Neighbours) -> None:
    neighbours.store_own()
    neighbours.store_theirs()
    tokens: set[str] = set()
    for place in (None, neighbours.other):
        for each in neighbours.attack().attempts(place):
            answer = sent(neighbours.admin, each)
            body = json.loads(answer.content) if answer.headers["content-type"] == "application/json" else {}
            if isinstance(body, dict) and body.get("nextPageToken"):
                tokens.add(body["nextPageToken"])
    assert tokens
    with_token = 0
    for each in neighbours.attack(tokens=sorted(tokens)[:20]).attempts(neighbours.namespace):
        if "pageToken" in each.path:
            with_token += 1
            answer = sent(neighbours.reader, each)
            assert CANARY.encode() not in answer.content, str(each)
            assert answer.status == 400, str(each)
    assert with_token > 20


def test_the_identifier_of_a_foreign_record_is_free(neighbours: Neighbours) -> None:
    neighbours.store_theirs()
    for uid, kind in zip(neighbours.uids, TYPES, strict=True):
        own = record(neighbours.namespace, uid, mark="own", message="mine")
        answer = neighbours.reader.post(f"/store/{kind}", own)
        assert (answer.status, CANARY.encode() in answer.content) == (201, False)
        whole = neighbours.reader.post(f"/store/{kind}?atomic=true", [own])
        assert [item["status"] for item in whole.json["items"]] == [200]
    # Only a caller who may see both records learns that there are two, and names one.
    path = f"/query/records/{neighbours.uids[0]}"
    for each in (path, f"{path}/history"):
        unclear = neighbours.admin.get(each)
        assert (unclear.status, unclear.json["code"]) == (400, "ambiguous-uid")
        assert neighbours.namespace in unclear.json["detail"]
        assert neighbours.other in unclear.json["detail"]
    for namespace in (neighbours.namespace, neighbours.other):
        assert neighbours.admin.get(path, namespace=namespace).json["namespace"] == namespace
    mine = neighbours.reader.get(path, namespace=neighbours.namespace)
    assert (mine.status, mine.json["namespace"]) == (200, neighbours.namespace)
