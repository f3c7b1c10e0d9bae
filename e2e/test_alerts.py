"""Each alert fires for real: a Prometheus reads a running operator, and something is broken and repaired."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from datastorage.resources.kinds import AUDIT_RECORD, GROUP
from e2e.alerting import KEYS, AlertWatch, key_of
from e2e.panels import empty_queries, flat_panels
from e2e.storing import Callers
from e2e.workbench import Workbench
from harness.apiclient import ApiClient
from harness.bulk import BulkClient
from harness.controlplane import Cluster
from harness.dashboard.answers import Span
from harness.embeddings import OpenAIService
from harness.installed import NAMESPACE
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.postgres import PostgresServer
from harness.prometheus.programs import Programs, ensure_prometheus
from harness.prometheus.receiver import Receiver
from harness.prometheus.servers import Alertmanager, Prometheus, Reading
from harness.rules.files import INSTALLED
from harness.rules.rendering import RUNBOOK, yaml_text
from harness.traffic import Traffic

# A day becomes 48 seconds. A window has eight readings at least, so that a busy machine leaves samples in it.
QUICK: Final = replace(INSTALLED, factor=1 / 1800, shortest_range=4, shortest_wait=1, share=0.2)
OFTEN: Final = Reading(scrape="500ms", evaluation="500ms")
GUARD: Final = f"validatingadmissionpolicybinding/definition-guard.{GROUP}"
LATE_SECONDS: Final = 10.0  # twice the objective: half of the records are late
_POISON: Final = """
    CREATE FUNCTION datastorage.no_poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no poison' USING ERRCODE = 'datetime_field_overflow'; END $$;
    CREATE TRIGGER no_poison BEFORE INSERT ON datastorage.audit_records
        FOR EACH ROW WHEN (NEW.action = 'poison') EXECUTE FUNCTION datastorage.no_poison();
"""


@pytest.fixture(scope="module")
def programs() -> Programs:
    return ensure_prometheus()


@asynccontextmanager
async def a_guard_is_missing(cluster: Cluster) -> AsyncIterator[None]:
    """The binding of a guard is deleted, so that its policy refuses nothing."""
    found = cluster.get(GUARD)
    found["metadata"] = {key: found["metadata"][key] for key in ("name", "labels")}
    cluster.kubectl("delete", GUARD)
    try:
        yield
    finally:
        cluster.kubectl("create", "-f", "-", input=json.dumps(found))


@asynccontextmanager
async def the_holder_is_held_up(bench: Workbench) -> AsyncIterator[None]:
    """Somebody holds the Lease who does nothing."""
    name = bench.lease_name()
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "holderIdentity": "held-up",
            "leaseDurationSeconds": 60,
            "renewTime": lease_time(),
        },
    }
    bench.cluster.kubectl("create", "-f", "-", input=json.dumps(lease))

    async def renew() -> None:  # on a busy machine, the alert may come later than the Lease ends
        command = ("patch", "lease", name, "-n", NAMESPACE, "--type=merge", "-p")
        while True:
            await asyncio.sleep(10)
            patch = json.dumps({"spec": {"renewTime": lease_time()}})
            await asyncio.to_thread(bench.cluster.kubectl, *command, patch)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        bench.cluster.kubectl("delete", "lease", name, "-n", NAMESPACE)


def lease_time() -> str:
    """Return the time now, as a Lease has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@asynccontextmanager
async def the_status_is_refused(bench: Workbench, traffic: Traffic) -> AsyncIterator[None]:
    """A policy of the cluster refuses the status of some records."""
    name = f"no-status.{bench.namespace}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [GROUP],
                        "apiVersions": ["*"],
                        "operations": ["UPDATE"],
                        "resources": ["auditrecords/status"],
                    }
                ]
            },
            "validations": [
                {"expression": "!object.metadata.name.startsWith('refused')", "message": "not this one"}
            ],
        },
    }
    binding = {
        "apiVersion": policy["apiVersion"],
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": bench.namespace}}
            },
        },
    }
    items = {"apiVersion": "v1", "kind": "List", "items": [policy, binding]}
    bench.cluster.kubectl("create", "-f", "-", input=json.dumps(items))
    try:
        # The API server reads its policies a moment later, and nothing shows when.
        async with traffic.often(partial(traffic.create, "refused"), 1):
            yield
    finally:
        bench.cluster.kubectl("delete", "-f", "-", input=json.dumps(items))


@asynccontextmanager
async def a_record_is_rejected(bench: Workbench, traffic: Traffic) -> AsyncIterator[None]:
    """PostgreSQL can't hold some records."""
    await bench.execute_as_owner(_POISON)
    async with traffic.often(partial(traffic.create, "rejected", action="poison"), 1):
        yield
    await bench.execute_as_owner("DROP TRIGGER no_poison ON datastorage.audit_records")


@asynccontextmanager
async def a_row_is_lost(bench: Workbench, client: BulkClient, traffic: Traffic) -> AsyncIterator[None]:
    """The rows of some records are gone when their objects are to be deleted."""

    async def lose() -> None:
        name = await traffic.create("lost", ttlSecondsAfterStored=3)

        async def stored() -> bool:
            body = await client.get(AUDIT_RECORD, bench.namespace, name)
            return body is None or "phase" in body.get("status", {})

        await until(stored, what=f"{name} is stored")
        await bench.execute_as_owner(f"DELETE FROM datastorage.audit_records WHERE name = '{name}'")

    async with traffic.often(lose, 1):
        yield


@asynccontextmanager
async def the_cache_is_cold(traffic: Traffic) -> AsyncIterator[None]:
    """Each record has another text."""
    usual, traffic.message = traffic.message, "event {n} of its kind"
    yield
    traffic.message = usual


@asynccontextmanager
async def the_tables_of_the_vectors_are_away(bench: Workbench) -> AsyncIterator[None]:
    await bench.execute_as_owner("ALTER TABLE datastorage.embeddings_1 RENAME TO taken_away")
    try:
        yield
    finally:
        await bench.execute_as_owner("ALTER TABLE datastorage.taken_away RENAME TO embeddings_1")


@asynccontextmanager
async def the_embedder_is_slow(embedder: OpenAIService) -> AsyncIterator[None]:
    embedder.delay_seconds = 0.3
    yield
    embedder.delay_seconds = 0.0


@asynccontextmanager
async def postgresql_is_stopped(postgres: PostgresServer) -> AsyncIterator[None]:
    await asyncio.to_thread(postgres.stop, "fast")
    try:
        yield
    finally:
        await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def records_wait(bench: Workbench, traffic: Traffic) -> AsyncIterator[None]:
    """No row is accepted for longer than the objective allows, again and again.

    Once would not be enough: the late records are in a window of 4 s only, which a busy machine may miss.
    """

    async def hold() -> None:
        async with bench.no_rows_accepted():
            await asyncio.sleep(LATE_SECONDS)  # how late records are is what is tested

    async with traffic.often(hold, 1):
        yield


@asynccontextmanager
async def watched(prometheus: Prometheus) -> AsyncIterator[AlertWatch]:
    """Look at the alerts of Prometheus in the background."""
    watch = AlertWatch(prometheus.client)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def check_metrics(programs: Programs, operator: OperatorProcess) -> str:
    """Return what promtool says against the metrics of a running operator."""
    command = [str(programs.promtool), "check", "metrics", "--lint=all"]
    done = subprocess.run(command, input=operator.metrics(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def pending_so_far(prometheus: Prometheus) -> set[str]:
    """Return the alerts that have waited for their time before they fired."""
    seen = prometheus.client.query(
        'count by (alertname, long, short) (count_over_time(ALERTS{alertstate="pending"}[1h]))'
    )
    return {key_of({"labels": each["metric"]}) for each in seen}


@dataclass(frozen=True)
class Stage:
    """Everything that can be broken, and the watch over the alerts."""

    bench: Workbench
    client: BulkClient
    postgres: PostgresServer
    embedder: OpenAIService
    prometheus: Prometheus
    watch: AlertWatch


async def nobody_stores(stage: Stage) -> OperatorProcess:
    """No operator runs; then one comes that holds no Lease, and misses a guard. Return it."""
    bench, watch = stage.bench, stage.watch
    async with watch.firing("DataStorageAbsent"):
        pass
    settings = stage.embedder.settings(LEASE_NAMESPACE=NAMESPACE, SWEEP_INTERVAL_SECONDS=5)
    async with (
        a_guard_is_missing(bench.cluster),
        the_holder_is_held_up(bench),
        watch.firing("DataStorageGuardNotInForce", "DataStorageShardWithoutHolder"),
    ):
        operator = await asyncio.to_thread(partial(bench.start_operator, **settings))
        stage.prometheus.read({operator.metrics_target: {"namespace": NAMESPACE}})
    await watch.ended("DataStorageAbsent", "DataStorageShardWithoutHolder")
    return operator


async def single_records_go_wrong(stage: Stage, traffic: Traffic) -> None:
    """All others are stored meanwhile, but without their vectors."""
    async with (
        a_record_is_rejected(stage.bench, traffic),
        a_row_is_lost(stage.bench, stage.client, traffic),
        the_status_is_refused(stage.bench, traffic),
        the_cache_is_cold(traffic),
        the_tables_of_the_vectors_are_away(stage.bench),
        stage.watch.firing(
            "DataStorageRecordRejected",
            "DataStorageUnconfirmedDeletion",
            "DataStorageStatusRefused",
            "DataStorageLowCacheHitRate",
            "DataStorageVectorDBDegraded",
            "DataStorageOutboxGrowing",
        ),
    ):
        pass


async def searches_are_slow(stage: Stage, traffic: Traffic) -> None:
    async with (
        the_embedder_is_slow(stage.embedder),
        traffic.searching(),
        stage.watch.firing("DataStorageSlowSemanticSearch"),
    ):
        pass


async def records_are_stored_late(stage: Stage, traffic: Traffic) -> None:
    async with (
        records_wait(stage.bench, traffic),
        stage.watch.firing("DataStorageStoredLateBudgetBurn"),
    ):
        pass


async def nothing_is_stored_or_read(stage: Stage) -> None:
    async with (
        postgresql_is_stopped(stage.postgres),
        stage.watch.firing(
            "DataStoragePostgreSQLFailure",
            "DataStorageArchivingStalled",
            "DataStorageUnstoredRecordTooOld",
            "DataStorageHighWriteErrorRate",
            "DataStorageHighQueryErrorRate",
            "DataStorageReadErrorBudgetBurn",
        ),
    ):
        pass


@pytest.mark.timeout(1200)
async def test_every_alert_fires_and_ends_after_the_repair(
    workbench: Workbench,
    client: BulkClient,
    postgres: PostgresServer,
    embedder: OpenAIService,
    programs: Programs,
    tmp_path: Path,
) -> None:
    """One operator, and one fault after the other."""
    callers = Callers(workbench.cluster, workbench.namespace)
    token = callers.token("both", "datastorage-writer", "datastorage-archive-reader")
    rules, folder = yaml_text({"groups": QUICK.groups()}), tmp_path / "prometheus"
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(Receiver())
        alertmanager = stack.enter_context(Alertmanager(programs.alertmanager, folder, receiver.url))
        made = Prometheus(programs.prometheus, folder, rules, OFTEN, alertmanager=alertmanager)
        prometheus, began = stack.enter_context(made), time.time()
        watch = await stack.enter_async_context(watched(prometheus))
        stage = Stage(workbench, client, postgres, embedder, prometheus, watch)
        operator = await nobody_stores(stage)
        assert check_metrics(programs, operator) == ""
        traffic = Traffic(workbench.namespace, client, ApiClient(operator.api_url, token))
        async with traffic.flowing():
            await single_records_go_wrong(stage, traffic)
            await searches_are_slow(stage, traffic)
            await records_are_stored_late(stage, traffic)
            await nothing_is_stored_or_read(stage)
            await watch.ended(*{alert.name for alert in KEYS.values()})
        assert watch.fired.keys() == KEYS.keys(), "there is a fault for every alert"
        # Prometheus notes nothing of its first evaluations, in which it restores what it knew before.
        waited = {key for key, alert in KEYS.items() if alert.lasting != "0s"} - {"DataStorageAbsent"}
        assert pending_so_far(prometheus) - {"DataStorageAbsent"} == waited
        await the_message_is_read(receiver)
        await the_dashboard_has_shown_it(prometheus, began)


async def the_dashboard_has_shown_it(prometheus: Prometheus, began: float) -> None:
    """Check that every query of every panel has an answer, and that no panel was at 0 all the time."""
    # Longer than Grafana would choose: a busy machine reads late, and a rate needs two readings.
    span = Span(began, time.time(), interval="15s")
    assert await empty_queries(prometheus.client, span) == []
    assert await flat_panels(prometheus.client, span) == []


async def the_message_is_read(receiver: Receiver) -> None:
    """Check what Alertmanager has sent about PostgreSQL, and that it has sent the end as well."""

    async def is_over() -> bool:
        return bool(receiver.about("DataStoragePostgreSQLFailure", "resolved"))

    await until(is_over, what="Alertmanager says that PostgreSQL serves again")
    said = receiver.about("DataStoragePostgreSQLFailure", "firing")
    message = next(each for each in said if each["labels"]["dependency"] == "postgres")
    assert message["labels"]["severity"] == "critical"
    assert message["labels"]["namespace"] == NAMESPACE
    assert message["annotations"] == {
        "summary": "PostgreSQL does not serve: postgres",
        "description": "A replica can't use postgres (postgres is the server, the others are its tables). "
        "Nothing is stored there until it serves again.",
        "runbook_url": f"{RUNBOOK}#datastoragepostgresqlfailure",
    }
