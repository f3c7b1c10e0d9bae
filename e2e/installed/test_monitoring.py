"""A Prometheus in the cluster reads every replica through the NetworkPolicies, and has the shipped rules."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.granting import granted
from e2e.installed.installation import Installation
from e2e.installed.nodes import Nodes
from e2e.installed.prometheuspod import RULES_FILE, PrometheusPod
from e2e.installed.scraping import RIGHTS, configuration, scrapes_of
from harness import REPOSITORY
from harness.docker import Docker
from harness.installed import NAMESPACE
from harness.polling import until
from harness.prometheus.client import PrometheusClient
from harness.prometheus.image import ensure_image

_MANIFESTS: Final = REPOSITORY / "manifests"
MONITOR: Final = _MANIFESTS / "components" / "servicemonitor" / "servicemonitor.yaml"
RULES: Final = _MANIFESTS / "monitoring" / "plain" / "rules.yaml"
_PAGE: Final = (REPOSITORY / "docs" / "operations" / "monitoring.md").read_text()
BY_MONITOR: Final = scrapes_of(yaml.safe_load(MONITOR.read_text()))
BY_HAND: Final = [
    each
    for block in re.findall(r"^```yaml\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)
    for each in yaml.safe_load(block).get("scrape_configs", ())
    if "kubernetes_sd_configs" in each
]
"""What the page shows for a Prometheus in the cluster without the Prometheus Operator."""
LABEL: Final = "datastorage.kubernaut.io/metrics-client=true"
# Only a ServiceMonitor gives the label "endpoint": so each count is taken once.
WRITTEN: Final = 'datastorage_write_total{endpoint="metrics",table="audit_records",status="success"}'


@pytest.fixture
def prometheus(
    installation: Installation, nodes: Nodes, make_namespace: Callable[[str], str]
) -> Iterator[PrometheusPod]:
    """Provide a Prometheus with the shipped rules, in a namespace that nobody has labelled.

    It finds the replicas in two ways: by the shipped ServiceMonitor, and as the page shows it.
    """
    node, image = nodes.control_plane(), ensure_image(Docker())
    nodes.load(image, node)
    namespace = make_namespace(f"monitoring-{secrets.token_hex(4)}")
    pod = PrometheusPod(installation.cluster, namespace, image=image, node=node)
    with granted(installation.cluster, namespace, pod.account, RIGHTS):
        pod.start(configuration([*BY_MONITOR, *BY_HAND], RULES_FILE), RULES.read_text())
        yield pod


async def test_prometheus_reads_every_replica_through_the_policies(
    installation: Installation,
    counting: Counting,
    prometheus: PrometheusPod,
    policies: Path,
    say: Say,
) -> None:
    """Without the label on its namespace it finds the replicas and reaches none, and the alert says so."""
    kubectl = installation.cluster.kubectl
    replicas = {each.name for each in await installation.ready_pods()}
    installation.cluster.apply(policies)
    with prometheus.client() as client:
        refused = await until(
            _all(client, "down", replicas), seconds=SETTLE_SECONDS, what="no replica can be read"
        )
        await until(_absent(client, "pending"), seconds=SETTLE_SECONDS, what="the alert sees no replica")
        kubectl("label", "namespace", prometheus.namespace, LABEL)
        await until(_all(client, "up", replicas), seconds=SETTLE_SECONDS, what="every replica is read")
        await until(_absent(client, None), seconds=SETTLE_SECONDS, what="the alert sees a replica again")
        await until(_evaluated(client), seconds=SETTLE_SECONDS, what="every rule has been evaluated")
        before = await _written(client, replicas)
        async with counting.load() as counted:
            pass
        stored = len(counted.load.accepted)

        async def all_counted() -> bool:
            return await _written(client, replicas) >= before + stored

        await until(all_counted, seconds=SETTLE_SECONDS, what="Prometheus has read the newest counts")
        assert await _written(client, replicas) == before + stored
    say(f"Prometheus without the label: {refused[0]['lastError']}; with it: {counted}, and counted as many")


def _all(
    client: PrometheusClient, health: str, replicas: set[str]
) -> Callable[[], Awaitable[list[dict[str, Any]] | None]]:
    """Return a condition: in both ways the replicas are found, all with this health; it returns them."""
    wanted = [(each["job_name"], name, health) for each in (*BY_MONITOR, *BY_HAND) for name in replicas]

    async def look() -> list[dict[str, Any]] | None:
        targets = await asyncio.to_thread(client.targets)
        labels = {(each["labels"]["job"], each["labels"]["namespace"]) for each in targets}
        assert labels <= {("datastorage", NAMESPACE)}, "the rules name this job, and go by the namespace"
        found = [(each["scrapePool"], each["labels"]["pod"], each["health"]) for each in targets]
        return targets if sorted(found) == sorted(wanted) else None

    return look


def _absent(client: PrometheusClient, state: str | None) -> Callable[[], Awaitable[bool]]:
    """Return a condition: the alert about absent replicas has this state; None: it is not active."""

    async def holds() -> bool:
        alerts = await asyncio.to_thread(client.alerts)
        states = [each["state"] for each in alerts if each["labels"]["alertname"] == "DataStorageAbsent"]
        return states == ([] if state is None else [state])

    return holds


def _evaluated(client: PrometheusClient) -> Callable[[], Awaitable[bool]]:
    """Return a condition: Prometheus has the rules of the file, and no evaluation has failed."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    names = sorted(rule.get("alert") or rule["record"] for group in groups for rule in group["rules"])

    async def holds() -> bool:
        rules = await asyncio.to_thread(client.rules)
        assert sorted(rule["name"] for rule in rules) == names
        return all(rule["health"] == "ok" for rule in rules)

    return holds


async def _written(client: PrometheusClient, replicas: set[str]) -> int:
    """Return how many records the replicas together have written, as Prometheus knows it."""
    samples = await asyncio.to_thread(client.query, WRITTEN)
    assert {each["metric"]["pod"] for each in samples} == replicas
    return sum(int(each["value"][1]) for each in samples)
