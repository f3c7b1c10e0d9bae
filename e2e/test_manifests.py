"""A real API server accepts manifests/base as it is, and the operator has no right that it does not need."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from datastorage.kube.recordedbypolicy import SPECS, spec_hash
from datastorage.resources.kinds import GROUP, KINDS
from harness.controlplane import Cluster

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
BASE = MANIFESTS / "base"
OVERLAYS = sorted(path.parent for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
SYSTEM = "datastorage-system"
DRY_RUN = (
    "apply",
    "--server-side",
    "--force-conflicts",
    "--dry-run=server",
    "--validate=strict",
    "-o",
    "name",
)

Right = tuple[str, str]  # verb and resource.group, with /subresource

OBJECTS = [f"{kind.plural}.{GROUP}" for kind in KINDS]
RIGHTS: set[Right] = {
    *((verb, resource) for resource in OBJECTS for verb in ("get", "list", "watch", "delete")),
    *(("patch", f"{resource}/status") for resource in OBJECTS),
    ("create", "tokenreviews.authentication.k8s.io"),
    ("create", "subjectaccessreviews.authorization.k8s.io"),
    ("get", "namespaces"),
}
# In its own namespace it has these as well.
LEASE_RIGHTS: set[Right] = {(verb, "leases.coordination.k8s.io") for verb in ("get", "create", "update")}
# The test of the exact list covers these as well. They would do the most harm, and are asked for one by one.
DENIED: set[Right] = {
    *((verb, resource) for resource in OBJECTS for verb in ("create", "update", "patch", "deletecollection")),
    *((verb, f"{resource}/status") for resource in OBJECTS for verb in ("get", "update")),
    ("get", "secrets"),
    ("create", "pods"),
    ("create", "events"),
    ("list", "namespaces"),
    ("get", "leases.coordination.k8s.io"),
    ("list", "customresourcedefinitions.apiextensions.k8s.io"),
    ("patch", "validatingadmissionpolicies.admissionregistration.k8s.io"),
}


def rendered(cluster: Cluster, directory: Path) -> list[dict[str, Any]]:
    output = cluster.kubectl("kustomize", str(directory)).stdout
    return [document for document in yaml.safe_load_all(output) if document]


def millicores(container: dict[str, Any]) -> int:
    return int(container["resources"]["requests"]["cpu"].removesuffix("m"))


def may(cluster: Cluster, kubeconfig: Path, right: Right) -> bool:
    verb, resource = right
    name, _, subresource = resource.partition("/")
    question = ("auth", "can-i", verb, name, f"--subresource={subresource}", "--all-namespaces")
    return cluster.kubectl(*question, kubeconfig=kubeconfig, check=False).stdout.strip() == "yes"


def listed_rights(cluster: Cluster, kubeconfig: Path, namespace: str) -> set[Right]:
    """Return all rights of the user of `kubeconfig` to resources in a namespace or in the whole cluster."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = cluster.kubectl(
        "create", "--validate=false", "-f", "-", "-o", "json", input=json.dumps(review), kubeconfig=kubeconfig
    )
    rules = json.loads(answer.stdout)["status"]["resourceRules"]
    rights: set[Right] = set()
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                plural, slash, subresource = resource.partition("/")
                full = f"{plural}.{group}" if group else plural
                rights |= {(verb, full + slash + subresource) for verb in rule["verbs"]}
    return rights


@pytest.mark.parametrize("directory", [BASE, *OVERLAYS], ids=lambda path: path.name)
def test_the_api_server_accepts_everything(control_plane: Cluster, directory: Path) -> None:
    done = control_plane.kubectl(*DRY_RUN, "-k", str(directory))
    assert len(done.stdout.split()) == len(rendered(control_plane, directory))
    # A warning would be, for example, that the namespace's security level refuses the pod.
    assert done.stderr == ""


def base_with(component: str, directory: Path) -> Path:
    """Make an overlay of the base with one component; return its folder."""
    overlay = directory / "overlay"
    overlay.mkdir()
    kustomization = {
        "resources": [os.path.relpath(BASE, overlay)],
        "components": [os.path.relpath(MANIFESTS / "components" / component, overlay)],
    }
    (overlay / "kustomization.yaml").write_text(json.dumps(kustomization))
    return overlay


@pytest.mark.usefixtures("mutating_policies")
def test_the_component_goes_with_the_base(control_plane: Cluster, tmp_path: Path) -> None:
    """The settings of the base stay, and the API server accepts the policy."""
    overlay = base_with("recorded-by", tmp_path)

    def settings(directory: Path) -> dict[str, str]:
        [found] = [each["data"] for each in rendered(control_plane, directory) if each["kind"] == "ConfigMap"]
        return dict(found)

    assert settings(overlay) == settings(BASE) | {"DATASTORAGE_RECORDED_BY_POLICY": "true"}
    policies = {each["kind"]: spec_hash(each) for each in rendered(control_plane, overlay)}
    for target, known in SPECS.items():
        assert policies[target.resource.kind] == known, "the operator recognises it"
    done = control_plane.kubectl(*DRY_RUN, "-k", str(overlay))
    assert len(done.stdout.split()) == len(rendered(control_plane, BASE)) + 4
    assert done.stderr == ""


def test_the_component_of_the_fallback_goes_with_the_base(control_plane: Cluster, tmp_path: Path) -> None:
    overlay = base_with("api-fallback", tmp_path)
    found = rendered(control_plane, overlay)
    [settings] = [each["data"] for each in found if each["kind"] == "ConfigMap"]
    [base] = [each["data"] for each in rendered(control_plane, BASE) if each["kind"] == "ConfigMap"]
    assert settings == base | {"DATASTORAGE_API_FALLBACK": "custom-resource"}
    done = control_plane.kubectl(*DRY_RUN, "-k", str(overlay))
    assert len(done.stdout.split()) == len(rendered(control_plane, BASE)) + 2
    assert done.stderr == ""


def test_an_update_of_the_development_overlay_fits_on_a_small_node(control_plane: Cluster) -> None:
    """A kind node of two cores has about one left besides the components of Kubernetes."""
    requested = 0
    for document in rendered(control_plane, MANIFESTS / "overlays" / "development"):
        if document["kind"] == "Deployment":
            spec = document["spec"]
            extra = 1 if spec.get("strategy", {}).get("type") != "Recreate" else 0
            pods = max(3, spec["replicas"]) + extra if document["metadata"]["name"] == "datastorage" else 1
            pod = spec["template"]["spec"]
            each = [
                max(millicores(container) for container in pod.get("initContainers", pod["containers"])),
                sum(millicores(container) for container in pod["containers"]),
            ]
            requested += pods * max(each)
    assert 0 < requested <= 600


def test_the_api_server_accepts_the_secret_template(control_plane: Cluster) -> None:
    done = control_plane.kubectl(*DRY_RUN, "-f", str(BASE / "secret.example.yaml"))
    assert done.stdout.split() == ["secret/datastorage-database", "secret/datastorage-vectors"]


def test_the_operator_has_exactly_these_rights(
    control_plane: Cluster, operator_kubeconfig: Path, namespace: str
) -> None:
    control_plane.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    nobody = control_plane.service_account_kubeconfig(namespace, "nobody")
    common = listed_rights(control_plane, nobody, namespace)
    for place, rights in ((namespace, RIGHTS), (SYSTEM, RIGHTS | LEASE_RIGHTS)):
        assert listed_rights(control_plane, operator_kubeconfig, place) - common == rights


@pytest.mark.parametrize("right", sorted(RIGHTS), ids=" ".join)
def test_the_operator_may(control_plane: Cluster, operator_kubeconfig: Path, right: Right) -> None:
    assert may(control_plane, operator_kubeconfig, right)


@pytest.mark.parametrize("right", sorted(DENIED), ids=" ".join)
def test_the_operator_may_not(control_plane: Cluster, operator_kubeconfig: Path, right: Right) -> None:
    assert not may(control_plane, operator_kubeconfig, right)
