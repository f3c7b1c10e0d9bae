"""A real API server accepts manifests/base as it is, and the operator has no right that it does not need."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from datastorage.kube import guards
from datastorage.kube.admissionpolicies import policy_and_binding, spec_hash
from datastorage.kube.recordedbypolicy import SPECS
from datastorage.resources.kinds import GROUP
from e2e.rights import (
    CLUSTER_RIGHTS,
    LEASE_RIGHTS,
    OBJECT_RIGHTS,
    OBJECTS,
    Right,
    may,
    own_rights,
)
from harness.controlplane import Cluster
from harness.manifestlint.programs import foreign_definitions
from harness.manifestlint.renderings import BASE, COMPONENTS, DEVELOPMENT, MANIFESTS, OVERLAYS, compose

SYSTEM = "datastorage-system"
RIGHTS = OBJECT_RIGHTS | CLUSTER_RIGHTS
DRY_RUN = (
    "apply",
    "--server-side",
    "--force-conflicts",
    "--dry-run=server",
    "--validate=strict",
    "-o",
    "name",
)

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


@pytest.fixture(scope="module")
def foreign_kinds(control_plane: Cluster) -> Iterator[None]:
    """Let the API server know the kinds of cert-manager and of the Prometheus Operator."""
    made = [path for path in foreign_definitions() if not is_there(control_plane, path)]
    for path in made:
        control_plane.apply_product(path)
    yield
    for path in made:
        control_plane.kubectl("delete", "-f", str(path), "--wait=false")


def is_there(cluster: Cluster, definition: Path) -> bool:
    return cluster.kubectl("get", "-f", str(definition), check=False).returncode == 0


@pytest.fixture(scope="module")
def teams(control_plane: Cluster) -> Iterator[None]:
    """Make the namespaces of the overlay `namespaced`, once: one that is being deleted takes nothing."""
    names = ("team-a", "team-b")
    for name in names:
        control_plane.kubectl("create", "namespace", name)
    yield
    control_plane.kubectl("delete", "namespace", *names, "--wait=false")


def is_accepted(cluster: Cluster, directory: Path) -> None:
    done = cluster.kubectl(*DRY_RUN, "-k", str(directory))
    assert len(done.stdout.split()) == len(rendered(cluster, directory))
    # A warning would be, for example, that the namespace's security level refuses the pod.
    assert done.stderr == ""


@pytest.mark.usefixtures("foreign_kinds", "teams")
@pytest.mark.parametrize("directory", [BASE, *OVERLAYS], ids=lambda path: path.name)
def test_the_api_server_accepts_everything(control_plane: Cluster, directory: Path) -> None:
    is_accepted(control_plane, directory)


@pytest.mark.usefixtures("foreign_kinds", "mutating_policies")
def test_the_api_server_accepts_the_base_with_every_component(control_plane: Cluster, tmp_path: Path) -> None:
    is_accepted(control_plane, compose(tmp_path, BASE, COMPONENTS))


def test_the_policies_of_the_development_overlay_are_accepted(control_plane: Cluster, tmp_path: Path) -> None:
    is_accepted(control_plane, compose(tmp_path, DEVELOPMENT, [DEVELOPMENT / "networkpolicy"]))


def test_the_namespace_admits_every_pod_of_the_manifests_and_no_other(control_plane: Cluster) -> None:
    """Pod Security refuses pods, and only warns about the Deployments that make them."""
    found = [each for each in rendered(control_plane, DEVELOPMENT) if each["kind"] == "Deployment"]
    assert {each["metadata"]["name"] for each in found} == {"datastorage", "postgres", "redis"}
    for deployment in found:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "admitted-", "namespace": SYSTEM},
            "spec": deployment["spec"]["template"]["spec"],
        }
        create = ("create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-")
        done = control_plane.kubectl(*create, input=json.dumps(pod))
        assert done.stderr == ""
        pod["spec"]["securityContext"]["runAsNonRoot"] = False
        refused = control_plane.kubectl(*create, input=json.dumps(pod), check=False)
        assert 'violates PodSecurity "restricted' in refused.stderr


@pytest.mark.usefixtures("mutating_policies")
def test_the_component_goes_with_the_base(control_plane: Cluster, tmp_path: Path) -> None:
    """The settings of the base stay, and the API server accepts the policy."""
    overlay = compose(tmp_path, BASE, [MANIFESTS / "components" / "recorded-by"])

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


def test_the_operator_recognises_the_guards_as_the_api_server_returns_them(control_plane: Cluster) -> None:
    """The API server fills in what a manifest leaves out."""
    for guard, known in guards.SPECS.items():
        both = policy_and_binding("Validating", f"{guard}.{GROUP}")
        found = (control_plane.get(target.resource.plural, str(target.name)) for target in both)
        assert tuple(map(spec_hash, found)) == known, guard


def test_the_component_of_the_fallback_goes_with_the_base(control_plane: Cluster, tmp_path: Path) -> None:
    overlay = compose(tmp_path, BASE, [MANIFESTS / "components" / "api-fallback"])
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
    for document in rendered(control_plane, DEVELOPMENT):
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
    for place, rights in ((namespace, RIGHTS), (SYSTEM, RIGHTS | LEASE_RIGHTS)):
        assert own_rights(control_plane, operator_kubeconfig, place, nobody=nobody) == rights


@pytest.mark.parametrize("right", sorted(RIGHTS), ids=" ".join)
def test_the_operator_may(control_plane: Cluster, operator_kubeconfig: Path, right: Right) -> None:
    assert may(control_plane, operator_kubeconfig, right)


@pytest.mark.parametrize("right", sorted(DENIED), ids=" ".join)
def test_the_operator_may_not(control_plane: Cluster, operator_kubeconfig: Path, right: Right) -> None:
    assert not may(control_plane, operator_kubeconfig, right)
