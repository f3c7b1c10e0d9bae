"""The components and overlays of the manifests fit the base that they are added to."""

from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFESTS = REPOSITORY / "manifests"
COMPONENTS = MANIFESTS / "components"
OVERLAYS = MANIFESTS / "overlays"
NAMESPACED = OVERLAYS / "namespaced"
SYSTEM = "datastorage-system"
PODS = {"app.kubernetes.io/name": "datastorage"}

Object = dict[str, Any]


def load(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def only(kind: str, *, file: Path) -> Object:
    (found,) = [document for document in load(file) if document["kind"] == kind]
    return found


def kustomization(folder: Path) -> Object:
    (found,) = load(folder / "kustomization.yaml")
    return found


def policies(*folders: Path) -> dict[str, Object]:
    files = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    found = [document for file in files for document in load(file)]
    return {
        policy["metadata"]["name"]: policy["spec"] for policy in found if policy["kind"] == "NetworkPolicy"
    }


def operator_ports() -> set[str]:
    deployment = only("Deployment", file=MANIFESTS / "base" / "deployment.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {port["name"] for port in container["ports"]}


@pytest.mark.parametrize(
    "folder",
    [path.parent for path in sorted(MANIFESTS.rglob("kustomization.yaml"))],
    ids=lambda folder: str(folder.relative_to(MANIFESTS)),
)
def test_a_kustomization_names_every_file_of_its_folder(folder: Path) -> None:
    named = {name for name in kustomization(folder).get("resources", []) if name.endswith(".yaml")}
    there = {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert named == there


def test_every_component_and_overlay_is_in_the_guide() -> None:
    guide = (REPOSITORY / "docs" / "guide" / "install.md").read_text()
    folders = [path.parent for path in sorted(MANIFESTS.glob("*/**/kustomization.yaml"))]
    for folder in folders:
        if folder.parent != NAMESPACED and folder.name != "base":
            assert f"`{folder.relative_to(MANIFESTS)}`" in guide


def test_the_network_policies_deny_by_default_and_are_about_the_operator() -> None:
    found = policies(COMPONENTS / "networkpolicy", COMPONENTS / "networkpolicy" / "embedder")
    deny = found.pop("default-deny")
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in found.items():
        assert spec["podSelector"] == {"matchLabels": PODS}
        [direction] = spec["policyTypes"]
        assert name.startswith("datastorage-from-" if direction == "Ingress" else "datastorage-to-")
        # An empty list, or a rule without one, would allow everything.
        [rule] = spec[direction.lower()]
        assert rule["from" if direction == "Ingress" else "to"]
        assert rule["ports"]


def test_the_network_policies_open_each_port_to_its_own_clients() -> None:
    spec = policies(COMPONENTS / "networkpolicy")
    opened = {}
    for port in operator_ports():
        [rule] = [
            rule
            for each in spec.values()
            for rule in each.get("ingress", [])
            if [one["port"] for one in rule["ports"]] == [port]
        ]
        [peer] = rule["from"]
        opened[port] = peer["namespaceSelector"]["matchLabels"]
    assert opened == {
        "http": {"datastorage.kubernaut.io/api-client": "true"},
        "metrics": {"datastorage.kubernaut.io/metrics-client": "true"},
    }


def test_only_the_operator_reaches_the_servers_of_the_development_overlay() -> None:
    found = policies(OVERLAYS / "development" / "networkpolicy")
    for server in ("postgres", "redis"):
        deployment = only("Deployment", file=OVERLAYS / "development" / f"{server}.yaml")["spec"]
        spec = found.pop(f"{server}-from-datastorage")
        assert spec["podSelector"] == deployment["selector"]
        [rule] = spec["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": PODS}}]
        (container,) = deployment["template"]["spec"]["containers"]
        assert {port["port"] for port in rule["ports"]} == {port["name"] for port in container["ports"]}
    assert found == {}


def test_the_service_monitor_reads_the_port_of_the_metrics() -> None:
    monitor = only("ServiceMonitor", file=COMPONENTS / "servicemonitor" / "servicemonitor.yaml")
    service = only("Service", file=MANIFESTS / "base" / "service.yaml")
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_rules_are_about_the_series_that_the_service_monitor_makes() -> None:
    service = only("Service", file=MANIFESTS / "base" / "service.yaml")
    rule = only("PrometheusRule", file=MANIFESTS / "monitoring" / "prometheusrule.yaml")
    metadata = service["metadata"]
    assert rule["metadata"]["namespace"] == metadata["namespace"]
    own = f'namespace="{metadata["namespace"]}",job="{metadata["name"]}"'
    [absent] = [
        each["expr"]
        for group in rule["spec"]["groups"]
        for each in group["rules"]
        if each.get("alert") == "DataStorageAbsent"
    ]
    assert absent == f"absent(datastorage_build_info{{{own}}})"


def test_the_pods_get_the_priority_class_of_the_component() -> None:
    [patch] = kustomization(COMPONENTS / "priority-class")["patches"]
    given = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]["priorityClassName"]
    made = only("PriorityClass", file=COMPONENTS / "priority-class" / "priorityclass.yaml")
    assert given == made["metadata"]["name"]
    assert not made["globalDefault"]
    # Those of Kubernetes itself begin here.
    assert 0 < made["value"] < 1_000_000_000


def test_readers_get_the_roles_for_callers_and_no_other() -> None:
    bindings = load(COMPONENTS / "read-access" / "bindings.yaml")
    groups = {
        binding["roleRef"]["name"]: {subject["name"] for subject in binding["subjects"]}
        for binding in bindings
    }
    assert groups == {
        # An export needs both roles.
        "datastorage-archive-reader": {"datastorage-archive-readers", "datastorage-archive-exporters"},
        "datastorage-archive-exporter": {"datastorage-archive-exporters"},
    }
    assert {subject["kind"] for binding in bindings for subject in binding["subjects"]} == {"Group"}


def test_the_rights_in_one_namespace_are_those_of_the_cluster_role() -> None:
    role = only("Role", file=NAMESPACED / "rights" / "rbac.yaml")
    [cluster_role] = [
        document
        for document in load(MANIFESTS / "base" / "rbac.yaml")
        if (document["kind"], document["metadata"]["name"]) == ("ClusterRole", "datastorage")
    ]
    assert role["rules"] == cluster_role["rules"]
    assert "namespace" not in role["metadata"]
    binding = only("RoleBinding", file=NAMESPACED / "rights" / "rbac.yaml")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(each["name"], each["namespace"]) for each in binding["subjects"]] == [("datastorage", SYSTEM)]


def test_the_namespaces_with_rights_are_those_of_the_setting() -> None:
    found = kustomization(NAMESPACED)
    (config,) = found["configMapGenerator"]
    settings = dict(literal.split("=", 1) for literal in config["literals"])
    folders = [name for name in found["resources"] if not name.startswith("..")]
    named = [kustomization(NAMESPACED / folder)["namespace"] for folder in folders]
    assert named == settings["DATASTORAGE_NAMESPACES"].split(",")
    assert all(kustomization(NAMESPACED / folder)["resources"] == ["../rights"] for folder in folders)


def test_production_has_all_that_protects() -> None:
    found = set(kustomization(OVERLAYS / "production")["components"])
    names = {"tls", "networkpolicy", "servicemonitor", "priority-class", "guard-protection"}
    assert found == {*(f"../../components/{name}" for name in names), "../../monitoring"}
