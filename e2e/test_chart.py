"""The chart makes the same objects as kustomize, and refuses values that are wrong."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from datastorage.kube.admissionpolicies import policy_and_binding, spec_hash
from datastorage.kube.guards import SPECS
from datastorage.resources.kinds import GROUP
from datastorage.settings import load_settings, setting_fields, setting_names
from harness import REPOSITORY
from harness.chart.build import chart_files, write_folder
from harness.chart.sources import Sources
from harness.chart.values import MANAGED, chart_values, secret_settings
from harness.controlplane import Cluster
from harness.helm import Helm, HelmError
from harness.manifestlint.renderings import BASE, COMPONENTS, MANIFESTS, OVERLAYS, compose

SYSTEM = "datastorage-system"
# Labels that Helm's users expect, and that kustomize does not set.
HELM_LABELS = {
    "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version",
    "helm.sh/chart",
}  # fmt: skip
# kustomize changes the name of the ConfigMap with its content, so that a changed setting restarts the pods.
# The chart has an annotation for that. The other one keeps the guards when a release is uninstalled.
HELM_ANNOTATIONS = {"checksum/config", "helm.sh/resource-policy"}
CONFIG = re.compile(r"datastorage-config-[a-z0-9]{10}\b")

Object = dict[str, Any]
Objects = dict[tuple[str, str, str], Object]


def nested(paths: Mapping[str, Any]) -> Object:
    """Return values by their paths as a tree."""
    tree: Object = {}
    for path, value in paths.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def keyed(text: str) -> Objects:
    documents = [each for each in yaml.safe_load_all(CONFIG.sub("datastorage-config", text)) if each]
    found: Objects = {}
    for each in documents:
        metadata = each["metadata"]
        key = (each["kind"], metadata.get("namespace", ""), metadata["name"])
        assert key not in found, f"{key} is there twice"
        found[key] = plain(each)
    return found


def plain(document: Object) -> Object:
    """Return an object without what only Helm adds, and a Secret with its texts."""
    places = [document["metadata"]]
    if document["kind"] == "Deployment":
        places.append(document["spec"]["template"]["metadata"])
        pod = document["spec"]["template"]["spec"]
        # Lists by name, in which kustomize puts the items of a patch first.
        for holder, name in (
            (pod, "volumes"),
            (pod["containers"][0], "env"),
            (pod["containers"][0], "volumeMounts"),
        ):
            holder.get(name, []).sort(key=lambda item: str(item["name"]))
    for metadata in places:
        for name, added in (("labels", HELM_LABELS), ("annotations", HELM_ANNOTATIONS)):
            kept = {key: value for key, value in metadata.pop(name, {}).items() if key not in added}
            if kept:
                metadata[name] = kept
    if "data" in document and document["kind"] == "Secret":
        document["stringData"] = {
            key: base64.b64decode(value).decode() for key, value in document.pop("data").items()
        }
    return document


def templated(helm: Helm, chart: Path, values: Mapping[str, Any], *options: str) -> Objects:
    command = ("template", "datastorage", str(chart), "--namespace", SYSTEM, "--include-crds", *options)
    return keyed(helm(*command, values=values))


def kustomized(cluster: Cluster, folder: Path) -> Objects:
    return keyed(cluster.kubectl("kustomize", str(folder)).stdout)


# The values that do what a component does.
AS_COMPONENTS: dict[str, dict[str, Any]] = {
    "api-fallback": {"apiFallback.enabled": True},
    "guard-protection": {"guards.protected": True},
    "monitoring": {"prometheusRule.enabled": True},
    "monitoring/dashboard": {"prometheusRule.enabled": True, "grafanaDashboard.enabled": True},
    "networkpolicy": {"networkPolicy.enabled": True},
    "networkpolicy/embedder": {"networkPolicy.enabled": True, "networkPolicy.embedder.enabled": True},
    "priority-class": {"priorityClass.create": True},
    "read-access": {"readAccess.enabled": True},
    "recorded-by": {"recordedBy.enabled": True},
    "servicemonitor": {"serviceMonitor.enabled": True},
    "tls": {"tls.enabled": True},
    "tls/certificate": {
        "tls.enabled": True,
        "tls.certManager.enabled": True,
        "tls.certManager.issuerRef.name": "cluster-authority",
    },
}
# A component inside another one goes with that one.
NAMES = {path: str(path.relative_to(MANIFESTS)).removeprefix("components/") for path in COMPONENTS}
PRODUCTION = ("tls", "networkpolicy", "servicemonitor", "monitoring", "priority-class", "guard-protection")
KINDS_OF_OTHERS = {"ServiceMonitor", "PrometheusRule", "Certificate"}
URL = "postgresql://datastorage:development-service@postgres:5432/datastorage"
OWNER_URL = "postgresql://datastorage_owner:development-owner@postgres:5432/datastorage"
SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}}
AS_OVERLAYS: dict[str, dict[str, Any]] = {
    "production": {key: value for name in PRODUCTION for key, value in AS_COMPONENTS[name].items()},
    "tls": AS_COMPONENTS["tls"],
    "namespaced": {"namespaces": ["team-a", "team-b"]},
    "development": {
        "resources": SMALL,
        "database.create": True,
        "database.url": URL,
        "database.ownerUrl": OWNER_URL,
    },
}


def assert_alike(made: Objects, wanted: Objects) -> None:
    """Compare the objects of the chart with those of kustomize."""
    # Helm makes the namespace (--create-namespace).
    del wanted["Namespace", "", SYSTEM]
    denied = wanted.get(("NetworkPolicy", SYSTEM, "default-deny"))
    if denied is not None:
        # A release may share its namespace; the manifests have theirs alone.
        assert denied["spec"]["podSelector"] == {}
        denied["spec"]["podSelector"] = {"matchLabels": {"app.kubernetes.io/name": "datastorage"}}
    assert sorted(made) == sorted(wanted)
    for key, document in wanted.items():
        assert made[key] == document


def test_every_component_and_overlay_has_its_values() -> None:
    assert set(NAMES.values()) == set(AS_COMPONENTS)
    assert {path.name for path in OVERLAYS} == set(AS_OVERLAYS)


def test_the_defaults_are_the_base(control_plane: Cluster, helm: Helm, chart: Path) -> None:
    assert_alike(templated(helm, chart, {}), kustomized(control_plane, BASE))


@pytest.mark.parametrize("component", COMPONENTS, ids=NAMES.get)
def test_the_values_of_a_component(
    control_plane: Cluster, helm: Helm, chart: Path, component: Path, tmp_path: Path
) -> None:
    with_outer = [path for path in COMPONENTS if path == component or path in component.parents]
    folder = compose(tmp_path, BASE, with_outer)
    values = nested(AS_COMPONENTS[NAMES[component]])
    assert_alike(templated(helm, chart, values), kustomized(control_plane, folder))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_values_of_an_overlay(control_plane: Cluster, helm: Helm, chart: Path, overlay: Path) -> None:
    wanted = kustomized(control_plane, overlay)
    if overlay.name == "development":
        # The chart has no databases: their objects, and the Secret with the URL of this Redis.
        wanted = {key: value for key, value in wanted.items() if not re.match("postgres|redis", key[2])}
        del wanted["Secret", SYSTEM, "datastorage-vectors"]
        # A Secret that kustomize generates has no labels.
        names = {"app.kubernetes.io/name": "datastorage", "app.kubernetes.io/part-of": "kubernaut"}
        wanted["Secret", SYSTEM, "datastorage-database"]["metadata"]["labels"] = names
    made = templated(helm, chart, nested(AS_OVERLAYS[overlay.name]))
    assert_alike(made, wanted)


def test_the_operator_recognises_the_guards_of_a_release_in_any_namespace(helm: Helm, chart: Path) -> None:
    made = templated(helm, chart, {}, "--namespace", "team-archive")
    for guard, known in SPECS.items():
        both = policy_and_binding("Validating", f"{guard}.{GROUP}")
        found = (made[target.resource.kind, "", str(target.name)] for target in both)
        assert tuple(spec_hash(each, "team-archive") for each in found) == known, guard


def everything() -> Object:
    paths = {key: value for values in AS_COMPONENTS.values() for key, value in values.items()}
    return nested(
        paths
        | {
            "image.repository": "registry.example/datastorage",
            "image.tag": "1.2.3",
            "image.digest": f"sha256:{'0' * 64}",
            "image.pullPolicy": "Always",
            "imagePullSecrets": [{"name": "registry"}],
            "replicas": 5,
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "affinity": None,
            "topologySpreadConstraints": [],
            "priorityClass.name": "important",
            "podAnnotations": {"example.org/team": "sre"},
            "podLabels": {"team": "sre"},
            "commonLabels": {"cost-center": "42"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
            "extraVolumes": [{"name": "ca", "configMap": {"name": "authority"}}],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
            "serviceAccount.annotations": {"example.org/role": "archive"},
            "service.annotations": {"example.org/lb": "internal"},
            "database.secretName": "my-database",
            "vectors.secretName": "my-vectors",
            "serviceMonitor.labels": {"release": "prometheus"},
            "prometheusRule.labels": {"release": "prometheus"},
            "prometheusRule.selector": 'cluster="east"',
            "prometheusRule.runbookUrl": "https://wiki.example/runbook",
            "readAccess.readers": [
                {"kind": "ServiceAccount", "name": "report", "namespace": "reports"},
                {"kind": "User", "name": "ann@example.org"},
            ],
        }
    )


def test_the_api_server_accepts_every_value(control_plane: Cluster, helm: Helm, chart: Path) -> None:
    """Everything but the kinds of others, which the API server does not know."""
    made = templated(helm, chart, everything())
    known = [each for each in made.values() if each["kind"] not in KINDS_OF_OTHERS]
    done = control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict",
        "-o", "name", "-f", "-",
        input=yaml.safe_dump_all(known),
    )  # fmt: skip
    assert len(done.stdout.split()) == len(known)
    # A warning would be, for example, that the namespace's security level refuses the pod.
    assert done.stderr == ""


def test_what_users_change_is_in_its_place(helm: Helm, chart: Path) -> None:
    made = templated(helm, chart, everything())
    deployment = made["Deployment", SYSTEM, "datastorage"]
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 5
    assert deployment["metadata"]["labels"]["cost-center"] == "42"
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "sre"
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {"example.org/team": "sre"}
    for container in (pod["initContainers"][0], pod["containers"][0]):
        assert container["image"] == f"registry.example/datastorage:1.2.3@sha256:{'0' * 64}"
        assert container["imagePullPolicy"] == "Always"
        assert {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"} in container["env"]
        assert {"name": "ca", "mountPath": "/etc/ca"} in container["volumeMounts"]
    assert {"name": "ca", "configMap": {"name": "authority"}} in pod["volumes"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert pod["priorityClassName"] == "important"
    assert "affinity" not in pod
    assert "topologySpreadConstraints" not in pod
    secrets = re.findall(r"'name': '(my-\w+)'", str(pod["volumes"]))
    assert sorted(set(secrets)) == ["my-database", "my-vectors"]
    assert made["ServiceAccount", SYSTEM, "datastorage"]["metadata"]["annotations"] == {
        "example.org/role": "archive"
    }
    assert made["Service", SYSTEM, "datastorage"]["metadata"]["annotations"] == {"example.org/lb": "internal"}
    assert made["ServiceMonitor", SYSTEM, "datastorage"]["metadata"]["labels"]["release"] == "prometheus"
    rule = made["PrometheusRule", SYSTEM, "datastorage"]
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    rules = {each.get("alert"): each for group in rule["spec"]["groups"] for each in group["rules"]}
    absent = rules["DataStorageAbsent"]
    assert absent["expr"] == 'absent(datastorage_build_info{cluster="east"})'
    assert absent["annotations"]["runbook_url"] == "https://wiki.example/runbook#datastorageabsent"
    readers = made["ClusterRoleBinding", "", "datastorage-archive-readers"]["subjects"]
    assert readers[:2] == [
        {"kind": "ServiceAccount", "name": "report", "namespace": "reports"},
        {"kind": "User", "name": "ann@example.org", "apiGroup": "rbac.authorization.k8s.io"},
    ]


def test_every_value_is_used() -> None:
    files = chart_files()
    templates = "".join(text for name, text in files.items() if name.startswith("templates/"))
    used = set(re.findall(r"\.Values\.([\w.]+)", templates))
    for value in chart_values(Sources(REPOSITORY)):
        assert any(value.path == path or value.path.startswith(f"{path}.") for path in used), value.path


def extreme(name: str, schema: Mapping[str, Any]) -> Any:
    """Return a value that is easily written wrong, such as the largest number."""
    if "enum" in schema:
        return schema["enum"][-1]
    if schema["type"] in {"integer", "number"}:
        return schema.get("maximum", 33_554_432)
    return True if schema["type"] == "boolean" else {"DATASTORAGE_API_AUDIENCE": "0123"}.get(name, "no")


def test_every_setting_reaches_the_program_as_it_was_written(
    helm: Helm, chart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = json.loads(chart_files()["values.schema.json"])["properties"]["settings"]["properties"]
    assert set(schema) == set(setting_names())
    given = {
        name: extreme(name, each) for name, each in schema.items()
        if name not in MANAGED and name not in secret_settings()
    }  # fmt: skip
    made = templated(helm, chart, {"settings": given, "terminationGracePeriodSeconds": 900})
    data = made["ConfigMap", SYSTEM, "datastorage-config"]["data"]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    names = dict(zip(setting_names(), setting_fields(), strict=True))
    for name, value in given.items():
        group, field, _ = names[name]
        assert getattr(getattr(settings, group) if group else settings, field) == value, name


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replicsa": 2}, "replicsa"),
    ({"image": {"name": "x"}}, "name"),
    ({"replicas": "three"}, "replicas"),
    ({"image": {"digest": "sha256:abc"}}, "digest"),
    ({"settings": {"DATASTORAGE_LOG_LEVL": "INFO"}}, "DATASTORAGE_LOG_LEVL"),
    ({"settings": {"DATASTORAGE_LOG_LEVEL": "LOUD"}}, "DATASTORAGE_LOG_LEVEL"),
    ({"settings": {"DATASTORAGE_STATUS_CONCURRENCY": 0}}, "DATASTORAGE_STATUS_CONCURRENCY"),
    ({"settings": {"DATASTORAGE_DATABASE_URL": "postgresql://"}}, "is a secret, and a ConfigMap is not"),
    ({"settings": {"DATASTORAGE_NAMESPACES": "a"}}, "set namespaces instead"),
    ({"settings": {"DATASTORAGE_LEASE_NAMESPACE": "a"}}, "always the namespace of the release"),
    ({"namespaces": ["Team_A"]}, "namespaces"),
    ({"database": {"create": True}}, "database.create needs database.url and database.ownerUrl"),
    ({"database": {"url": "postgresql://"}}, "with database.create=true alone"),
    ({"tls": {"certManager": {"enabled": True}}}, "needs tls.enabled=true"),
    ({"tls": {"enabled": True, "certManager": {"enabled": True}}}, "needs tls.certManager.issuerRef.name"),
    ({"terminationGracePeriodSeconds": 45}, "it has to be at least 50"),
    ({"settings": {"DATASTORAGE_SHUTDOWN_SECONDS": 60}}, "it has to be at least 90"),
    ({"readAccess": {"enabled": True, "readers": [{"kind": "ServiceAccount", "name": "x"}]}},
     "the ServiceAccount x in readAccess needs its namespace"),
    ({"readAccess": {"readers": [{"kind": "Robot", "name": "x"}]}}, "readers"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_wrong_value_is_refused_by_name(
    helm: Helm, chart: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(HelmError, match=re.escape(message)):
        helm("template", "datastorage", str(chart), values=values)


def test_authors_need_a_kubernetes_that_notes_them(helm: Helm, chart: Path) -> None:
    values = nested(AS_COMPONENTS["recorded-by"])
    with pytest.raises(
        HelmError, match=re.escape("needs Kubernetes 1.36 or later, and this cluster has v1.35.4")
    ):
        helm("template", "x", str(chart), "--kube-version", "1.35.4", values=values)


def test_the_linter_of_helm_has_nothing_to_say(helm: Helm, tmp_path: Path) -> None:
    write_folder(tmp_path)
    for values in ({}, everything()):
        assert "0 chart(s) failed" in helm("lint", "--strict", str(tmp_path), values=values)


def test_the_chart_may_be_part_of_another(helm: Helm, tmp_path: Path) -> None:
    write_folder(tmp_path / "charts" / "archive")
    outer = {"apiVersion": "v2", "name": "outer", "version": "1.0.0"}
    (tmp_path / "Chart.yaml").write_text(json.dumps(outer))
    values = {"global": {"registry": "x"}, "kubernaut-datastorage": {"replicas": 2}}
    made = keyed(helm("template", "outer", str(tmp_path), values=values))
    assert made["Deployment", "default", "datastorage"]["spec"]["replicas"] == 2
