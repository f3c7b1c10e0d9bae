"""While PostgreSQL is away, records of requests become custom resources, if that is allowed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from datastorage.records.hashes import sha256
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import ACTION_TRACE, API_VERSION, AUDIT_RECORD, RECORDED_BY_ANNOTATION
from datastorage.resources.reading.requestobject import name_of
from e2e import replicas
from e2e.storing import SPEC, Callers, body
from e2e.workbench import Workbench
from harness.apiclient import Answer
from harness.apidocument import DocumentedClient
from harness.archive import rows
from harness.bulk import BulkClient
from harness.collector import Collector
from harness.manifests import action_trace, audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until, until_blocking
from harness.postgres import PostgresServer

COMPONENTS = Path(__file__).resolve().parents[1] / "manifests" / "components"
RIGHTS = COMPONENTS / "api-fallback" / "rbac.yaml"
STAMPS = COMPONENTS / "recorded-by"
KEY = {"Idempotency-Key": "wf-12/ex-1"}
OPERATOR = "system:serviceaccount:datastorage-system:datastorage"


class Bench:
    """An operator, a caller, and a PostgreSQL that a test stops."""

    def __init__(
        self, workbench: Workbench, cluster: BulkClient, postgres: PostgresServer, token: str
    ) -> None:
        self.workbench = workbench
        self.cluster = cluster
        self.postgres = postgres
        self.namespace = workbench.namespace
        self.token = token
        self._is_away = False

    def start(self, **settings: Any) -> OperatorProcess:
        """Start the operator with the option."""
        given = {"API_FALLBACK": "custom-resource", "SWEEP_INTERVAL_SECONDS": 5, **settings}
        self.operator = self.workbench.start_operator(**given)
        return self.operator

    def post(self, key: str | None = KEY["Idempotency-Key"], **metadata: Any) -> Answer:
        """Store a record under an Idempotency-Key."""
        client = DocumentedClient(self.operator.api_url, self.token)
        headers = {} if key is None else {"Idempotency-Key": key}
        return client.post("/store/workflow", body(self.namespace, **metadata), headers)

    async def stop_postgres(self) -> None:
        """Stop PostgreSQL, and wait until the operator has noticed."""
        self.postgres.stop("fast")
        self._is_away = True

        # Something to store: otherwise only the next look at the outbox of vectors, some seconds later, would
        # meet the broken connection. A trace is counted by no test here.
        trace = {**action_trace(""), "metadata": {"generateName": "notice-"}}
        await self.cluster.create(ACTION_TRACE, self.namespace, trace)

        async def noticed() -> bool:
            return self.operator.metric('datastorage_dependency_up{dependency="postgres"}') == 0

        await until(noticed, what="the operator knows that PostgreSQL is away")

    def start_postgres(self) -> None:
        """Start PostgreSQL if it was stopped."""
        if self._is_away:
            self.postgres.start()
            self._is_away = False

    async def accepted(self, key: str = KEY["Idempotency-Key"], **metadata: Any) -> dict[str, Any]:
        """Send a request that is answered with 202; return the object."""
        answer = self.post(key, **metadata)
        assert answer.status == 202, answer.content
        assert answer.json == {
            "kind": "AuditRecord", "namespace": self.namespace, "name": answer.json["name"], "stored": False,
        }  # fmt: skip
        found = await self.cluster.get(AUDIT_RECORD, self.namespace, answer.json["name"])
        assert found is not None
        return found

    async def objects(self) -> list[Any]:
        return await self.cluster.list(AUDIT_RECORD, self.namespace)

    async def rows(self) -> list[Any]:
        return await rows(self.workbench.database_url, self.namespace)

    async def stored(self, count: int = 1) -> list[Any]:
        """Wait until there are rows, and every object is stored or gone; return the rows."""

        async def is_stored() -> bool:
            for each in await self.objects():
                found = await self.cluster.get(AUDIT_RECORD, self.namespace, each["metadata"]["name"])
                if found is not None and found.get("status", {}).get("phase") not in {"Stored", "Degraded"}:
                    return False
            return len(await self.rows()) >= count

        await until(is_stored, what="all objects are stored")
        found = await self.rows()
        assert len(found) == count
        return found

    async def name_for(self, key: str) -> str:
        """Return the name of the object that stands for a request with this key."""
        shown = self.workbench.cluster.kubectl("get", "namespace", self.namespace, "-o", "json").stdout
        created_at = datetime.fromisoformat(json.loads(shown)["metadata"]["creationTimestamp"]).astimezone(
            UTC
        )
        return name_of(sha256(f"{rfc3339(created_at)} key:{key}".encode()))


@pytest.fixture
def rights(workbench: Workbench) -> Iterator[None]:
    """Give the operator the rights of the component, for one test."""
    workbench.cluster.kubectl("apply", "-f", str(RIGHTS))
    yield
    workbench.cluster.kubectl("delete", "-f", str(RIGHTS))


@pytest.fixture
def stamps(mutating_policies: None, workbench: Workbench) -> Iterator[None]:
    """Let the API server note who writes objects, for one test."""
    del mutating_policies  # otherwise the test is skipped
    cluster, files = workbench.cluster, [str(STAMPS / name) for name in ("rbac.yaml", "policy.yaml")]
    cluster.kubectl("apply", *(f"--filename={file}" for file in files))
    try:
        record = json.dumps(audit_record("tried"))

        def stamped() -> bool:
            command = ("create", "-n", workbench.namespace, "--dry-run=server", "-o", "json", "-f", "-")
            return RECORDED_BY_ANNOTATION in cluster.kubectl(*command, input=record).stdout

        until_blocking(stamped, what="the policy is in force")
        yield
    finally:
        cluster.kubectl("delete", *(f"--filename={file}" for file in files))


@pytest_asyncio.fixture
async def bench(workbench: Workbench, client: BulkClient, postgres: PostgresServer) -> AsyncIterator[Bench]:
    callers = Callers(workbench.cluster, workbench.namespace)
    token = callers.token("both", "datastorage-writer", "datastorage-archive-reader")
    made = Bench(workbench, client, postgres, token)
    yield made
    made.start_postgres()
    callers.close()


@pytest.mark.usefixtures("rights")
async def test_a_request_becomes_an_object_and_one_row(bench: Bench) -> None:
    bench.start()
    await bench.stop_postgres()
    made = await bench.accepted(labels={"app": "cart"}, annotations={"note": "kept"})
    assert made["metadata"]["name"] == await bench.name_for(KEY["Idempotency-Key"])
    assert made["spec"] == {**SPEC, "type": "Workflow"}
    assert made["metadata"]["labels"] == {"app": "cart"}
    assert made["metadata"]["annotations"]["note"] == "kept"
    again = await bench.accepted(labels={"app": "cart"}, annotations={"note": "kept"})
    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    assert len(await bench.objects()) == 1
    other = bench.post(labels={"app": "another"}, annotations={"note": "kept"})
    assert (other.status, other.json["code"]) == (422, "identifier-reused"), other.content
    client = DocumentedClient(bench.operator.api_url, bench.token)
    other_type = client.post("/store/execution", body(bench.namespace), KEY)
    assert (other_type.status, other_type.json["code"]) == (422, "identifier-reused"), other_type.content
    bench.start_postgres()
    [row] = await bench.stored()
    assert (str(row["uid"]), row["via"]) == (made["metadata"]["uid"], "cluster")
    answer = bench.post(labels={"app": "cart"}, annotations={"note": "kept"})
    assert answer.status == 200, answer.content
    assert (answer.json["uid"], answer.json["via"]) == (made["metadata"]["uid"], "cluster")
    assert answer.json["recordedBy"] is None
    assert bench.post(labels={"app": "another"}).status == 422
    assert len(await bench.rows()) == 1
    account = f"system:serviceaccount:{bench.namespace}:both"
    named = [line for line in bench.operator.log().splitlines() if made["metadata"]["name"] in line]
    assert any(account in line for line in named), "the log says who has sent it"
    assert bench.operator.metric('datastorage_api_fallback_total{outcome="created"}') == 1
    assert bench.operator.metric('datastorage_api_fallback_total{outcome="repeated"}') == 1


@pytest.mark.usefixtures("rights", "stamps")
async def test_the_stamp_of_the_api_server_changes_no_request(bench: Bench) -> None:
    bench.start(RECORDED_BY_POLICY="true")
    await bench.stop_postgres()
    made = await bench.accepted()
    assert made["metadata"]["annotations"] == {RECORDED_BY_ANNOTATION: OPERATOR}
    await bench.accepted()
    bench.start_postgres()
    [row] = await bench.stored()
    # A policy that is only seconds old counts for nothing yet.
    assert row["recorded_by"] in {None, OPERATOR}
    answer = bench.post()
    assert (answer.status, answer.json["uid"]) == (200, made["metadata"]["uid"])


@pytest.mark.usefixtures("rights")
async def test_what_is_acknowledged_survives_a_crash(bench: Bench) -> None:
    operator = bench.start()
    await bench.stop_postgres()
    made = await bench.accepted()
    operator.kill()
    bench.start_postgres()
    operator.start()
    operator.wait_ready()
    [row] = await bench.stored()
    assert str(row["uid"]) == made["metadata"]["uid"]
    assert bench.post().json["uid"] == made["metadata"]["uid"]
    assert len(await bench.rows()) == 1


@pytest.mark.usefixtures("rights")
async def test_a_request_whose_outcome_is_unknown_and_its_repeat_are_one_record(bench: Bench) -> None:
    """The first waits in memory for its commit; the second becomes an object; both are stored at once."""
    bench.start()
    # The connection that holds the lock ends with the server, and may know that already when it is closed.
    with suppress(asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
        async with bench.workbench.no_rows_accepted():
            first = bench.post()
            assert (first.status, first.json["code"]) == (503, "unavailable"), first.content
            assert "not known" in first.json["detail"]
            await bench.stop_postgres()
    made = await bench.accepted()
    bench.start_postgres()
    [row] = await bench.stored()
    answer = bench.post()
    assert (answer.status, answer.json["uid"]) == (200, str(row["uid"]))
    assert answer.json["via"] == ("cluster" if answer.json["uid"] == made["metadata"]["uid"] else "api")


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize("restarts", [False, True])
async def test_an_object_whose_request_was_stored_before_it_leaves_the_cluster(
    bench: Bench, *, restarts: bool
) -> None:
    operator = bench.start()
    await bench.stop_postgres()
    made = await bench.accepted()
    if restarts:
        operator.kill()
    else:
        operator.pause()  # so that the object is not stored before the request is repeated
    bench.start_postgres()
    other = bench.workbench.start_operator(NAMESPACES="default")
    client = DocumentedClient(other.api_url, bench.token)
    stored = client.post("/store/workflow", body(bench.namespace), KEY)
    assert stored.status == 201, stored.content
    if restarts:
        operator.start()
        operator.wait_ready()
    else:
        operator.resume()

    async def gone() -> bool:
        return not await bench.objects()

    await until(gone, what="the object is deleted")
    [row] = await bench.rows()
    assert str(row["uid"]) == stored.json["uid"] != made["metadata"]["uid"]
    assert bench.post().json["uid"] == stored.json["uid"]


@pytest.mark.usefixtures("rights")
async def test_an_object_made_by_hand_gains_nothing(bench: Bench) -> None:
    """One with another content takes the identifier as a request would, and one that comes later is kept."""
    bench.start()
    name = await bench.name_for("early")
    forged: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "AuditRecord",
        "metadata": {"name": name},
        "spec": {**SPEC, "type": "Workflow", "phase": "Failed"},
    }
    await bench.cluster.create(AUDIT_RECORD, bench.namespace, forged)
    await bench.stored()
    refused = bench.post("early")
    assert (refused.status, refused.json["code"]) == (422, "identifier-reused"), refused.content
    assert bench.post("late").status == 201
    late = {**forged, "metadata": {"name": await bench.name_for("late")}}
    await bench.cluster.create(AUDIT_RECORD, bench.namespace, late)
    assert len(await bench.stored(3)) == 3, "both acknowledged contents of the identifier are kept"
    assert bench.post("late").status == 200


@pytest.mark.usefixtures("rights")
async def test_the_trace_of_a_request_leads_to_that_of_its_object(bench: Bench) -> None:
    with Collector() as collector:
        bench.start(
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        )
        await bench.stop_postgres()
        uid = (await bench.accepted())["metadata"]["uid"]
        bench.start_postgres()
        await bench.stored()

        async def is_linked() -> bool:
            created = [span for span in collector.spans if span.name == "create object"]
            stored = {
                (span.trace_id, span.span_id) for span in collector.spans if span.name.startswith("store ")
            }
            return any(
                span.attributes["datastorage.record.uid"] == uid and stored & {*span.links}
                for span in created
            )

        await until(is_linked, what="a span of the request leads to the stored record")


@pytest.mark.usefixtures("rights")
async def test_only_what_an_object_can_stand_for_becomes_one(bench: Bench) -> None:
    bench.start(API_FALLBACK_MAX=1)
    await bench.stop_postgres()
    held = {"datastorage.kubernaut.io/legal-hold": "true"}
    for answer in (
        bench.post(None),
        bench.post(uid="5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41"),
        bench.post(name="mine"),
        bench.post(labels=held),
        bench.post(
            ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b"}],
        ),
    ):
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.content
        assert "Idempotency-Key" in answer.json["detail"]
        assert int(answer.headers["retry-after"]) > 0
    client = DocumentedClient(bench.operator.api_url, bench.token)
    for path in ("/store/workflow", "/store/workflow?atomic=true"):
        batch = client.post(path, [body(bench.namespace)])
        assert (batch.status, batch.json["code"]) == (503, "unavailable"), batch.content
        assert "Idempotency-Key" in batch.json["detail"]
    stamped = bench.post("x", annotations={"datastorage.kubernaut.io/recorded-by": "somebody"})
    assert stamped.status == 503, stamped.content
    assert await bench.objects() == []
    await bench.accepted()
    full = bench.post("another")
    assert (full.status, full.json["code"]) == (503, "overloaded"), full.content
    assert "DATASTORAGE_API_FALLBACK_MAX" in full.json["detail"]
    await bench.accepted()
    bench.start_postgres()
    await bench.stored()
    await bench.stop_postgres()
    await bench.accepted("another")


@pytest.mark.usefixtures("rights")
async def test_a_replica_accepts_more_once_another_one_has_stored_its_objects(bench: Bench) -> None:
    given = {"API_FALLBACK": "custom-resource", "API_FALLBACK_MAX": 1, "SWEEP_INTERVAL_SECONDS": 5}
    operators = await asyncio.to_thread(replicas.start, bench.workbench, [None] * 2, **given)
    holder = await replicas.leader(operators)
    [bench.operator] = [each for each in operators if each is not holder]
    for count, key in enumerate(("first", "second"), 1):
        await bench.stop_postgres()
        await bench.accepted(key)
        bench.start_postgres()
        await bench.stored(count)


async def test_without_the_option_nothing_becomes_an_object(bench: Bench) -> None:
    bench.start(API_FALLBACK="none")
    await bench.stop_postgres()
    answer = bench.post()
    assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.content
    assert await bench.objects() == []


async def test_a_missing_right_is_named(bench: Bench) -> None:
    bench.start()
    await bench.stop_postgres()
    answer = bench.post()
    assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.content
    assert "manifests/components/api-fallback" in answer.json["detail"]
    assert "PostgreSQL" in answer.json["detail"]
    assert await bench.objects() == []
    bench.start_postgres()

    async def stored() -> bool:
        return bench.post().status in {200, 201}

    await until(stored, what="the request is stored in the usual way")
