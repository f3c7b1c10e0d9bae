"""Helm installs, upgrades and uninstalls on a real API server, and never takes a record away."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from datastorage.resources.kinds import GROUP, KINDS
from harness.controlplane import ControlPlane
from harness.helm import Helm, HelmError
from harness.manifests import audit_record
from harness.polling import until_blocking

RECORD: Final = "auditrecord/kept"
DEFINITIONS: Final = tuple(f"{kind.plural}.{GROUP}" for kind in KINDS)
GUARDS: Final = {f"{name}-guard.{GROUP}" for name in ("deletion", "change", "definition", "status")}
OURS: Final = ("-l", "app.kubernetes.io/name=datastorage")
NO_SECRET: Final = "the Secret datastorage-database does not exist"
OTHER_DEFINITIONS: Final = "the custom resource definitions in the cluster are not those of this release"


@dataclass(frozen=True)
class Place:
    """A namespace for one release. It is not that of the manifests: nothing may depend on that name."""

    namespace: str
    cluster: ControlPlane
    helm: Helm

    def release(self, command: str, chart: Path, *options: str, **values: Any) -> str:
        """Install or upgrade the release; return its notes."""
        where = ("--namespace", self.namespace, "--create-namespace")
        return self.helm(command, "datastorage", str(chart), *where, *options, values=values)

    def replicas(self) -> int:
        found: int = self.cluster.get("deployment/datastorage", "-n", self.namespace)["spec"]["replicas"]
        return found

    def uid(self) -> str:
        found: str = self.cluster.get(RECORD, "-n", "default")["metadata"]["uid"]
        return found

    def assert_guarded(self) -> None:
        """The record must not be deleted before it is stored, and neither must its definition."""
        for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings"):
            assert {each["metadata"]["name"] for each in self.cluster.get(kind, *OURS)["items"]} == GUARDS
        delete = ("delete", "--dry-run=server")
        self.wait_refused("the operator has not stored it yet", *delete, RECORD, "-n", "default")
        self.wait_refused("all its objects would go", *delete, "crd", DEFINITIONS[0])

    def wait_refused(self, message: str, *command: str, input: str | None = None) -> None:  # noqa: A002
        """Wait until the API server refuses a command; it takes a new policy into account after a moment."""

        def refused() -> bool:
            return message in self.cluster.kubectl(*command, input=input, check=False).stderr

        until_blocking(refused, what=f"a refusal that says {message!r}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Provide a cluster on which nothing is installed; the other tests have the product on theirs."""
    with ControlPlane(tmp_path_factory.mktemp("cluster"), fsync=False) as own:
        yield own


@pytest.fixture
def place(helm: Helm, cluster: ControlPlane) -> Iterator[Place]:
    """Provide a place for a release; afterwards nothing is installed on the cluster again."""
    namespace = f"archive-{secrets.token_hex(4)}"
    yield Place(namespace, cluster, Helm(helm.program, helm.folder, cluster))
    cluster.kubectl("label", "crd", *OURS, f"{GROUP}/deletion-guard=disabled", "--overwrite")
    cluster.kubectl("delete", "crd", *OURS)
    for kinds in (
        "validatingadmissionpolicies,validatingadmissionpolicybindings", "clusterroles,clusterrolebindings",
    ):  # fmt: skip
        cluster.kubectl("delete", kinds, *OURS)
    cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def record(cluster: ControlPlane) -> None:
    """Create a record, which no operator stores."""
    cluster.kubectl("create", "-n", "default", "-f", "-", input=json.dumps(audit_record("kept")))


def test_a_release_comes_and_goes_and_the_records_stay(place: Place, chart: Path) -> None:
    cluster = place.cluster
    notes = place.release("install", chart)
    assert f"{NO_SECRET} in {place.namespace}" in notes
    assert f"kubectl label namespace {place.namespace} pod-security.kubernetes.io/enforce=restricted" in notes
    assert OTHER_DEFINITIONS not in notes
    record(cluster)
    uid = place.uid()
    place.assert_guarded()

    cluster.kubectl("create", "secret", "generic", "datastorage-database", "-n", place.namespace)
    assert NO_SECRET not in place.release("upgrade", chart, replicas=2)
    assert place.replicas() == 2
    place.helm("rollback", "datastorage", "1", "--namespace", place.namespace)
    assert place.replicas() == 3
    place.release("upgrade", chart, guards={"install": False})
    assert place.uid() == uid
    place.assert_guarded()

    place.helm("uninstall", "datastorage", "--namespace", place.namespace)
    assert cluster.get("deployments", "-n", place.namespace)["items"] == []
    assert place.uid() == uid
    place.assert_guarded()

    place.release("install", chart)
    assert place.uid() == uid
    place.assert_guarded()


def test_the_notes_have_a_record_that_the_api_server_takes(place: Place, chart: Path) -> None:
    notes = place.release("install", chart)
    text = notes.partition("<<'EOF'\n")[2].partition("EOF\n")[0]
    done = place.cluster.kubectl("create", "-n", "default", "-f", "-", "-o", "name", input=text)
    assert done.stdout == f"auditrecord.{GROUP}/my-first-record\n"


def test_only_the_operator_of_the_release_writes_a_status(place: Place, chart: Path) -> None:
    place.release("install", chart)
    record(place.cluster)
    status = json.dumps(audit_record("kept") | {"status": {"phase": "Pending"}})
    command = (
        "apply",
        "--server-side",
        "--subresource=status",
        "--dry-run=server",
        "-n",
        "default",
        "-f",
        "-",
    )
    operator = f"system:serviceaccount:{place.namespace}:datastorage"
    place.cluster.kubectl(*command, f"--as={operator}", input=status)
    for other in ("somebody", "system:serviceaccount:datastorage-system:datastorage"):
        # With every right, as a user of this group has it.
        identity = (f"--as={other}", "--as-group=system:masters")
        place.wait_refused(f"this request is from {other}", *command, *identity, input=status)
    place.wait_refused(f"The operator is {operator}", *command, *identity, input=status)


def test_a_second_release_is_refused(place: Place, chart: Path) -> None:
    place.release("install", chart)
    with pytest.raises(HelmError, match="exists and cannot be imported into the current release"):
        place.helm("install", "second", str(chart), "--namespace", "default")
    assert place.replicas() == 3


def test_other_definitions_are_noticed_and_replaced_by_the_command_in_the_notes(
    place: Place, chart: Path
) -> None:
    place.release("install", chart)
    record(place.cluster)
    uid = place.uid()
    path = "/spec/versions/0/schema/openAPIV3Schema/description"
    patch = json.dumps([{"op": "add", "path": path, "value": "of an older release"}])
    place.cluster.kubectl("patch", "crd", DEFINITIONS[0], "--type=json", "-p", patch)
    notes = place.release("upgrade", chart)
    assert OTHER_DEFINITIONS in notes
    assert "helm show crds CHART | kubectl apply --server-side --force-conflicts -f -" in notes
    definitions = place.helm("show", "crds", str(chart))
    place.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=definitions)
    assert OTHER_DEFINITIONS not in place.release("upgrade", chart)
    assert place.uid() == uid


def test_an_installation_by_kustomize_becomes_a_release(
    helm: Helm, cluster: ControlPlane, chart: Path
) -> None:
    cluster.apply_product()
    record(cluster)
    place = Place("datastorage-system", cluster, Helm(helm.program, helm.folder, cluster))
    uid = place.uid()
    with pytest.raises(HelmError, match="exists and cannot be imported"):
        place.release("install", chart)
    place.release("install", chart, "--take-ownership", "--force-conflicts")
    assert place.uid() == uid
    place.assert_guarded()
