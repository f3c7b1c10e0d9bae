"""The manifests, whatever cluster they are applied to; e2e asks a real API server about them."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from datastorage import __version__
from datastorage.api.authorization import store_access
from datastorage.kube import guards
from datastorage.kube.admissionpolicies import SHIPPED_NAMESPACE, spec_hash
from datastorage.kube.guards import GUARDS
from datastorage.kube.recordedbypolicy import SPECS
from datastorage.resources.kinds import (
    ARCHIVE_GROUP,
    AUDIT_RECORD,
    GROUP,
    KINDS,
    RECORDED_BY_ANNOTATION,
    RECORDED_BY_POLICY,
    Phase,
)
from datastorage.runtime.run import Pace
from datastorage.settings import Settings, load_settings, setting_names

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = REPOSITORY / "manifests" / "base"
COMPONENT = REPOSITORY / "manifests" / "components" / "recorded-by"
FALLBACK = REPOSITORY / "manifests" / "components" / "api-fallback"
SECRETS_DIR = "/etc/datastorage/secrets"

Object = dict[str, Any]


def load(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def base_objects(kind: str) -> list[Object]:
    files = [file for file in sorted(BASE.glob("*.yaml")) if file.name != "kustomization.yaml"]
    return [document for file in files for document in load(file) if document["kind"] == kind]


def only(kind: str) -> Object:
    (found,) = base_objects(kind)
    return found


def pod_spec() -> Object:
    spec: Object = only("Deployment")["spec"]["template"]["spec"]
    return spec


def containers() -> list[Object]:
    return [*pod_spec()["initContainers"], *pod_spec()["containers"]]


def secret_sources(container: Object) -> list[Object]:
    """The Secrets of which a container sees keys as files in its secrets directory."""
    mounted = {mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == SECRETS_DIR}
    volumes = [volume["projected"] for volume in pod_spec()["volumes"] if volume["name"] in mounted]
    return [source["secret"] for volume in volumes for source in volume["sources"]]


def secret_keys(container: Object) -> set[str]:
    """The keys that it sees."""
    return {item["path"] for secret in secret_sources(container) for item in secret["items"]}


def policies() -> dict[str, Object]:
    return {
        policy["metadata"]["name"].removesuffix(f".{GROUP}"): policy["spec"]
        for policy in base_objects("ValidatingAdmissionPolicy")
    }


def test_base_lists_every_file_but_the_secret_template() -> None:
    (kustomization,) = load(BASE / "kustomization.yaml")
    listed = {name for name in kustomization["resources"] if name.endswith(".yaml")}
    assert listed == {file.name for file in BASE.glob("*.yaml")} - {
        "kustomization.yaml",
        "secret.example.yaml",
    }


def test_base_brings_every_generated_definition() -> None:
    (base,) = load(BASE / "kustomization.yaml")
    (crds,) = load(REPOSITORY / "crds" / "kustomization.yaml")
    assert "../../crds" in base["resources"]
    assert set(crds["resources"]) == {
        file.name for file in (REPOSITORY / "crds").glob("*.yaml") if file.name != "kustomization.yaml"
    }


def test_the_image_is_of_this_version() -> None:
    (kustomization,) = load(BASE / "kustomization.yaml")
    assert kustomization["images"] == [{"name": "kubernaut-datastorage", "newTag": __version__}]


def test_the_config_map_holds_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    (kustomization,) = load(BASE / "kustomization.yaml")
    (config,) = kustomization["configMapGenerator"]
    values = dict(literal.split("=", 1) for literal in config["literals"])
    assert values.pop("DATASTORAGE_SECRETS_DIR") == SECRETS_DIR
    assert set(values) <= set(setting_names())
    for name in os.environ:
        if name.startswith("DATASTORAGE_"):
            monkeypatch.delenv(name)
    defaults = load_settings()
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert load_settings().model_dump() == defaults.model_dump()


def test_the_pod_is_given_time_to_flush() -> None:
    (operator,) = pod_spec()["containers"]
    pause = operator["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = pause + Settings.model_fields["shutdown_seconds"].default + Pace().rest_seconds
    # Otherwise the kubelet kills the process before its own last resort can say what still ran.
    assert pod_spec()["terminationGracePeriodSeconds"] >= longest + 5


def test_an_update_and_a_drain_leave_all_but_one_replica() -> None:
    deployment, budget = only("Deployment")["spec"], only("PodDisruptionBudget")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert budget == {
        "maxUnavailable": 1,
        # Otherwise nothing could be drained while PostgreSQL is away.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": deployment["selector"],
    }


def test_the_replicas_of_one_release_spread_over_the_nodes() -> None:
    pods, constraints = only("Deployment")["spec"]["selector"], pod_spec()["topologySpreadConstraints"]
    assert {each["whenUnsatisfiable"]: each["maxSkew"] for each in constraints} == {
        "DoNotSchedule": 2, "ScheduleAnyway": 1,
    }  # fmt: skip
    for each in constraints:
        assert each["labelSelector"] == pods
        # A key that a node lacks would switch off the other constraints of its kind for this node.
        assert each["topologyKey"] == "kubernetes.io/hostname"
        assert each["nodeTaintsPolicy"] == "Honor"
        assert each["matchLabelKeys"] == ["pod-template-hash"]
    assert set(pod_spec()["affinity"]) == {"podAntiAffinity"}
    [(kind, [wish])] = pod_spec()["affinity"]["podAntiAffinity"].items()
    assert kind == "preferredDuringSchedulingIgnoredDuringExecution"
    assert wish["podAffinityTerm"]["labelSelector"] == pods


def test_every_selector_finds_the_pods() -> None:
    labels = only("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        only("Service")["spec"]["selector"],
        only("Deployment")["spec"]["selector"]["matchLabels"],
        only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_applying_the_base_cannot_overwrite_credentials() -> None:
    (kustomization,) = load(BASE / "kustomization.yaml")
    assert "secretGenerator" not in kustomization
    assert [file.name for file in BASE.glob("*.yaml") if "kind: Secret\n" in file.read_text()] == [
        "secret.example.yaml"
    ]


def test_only_the_migration_sees_the_owner_credentials() -> None:
    seen = {container["args"][0]: secret_keys(container) for container in containers()}
    assert seen == {
        "migrate": {"DATASTORAGE_DATABASE_OWNER_URL", "DATASTORAGE_VECTOR_DATABASE_OWNER_URL"},
        "run": {
            "DATASTORAGE_DATABASE_URL", "DATASTORAGE_REDIS_URL", "DATASTORAGE_EMBEDDING_API_KEY",
            "DATASTORAGE_VECTOR_DATABASE_URL", "DATASTORAGE_READ_DATABASE_URL",
        },
    }  # fmt: skip


def test_the_secret_templates_have_the_keys_that_are_mounted() -> None:
    mounted: dict[str, set[str]] = {}
    for container in containers():
        for secret in secret_sources(container):
            mounted.setdefault(secret["name"], set()).update(item["key"] for item in secret["items"])
    templates = {each["metadata"]["name"]: set(each["stringData"]) for each in base_objects("Secret")}
    assert templates == mounted


def test_only_the_secret_of_the_vectors_is_optional() -> None:
    optional = {
        secret["name"]: secret.get("optional", False)
        for container in containers()
        for secret in secret_sources(container)
    }
    assert optional == {"datastorage-database": False, "datastorage-vectors": True}


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_containers_are_confined(container: Object) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"] == "512Mi"


def test_no_pod_is_given_variables_of_services() -> None:
    pods = [
        document["spec"]["template"]["spec"]
        for file in sorted((REPOSITORY / "manifests").rglob("*.yaml"))
        for document in load(file)
        if document.get("kind") in {"Deployment", "StatefulSet", "DaemonSet", "Job"}
        and "template" in document["spec"]
    ]
    assert len(pods) >= 3
    assert [pod.get("enableServiceLinks") for pod in pods] == [False] * len(pods)


def test_the_pod_runs_as_the_user_of_the_image() -> None:
    context = pod_spec()["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    user = f"USER {context['runAsUser']}:{context['runAsGroup']}"
    assert user in (REPOSITORY / "Dockerfile").read_text().splitlines()


def test_service_ports_and_probes_reach_the_container() -> None:
    (operator,) = pod_spec()["containers"]
    ports = {port["name"]: port["containerPort"] for port in operator["ports"]}
    assert ports == {"http": 8080, "metrics": 9090}
    assert {port["targetPort"]: port["port"] for port in only("Service")["spec"]["ports"]} == ports
    probes = {name: operator[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/health", "port": "metrics"},
        "liveness": {"path": "/health", "port": "metrics"},
        "readiness": {"path": "/ready", "port": "metrics"},
    }


def test_the_component_of_tls_serves_what_cert_manager_makes() -> None:
    folder = REPOSITORY / "manifests" / "components" / "tls"
    (component,) = load(folder / "kustomization.yaml")
    deployment = yaml.safe_load(component["patches"][0]["patch"])
    spec = deployment["spec"]["template"]["spec"]
    (container,), (volume,) = spec["containers"], spec["volumes"]
    (mount,) = container["volumeMounts"]
    assert container["env"] == [{"name": "DATASTORAGE_TLS_DIR", "value": mount["mountPath"]}]
    assert "subPath" not in mount
    # The probes ask the port of the metrics, which speaks plain HTTP with and without TLS.
    (plain,) = pod_spec()["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert name not in container
        assert plain[name]["httpGet"]["port"] == "metrics"
        assert "scheme" not in plain[name]["httpGet"]
    (certificate,) = load(folder / "certificate" / "certificate.yaml")
    assert certificate["spec"]["secretName"] == volume["secret"]["secretName"]
    service = only("Service")["metadata"]
    assert f"{service['name']}.{service['namespace']}.svc" in certificate["spec"]["dnsNames"]
    assert certificate["metadata"]["namespace"] == service["namespace"]


def test_the_policies_exempt_the_account_that_the_operator_runs_under() -> None:
    account = only("ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    assert pod_spec()["serviceAccountName"] == account["name"]
    for name in ("deletion-guard", "status-guard"):
        conditions = [condition["expression"] for condition in policies()[name]["matchConditions"]]
        assert conditions == [f'request.userInfo.username != "{user}"']


def test_the_operator_may_look_at_every_guard() -> None:
    assert {f"{name}.{GROUP}" for name in GUARDS} == {f"{name}.{GROUP}" for name in policies()}
    [[rule]] = [
        role["rules"]
        for role in base_objects("ClusterRole")
        if role["metadata"]["name"] == "datastorage-guards"
    ]
    assert set(rule["resourceNames"]) == {f"{name}.{GROUP}" for name in GUARDS}
    assert rule["verbs"] == ["get"]


def test_the_guards_cover_every_kind() -> None:
    plurals = {kind.plural for kind in KINDS}
    (deletion,) = policies()["deletion-guard"]["matchConstraints"]["resourceRules"]
    (status,) = policies()["status-guard"]["matchConstraints"]["resourceRules"]
    assert set(deletion["resources"]) == plurals
    assert set(status["resources"]) == {f"{plural}/status" for plural in plurals}


def test_the_deletion_guard_names_phases_that_exist() -> None:
    validation, _ = policies()["deletion-guard"]["validations"]
    named = {phase for phase in Phase if f'"{phase.value}"' in validation["expression"]}
    assert named == {Phase.STORED, Phase.DEGRADED, Phase.REJECTED}


@pytest.mark.parametrize("policy", policies().values(), ids=list(policies()))
def test_a_policy_that_cannot_be_evaluated_refuses(policy: Object) -> None:
    assert policy["failurePolicy"] == "Fail"


def test_every_policy_is_bound_and_denies() -> None:
    bindings = {
        binding["spec"]["policyName"]: binding["spec"]
        for binding in base_objects("ValidatingAdmissionPolicyBinding")
    }
    assert set(bindings) == {f"{name}.{GROUP}" for name in policies()}
    assert all(binding["validationActions"] == ["Deny"] for binding in bindings.values())


def test_the_roles_of_callers_reach_nobody_by_themselves() -> None:
    roles = {role["metadata"]["name"]: role for role in base_objects("ClusterRole")}
    assert set(roles) == {
        "datastorage", "datastorage-namespace-ages", "datastorage-guards", "datastorage-writer",
        "datastorage-archive-reader", "datastorage-archive-exporter",
    }  # fmt: skip
    for role in roles.values():
        assert set(role["metadata"]["labels"]) == {"app.kubernetes.io/name"}, "no label aggregates it"
        assert "aggregationRule" not in role
    bound = {binding["roleRef"]["name"] for binding in base_objects("ClusterRoleBinding")}
    assert bound == {
        "datastorage", "datastorage-namespace-ages", "datastorage-guards", "system:auth-delegator",
    }  # fmt: skip
    assert {binding["roleRef"]["name"] for binding in base_objects("RoleBinding")} == {"datastorage-leases"}


def test_the_roles_of_callers_grant_what_the_api_asks_for() -> None:
    roles = {role["metadata"]["name"]: role["rules"] for role in base_objects("ClusterRole")}
    writer, (reader,), (exporter,) = (
        roles[f"datastorage-{name}"] for name in ("writer", "archive-reader", "archive-exporter")
    )
    access = store_access("payments")
    assert writer == [{"apiGroups": [access.group], "resources": [access.resource], "verbs": [access.verb]}]
    assert reader == {"apiGroups": [ARCHIVE_GROUP], "resources": ["records"], "verbs": ["get", "list"]}
    assert exporter == reader | {"verbs": ["export"]}


def test_everything_is_bound_to_the_account_that_the_operator_runs_under() -> None:
    account = only("ServiceAccount")["metadata"]
    subject = {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    assert [binding["subjects"] for binding in base_objects("ClusterRoleBinding")] == [[subject]] * 4
    assert [binding["subjects"] for binding in base_objects("RoleBinding")] == [[subject]]


def test_the_operator_recognises_the_guards() -> None:
    """After a change of a guard, the failure shows the new values for the operator."""
    policies, bindings = (
        {each["metadata"]["name"].removesuffix(f".{GROUP}"): spec_hash(each) for each in base_objects(kind)}
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    )
    assert {guard: (policies[guard], bindings[guard]) for guard in sorted(policies)} == guards.SPECS
    assert only("ServiceAccount")["metadata"]["namespace"] == SHIPPED_NAMESPACE


def test_the_operator_recognises_the_policy_of_the_component() -> None:
    found = {document["kind"]: document for document in load(COMPONENT / "policy.yaml")}
    assert {document["metadata"]["name"] for document in found.values()} == {RECORDED_BY_POLICY}
    assert {target.resource.kind: known for target, known in SPECS.items()} == {
        kind: spec_hash(document) for kind, document in found.items()
    }


def test_the_policy_stamps_every_kind_and_lets_nobody_out() -> None:
    policy, binding = (document["spec"] for document in load(COMPONENT / "policy.yaml"))
    constraints = policy["matchConstraints"]
    [rule] = constraints["resourceRules"]
    assert set(rule["resources"]) == {kind.plural for kind in KINDS}
    assert (rule["operations"], rule["scope"]) == (["CREATE", "UPDATE"], "Namespaced")
    assert constraints["namespaceSelector"] == constraints["objectSelector"] == {}
    assert policy["failurePolicy"] == "Fail"
    assert "matchConditions" not in policy
    assert binding == {"policyName": RECORDED_BY_POLICY}
    expressions = f"{policy['variables']}{policy['mutations']}"
    assert RECORDED_BY_ANNOTATION in expressions
    assert f"/metadata/annotations/{RECORDED_BY_ANNOTATION.replace('/', '~1')}" in expressions


def test_the_component_brings_the_setting_and_the_right_to_look() -> None:
    (component,) = load(COMPONENT / "kustomization.yaml")
    files = {file.name for file in COMPONENT.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(component["resources"]) == files
    (config,) = component["configMapGenerator"]
    assert config["literals"] == ["DATASTORAGE_RECORDED_BY_POLICY=true"]
    role, binding = load(COMPONENT / "rbac.yaml")
    [rule] = role["rules"]
    assert set(rule["resources"]) == {target.resource.plural for target in SPECS}
    assert (rule["resourceNames"], rule["verbs"]) == ([RECORDED_BY_POLICY], ["get"])
    account = only("ServiceAccount")["metadata"]
    assert [(each["namespace"], each["name"]) for each in binding["subjects"]] == [
        (account["namespace"], account["name"])
    ]


def test_the_component_of_the_fallback_brings_the_setting_and_the_right_to_create() -> None:
    (component,) = load(FALLBACK / "kustomization.yaml")
    assert component["resources"] == ["rbac.yaml"]
    (config,) = component["configMapGenerator"]
    assert config["literals"] == ["DATASTORAGE_API_FALLBACK=custom-resource"]
    role, binding = load(FALLBACK / "rbac.yaml")
    assert role["rules"] == [{"apiGroups": [GROUP], "resources": [AUDIT_RECORD.plural], "verbs": ["create"]}]
    account = only("ServiceAccount")["metadata"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(each["namespace"], each["name"]) for each in binding["subjects"]] == [
        (account["namespace"], account["name"])
    ]
