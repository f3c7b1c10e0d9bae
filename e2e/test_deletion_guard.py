"""Nothing leaves the cluster before it is stored: the API server itself refuses every user.

The tests act as the operator, under its ServiceAccount. Where the cluster runs a real operator, it is scaled
to zero meanwhile.
"""

import json
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, GROUP, KINDS, ResourceKind
from datastorage.resources.reading.action_trace import READING as ACTION_TRACE_READING
from e2e.resource_cases import action_trace, audit_record
from harness import REPOSITORY
from harness.controlplane import Cluster
from harness.polling import until_blocking

SYSTEM = "datastorage-system"
OPT_OUT = f"{GROUP}/deletion-guard=disabled"

BUILDERS: dict[ResourceKind, Callable[[], dict[str, Any]]] = {
    AUDIT_RECORD: audit_record,
    ACTION_TRACE: action_trace,
}


class Records:
    """Records in one namespace, made by the administrator and reported on as the operator would."""

    def __init__(self, cluster: Cluster, namespace: str, operator: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.operator = operator

    def create(self, kind: ResourceKind, name: str) -> None:
        manifest = BUILDERS[kind]() | {"metadata": {"name": name, "namespace": self.namespace}}
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))

    def set_status(
        self, kind: ResourceKind, name: str, phase: str, generation: int, *, as_admin: bool = False
    ) -> str:
        """Write a status, and return the error output."""
        status = {
            "apiVersion": f"{GROUP}/v1alpha1",
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "status": {"phase": phase, "observedGeneration": generation},
        }
        done = self.cluster.kubectl(
            *("apply", "--server-side", "--force-conflicts", "--subresource=status", "--validate=false"),
            *("-f", "-"),
            input=json.dumps(status),
            kubeconfig=None if as_admin else self.operator,
            check=not as_admin,
        )
        return done.stderr

    def delete(self, kind: ResourceKind, *arguments: str, kubeconfig: Path | None = None) -> str:
        """Delete, and return the error output."""
        return self.cluster.kubectl(
            *("delete", kind.crd_name, "-n", self.namespace, "--timeout=30s", *arguments),
            kubeconfig=kubeconfig,
            check=False,
        ).stderr

    def try_delete(self, kind: ResourceKind, name: str) -> bool:
        return not self.delete(kind, name)

    def names(self, kind: ResourceKind) -> set[str]:
        return {
            item["metadata"]["name"]
            for item in self.cluster.get(kind.crd_name, "-n", self.namespace)["items"]
        }


@pytest.fixture(scope="module", autouse=True)
def guards(control_plane: Cluster) -> None:
    """Wait until the policies, applied a moment ago, have reached the API server's admission."""
    operator = control_plane.service_account_kubeconfig(SYSTEM, "datastorage")
    probe = Records(control_plane, "default", operator)
    control_plane.kubectl(
        "delete", AUDIT_RECORD.crd_name, "guard-probe", "--ignore-not-found", kubeconfig=operator
    )
    probe.create(AUDIT_RECORD, "guard-probe")
    until_blocking(
        lambda: bool(probe.delete(AUDIT_RECORD, "guard-probe", "--dry-run=server")),
        what="deletions are refused",
    )  # fmt: skip
    until_blocking(
        lambda: bool(probe.set_status(AUDIT_RECORD, "guard-probe", "Pending", 1, as_admin=True)),
        what="statuses are refused",
    )  # fmt: skip
    probe.delete(AUDIT_RECORD, "guard-probe", "--wait=false", kubeconfig=operator)


@pytest.fixture
def records(control_plane: Cluster, namespace: str) -> Records:
    return Records(control_plane, namespace, control_plane.service_account_kubeconfig(SYSTEM, "datastorage"))


each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


@each_kind
def test_an_unstored_record_stays_and_the_message_says_what_to_do(
    records: Records, kind: ResourceKind
) -> None:
    records.create(kind, "fresh")
    refusal = records.delete(kind, "fresh")
    assert f"{kind.singular}/fresh in namespace {records.namespace} must not be deleted" in refusal
    assert "the operator has not stored it yet (no phase)" in refusal
    assert (
        f"kubectl wait -n {records.namespace} {kind.singular}/fresh --for=jsonpath='{{.status.phase}}'=Stored"
        in refusal
    )
    assert "If no operator runs (a trial, or it is gone for good)" in refusal
    assert f"kubectl label namespace {records.namespace} {OPT_OUT}" in refusal
    assert records.names(kind) == {"fresh"}


@each_kind
def test_delete_all_takes_the_stored_and_leaves_the_rest(records: Records, kind: ResourceKind) -> None:
    for name in ("first", "second", "third"):
        records.create(kind, name)
    records.set_status(kind, "second", "Stored", 1)
    refusal = records.delete(kind, "--all")
    assert "first in namespace" in refusal
    assert "third in namespace" in refusal
    assert records.names(kind) == {"first", "third"}


def test_a_deletecollection_is_refused(records: Records) -> None:
    records.create(AUDIT_RECORD, "fresh")
    path = f"/apis/{GROUP}/v1alpha1/namespaces/{records.namespace}/{AUDIT_RECORD.plural}"
    refusal = records.cluster.kubectl("delete", "--raw", path, check=False).stderr
    assert "auditrecord/fresh in namespace" in refusal
    assert records.names(AUDIT_RECORD) == {"fresh"}


@each_kind
@pytest.mark.parametrize("phase", ["Stored", "Degraded", "Rejected"])
def test_a_record_that_is_safe_may_be_deleted(records: Records, kind: ResourceKind, phase: str) -> None:
    records.create(kind, "safe")
    records.set_status(kind, "safe", phase, 1)
    assert records.delete(kind, "safe") == ""
    assert records.names(kind) == set()


@each_kind
@pytest.mark.parametrize("phase", ["Pending", "Recording"])
def test_a_record_that_is_not_finished_stays(records: Records, kind: ResourceKind, phase: str) -> None:
    records.create(kind, "underway")
    records.set_status(kind, "underway", phase, 1)
    refusal = records.delete(kind, "underway")
    assert f"(phase {phase})" in refusal
    # An abandoned trace never becomes Stored: the message says how to end it instead of waiting.
    assert ("kubectl patch -n" if phase == "Recording" else "kubectl wait -n") in refusal
    assert records.names(kind) == {"underway"}


@pytest.mark.parametrize(
    ("execution", "effectiveness"),
    [
        ("Pending", {}),
        ("Executing", {"dueTime": "2026-03-01T12:00:00Z"}),
        ("Executing", {"dueTime": "2026-03-01T12:00:00Z", "assessedAt": "2026-03-01T12:00:00Z"}),
        ("Completed", {"dueTime": "2026-03-01T12:00:00Z"}),
        ("Failed", {"dueTime": "2026-03-01T12:00:00Z", "assessedAt": "0001-01-01T01:00:00+01:00"}),
    ],
)
def test_the_command_in_the_refusal_ends_an_abandoned_trace(
    records: Records, execution: str, effectiveness: dict[str, str]
) -> None:
    manifest = action_trace({"execution": {"status": execution}, "effectiveness": effectiveness})
    manifest |= {"metadata": {"name": "abandoned", "namespace": records.namespace}}
    assert not ACTION_TRACE_READING.is_final(manifest["spec"])
    records.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
    records.set_status(ACTION_TRACE, "abandoned", "Recording", 1)
    refusal = records.delete(ACTION_TRACE, "abandoned")
    command = re.search(r"end it with: kubectl (patch .*?'.*?')\.", refusal)
    assert command is not None, refusal
    documented = command[1].replace(records.namespace, "NAMESPACE").replace("abandoned", "NAME")
    assert f"`kubectl {documented}`" in (REPOSITORY / "docs/operations/records.md").read_text()
    records.cluster.kubectl(*shlex.split(command[1]))
    spec = records.cluster.get(ACTION_TRACE.crd_name, "abandoned", "-n", records.namespace)["spec"]
    assert ACTION_TRACE_READING.is_final(spec), spec
    assert ("assessedAt" in spec.get("effectiveness", {})) == ("assessedAt" in effectiveness)


@each_kind
@pytest.mark.parametrize("value", ["true", "True", ""])
def test_a_legal_hold_keeps_a_stored_record(records: Records, kind: ResourceKind, value: str) -> None:
    label = "datastorage.kubernaut.io/legal-hold"
    records.create(kind, "held")
    records.set_status(kind, "held", "Stored", 1)
    records.cluster.kubectl("label", kind.crd_name, "held", "-n", records.namespace, f"{label}={value}")
    assert "under legal hold" in records.delete(kind, "held")
    assert records.names(kind) == {"held"}
    records.cluster.kubectl("label", kind.crd_name, "held", "-n", records.namespace, f"{label}-")
    assert records.delete(kind, "held") == ""


def test_a_change_that_is_not_stored_yet_keeps_the_record(records: Records) -> None:
    records.create(ACTION_TRACE, "grown")
    records.set_status(ACTION_TRACE, "grown", "Degraded", 1)
    growth = json.dumps({"spec": {"stateAfter": {"replicas": 5}}})
    records.cluster.kubectl(
        "patch", ACTION_TRACE.crd_name, "grown", "-n", records.namespace, "--type=merge", "-p", growth
    )
    assert "latest change is not stored yet (phase Degraded of an older generation)" in records.delete(
        ACTION_TRACE, "grown"
    )
    records.set_status(ACTION_TRACE, "grown", "Stored", 2)
    assert records.delete(ACTION_TRACE, "grown") == ""


@pytest.mark.parametrize("phase", ["Degraded", "Rejected"])
def test_a_trace_that_is_being_deleted_changes_no_more(records: Records, phase: str) -> None:
    """Otherwise the change would be gone with the last finalizer, although nobody has stored it."""
    manifest = action_trace() | {"metadata": {"name": "leaving", "namespace": records.namespace}}
    manifest["metadata"]["finalizers"] = [f"{GROUP}/test"]
    records.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
    records.set_status(ACTION_TRACE, "leaving", phase, 1)
    patch = ("patch", ACTION_TRACE.crd_name, "leaving", "-n", records.namespace, "--type=merge", "-p")
    before = json.dumps({"spec": {"stateAfter": {"replicas": 5}}})
    records.cluster.kubectl(*patch, before)
    records.set_status(ACTION_TRACE, "leaving", phase, 2)
    assert records.delete(ACTION_TRACE, "leaving", "--wait=false") == ""
    for change in (
        {"spec": {"stateAfter": {"replicas": 6}}},
        {"metadata": {"finalizers": None}, "spec": {"alert": None, "stateAfter": None}},
    ):
        refusal = records.cluster.kubectl(*patch, json.dumps(change), check=False).stderr
        assert f"actiontrace/leaving in namespace {records.namespace} is being deleted" in refusal
    assert records.names(ACTION_TRACE) == {"leaving"}
    records.cluster.kubectl(*patch, json.dumps({"metadata": {"finalizers": None, "labels": {"a": "b"}}}))
    assert records.names(ACTION_TRACE) == set()


@each_kind
def test_the_operator_itself_is_exempt(records: Records, kind: ResourceKind) -> None:
    records.create(kind, "fresh")
    # Without --wait=false kubectl would watch for the end of it, by a field that the resource need not have.
    assert records.delete(kind, "fresh", "--wait=false", kubeconfig=records.operator) == ""
    assert records.names(kind) == set()


def test_a_labelled_namespace_is_left_alone(records: Records) -> None:
    for kind in KINDS:
        records.create(kind, "fresh")
        assert "must not be deleted" in records.delete(kind, "fresh")
    records.cluster.kubectl("label", "namespace", records.namespace, OPT_OUT)
    for kind in KINDS:
        until_blocking(partial(records.try_delete, kind, "fresh"), what=f"{kind.kind} is deleted")
        assert records.names(kind) == set()


@each_kind
def test_nobody_else_can_claim_that_a_record_is_stored(records: Records, kind: ResourceKind) -> None:
    records.create(kind, "fresh")
    refusal = records.set_status(kind, "fresh", "Stored", 1, as_admin=True)
    assert f"only the Data Storage operator writes the status of {kind.singular}/fresh" in refusal
    assert "this request is from " in refusal
    assert "The operator is system:serviceaccount:datastorage-system:datastorage." in refusal
    assert f"kubectl label namespace {records.namespace} {OPT_OUT}" in refusal
    assert "must not be deleted" in records.delete(kind, "fresh")


@each_kind
def test_the_definition_stays_with_its_records(control_plane: Cluster, kind: ResourceKind) -> None:
    deletion = ("delete", "customresourcedefinition", kind.crd_name, "--dry-run=server")
    refusal = control_plane.kubectl(*deletion, check=False).stderr
    assert "all its objects would go with it, stored or not" in refusal
    label = f"{GROUP}/deletion-guard"
    control_plane.kubectl("label", "customresourcedefinition", kind.crd_name, f"{label}=disabled")
    try:
        assert control_plane.kubectl(*deletion, check=False).stderr == ""
    finally:
        control_plane.kubectl("label", "customresourcedefinition", kind.crd_name, f"{label}-")


def test_a_namespace_waits_for_its_records(control_plane: Cluster, records: Records) -> None:
    for kind in KINDS:
        records.create(kind, "fresh")
    control_plane.kubectl("delete", "namespace", records.namespace, "--wait=false")

    def refusals() -> str:
        conditions = control_plane.get("namespace", records.namespace)["status"].get("conditions", [])
        return " ".join(
            condition["message"]
            for condition in conditions
            if condition["type"] == "NamespaceDeletionContentFailure"
        )

    until_blocking(lambda: "must not be deleted" in refusals(), what="the namespace says why it stays")
    for kind in KINDS:
        assert records.names(kind) == {"fresh"}
        records.set_status(kind, "fresh", "Stored", 1)
    control_plane.kubectl("wait", "--for=delete", f"namespace/{records.namespace}", "--timeout=60s")
