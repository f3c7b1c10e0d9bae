"""The custom resources on a real API server: it accepts, refuses, keeps and shows them as intended."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from kubernetes import client, config

from datastorage.records.reasons import Reason
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.crd import crd
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, GROUP, KINDS, VERSION, ResourceKind
from datastorage.resources.status import recording_status, rejected_status
from e2e.conftest import GUARD_OPT_OUT
from e2e.resource_cases import BAD_STATUSES, CASES, STORED, Case, Object, action_trace, audit_record, build
from harness.controlplane import Cluster
from harness.strategies import action_trace_specs, audit_record_specs

MERGE = "application/merge-patch+json"
HASH = bytes(32)
NOW = datetime(2026, 3, 1, 10, 0, 0, 500_000, UTC)
GREATEST_DEPTH = 9_998  # of details; the API server's parser gives up at 10 000 levels, two of them are ours


class Resources:
    """The custom resources of one namespace."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def create(self, kind: ResourceKind, manifest: Object) -> Object:
        place = (GROUP, VERSION, self._namespace, kind.plural)
        call = self._api.create_namespaced_custom_object
        created: Object = call(*place, manifest, field_validation="Strict")
        return created

    def patch(self, kind: ResourceKind, name: str, change: Object) -> Object:
        place = (GROUP, VERSION, self._namespace, kind.plural, name)
        changed: Object = self._api.patch_namespaced_custom_object(*place, change, _content_type=MERGE)
        return changed

    def patch_status(self, kind: ResourceKind, name: str, status: Object) -> Object:
        place = (GROUP, VERSION, self._namespace, kind.plural, name)
        body = {"status": status}
        changed: Object = self._api.patch_namespaced_custom_object_status(*place, body, _content_type=MERGE)
        return changed


@pytest.fixture(scope="module")
def api(control_plane: Cluster) -> Any:
    connect: Any = config.new_client_from_config
    return client.CustomObjectsApi(connect(str(control_plane.admin_kubeconfig)))


@pytest.fixture(scope="module")
def namespace(control_plane: Cluster) -> Iterator[str]:
    """Provide one namespace for all, without the guards: here the administrator writes the status."""
    name = f"e2e-resources-{secrets.token_hex(4)}"
    label, value = GUARD_OPT_OUT.split("=")
    metadata = {"name": name, "labels": {label: value}}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    control_plane.kubectl("create", "-f", "-", input=json.dumps(manifest))
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def resources(api: Any, namespace: str) -> Resources:
    return Resources(api, namespace)


def message(refusal: Any) -> str:
    text: str = json.loads(refusal.value.body)["message"]
    return text


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; a float may come back written as an integer, as Go does to 1e21."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) or isinstance(right, float):
        return float(left) == float(right)
    return bool(left == right)


def play(resources: Resources, case: Case) -> Object:
    """Go through the steps of a case; the API server must accept all but the last of a refused one."""
    steps = 1 + (case.status is not None) + (case.change is not None)
    last = None
    for step in range(steps):
        if step == steps - 1 and case.refused is not None:
            with pytest.raises(client.ApiException) as refusal:
                _step(resources, case, step, last)
            assert refusal.value.status == 422
            assert case.refused in message(refusal)
            return {}
        last = _step(resources, case, step, last)
    assert last is not None
    return last


def _step(resources: Resources, case: Case, step: int, before: Object | None) -> Object:
    if before is None:
        return resources.create(case.kind, case.manifest)
    name = before["metadata"]["name"]
    if step == 1 and case.status is not None:
        return resources.patch_status(case.kind, name, case.status)
    assert case.change is not None
    return resources.patch(case.kind, name, case.change)


def test_crds_are_established_without_complaint(control_plane: Cluster) -> None:
    for kind in KINDS:
        conditions = control_plane.get("crd", kind.crd_name)["status"]["conditions"]
        states = {condition["type"]: condition["status"] for condition in conditions}
        assert states == {"NamesAccepted": "True", "Established": "True"}
        options = ("--server-side", "--force-conflicts", "--dry-run=server")
        applied = control_plane.kubectl("apply", *options, "-f", "-", input=json.dumps(crd(kind)))
        assert applied.stderr == ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind.singular}: {case.name}")
def test_case(resources: Resources, case: Case) -> None:
    result = play(resources, case)
    if case.refused is None and case.change is None:
        assert result["spec"] == case.manifest["spec"]


@pytest.mark.parametrize(("name", "status", "refused"), BAD_STATUSES, ids=lambda value: str(value)[:30])
def test_bad_status_is_refused(resources: Resources, name: str, status: Object, refused: str) -> None:
    record = resources.create(AUDIT_RECORD, audit_record())
    with pytest.raises(client.ApiException) as refusal:
        resources.patch_status(AUDIT_RECORD, record["metadata"]["name"], status)
    assert refused in message(refusal), name


def without_nulls(value: Object) -> Object:
    """Return the result of a merge patch with this value."""
    return {
        key: without_nulls(part) if isinstance(part, dict) else part
        for key, part in value.items()
        if part is not None
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_statuses_are_kept_as_built(resources: Resources, kind: ResourceKind) -> None:
    manifest = audit_record() if kind is AUDIT_RECORD else action_trace()
    name = resources.create(kind, manifest)["metadata"]["name"]
    vector = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, "", model="wordllama/l2_supercat_256", at=NOW)
    recording = recording_status(uid="u", generation=1, stored_at=NOW, content_hash=HASH, vector=vector)
    assert resources.patch_status(kind, name, recording)["status"] == recording
    rejected = rejected_status(uid="u", generation=1, at=NOW, message="no")
    assert resources.patch_status(kind, name, rejected)["status"] == without_nulls(rejected)
    stored = resources.patch_status(kind, name, STORED)
    assert stored["status"] == STORED
    assert stored["metadata"]["generation"] == 1


def test_a_status_write_cannot_change_the_spec(api: Any, namespace: str, resources: Resources) -> None:
    """The rule that makes AuditRecords immutable relies on this."""
    record = resources.create(AUDIT_RECORD, audit_record())
    place = (GROUP, VERSION, namespace, AUDIT_RECORD.plural, record["metadata"]["name"])
    both = {"spec": {"phase": "Failed"}, "status": STORED}
    changed = api.patch_namespaced_custom_object_status(*place, both, _content_type=MERGE)
    assert changed["spec"] == record["spec"]
    assert changed["status"] == STORED


@pytest.mark.parametrize(
    ("kind", "specs"),
    [(AUDIT_RECORD, audit_record_specs()), (ACTION_TRACE, action_trace_specs())],
    ids=["auditrecord", "actiontrace"],
)
def test_generated_specs_are_accepted_and_kept(resources: Resources, kind: ResourceKind, specs: Any) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(specs)
    def check(spec: Object) -> None:
        assert same(resources.create(kind, build(kind, spec))["spec"], spec)

    check()


@pytest.mark.parametrize(
    "value", ["a\0b", 2**53 + 1, 2**63 - 1, -(2**63), None, {"\0": None}, ["🧨", "\u2028"]], ids=ascii
)
def test_details_are_kept_exactly(resources: Resources, value: Any) -> None:
    assert resources.create(AUDIT_RECORD, audit_record({"details": value}))["spec"]["details"] == value


@pytest.mark.parametrize(("depth", "accepted"), [(GREATEST_DEPTH, True), (GREATEST_DEPTH + 1, False)])
def test_depth_of_details(control_plane: Cluster, namespace: str, depth: int, accepted: bool) -> None:  # noqa: FBT001
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{AUDIT_RECORD.plural}"
    body = json.dumps(audit_record({"details": "HERE"})).replace('"HERE"', "[" * depth + "]" * depth)
    done = control_plane.kubectl("create", "--raw", path, "-f", "-", input=body, check=False)
    assert (done.returncode == 0) is accepted
    assert ("[" * depth in done.stdout) is accepted


def test_unknown_fields_are_refused_when_strict_and_otherwise_dropped(api: Any, namespace: str) -> None:
    def create(**options: str) -> Object:
        place = (GROUP, VERSION, namespace, AUDIT_RECORD.plural, audit_record({"colour": "red"}))
        return dict(api.create_namespaced_custom_object(*place, **options))

    with pytest.raises(client.ApiException) as refusal:
        create(field_validation="Strict")
    assert 'unknown field "spec.colour"' in message(refusal)
    assert "colour" not in create()["spec"]


def test_null_means_absent(resources: Resources) -> None:
    spec = resources.create(AUDIT_RECORD, audit_record({"endTime": None, "actor": None}))["spec"]
    assert not {"endTime", "actor"} & set(spec)


def test_managed_fields_stay_small(resources: Resources) -> None:
    """They are in every copy of every record, so there is one entry for the spec and one for the status."""
    record = resources.create(AUDIT_RECORD, audit_record())
    stored = resources.patch_status(AUDIT_RECORD, record["metadata"]["name"], STORED)
    owned = [entry["fieldsV1"] for entry in stored["metadata"]["managedFields"]]
    assert owned == [{"f:metadata": {"f:generateName": {}}, "f:spec": {}}, {"f:status": {}}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_selectors_columns_and_names(
    control_plane: Cluster, namespace: str, resources: Resources, kind: ResourceKind
) -> None:
    own = secrets.token_hex(4)
    make = audit_record if kind is AUDIT_RECORD else action_trace
    manifest = make({"correlationID": own})
    name = resources.create(kind, manifest)["metadata"]["name"]
    resources.create(kind, manifest)
    resources.patch_status(kind, name, STORED | {"expiresAt": "2099-01-01T00:00:00Z"})

    def listed(selector: str) -> int:
        options = (f"--namespace={namespace}", f"--field-selector=spec.correlationID={own}{selector}")
        return len(control_plane.get(kind.short_names[0], *options)["items"])

    field = "type" if kind is AUDIT_RECORD else "actionType"
    value = manifest["spec"][field]
    assert listed("") == 2
    assert [listed(f",status.phase{sign}Stored") for sign in ("=", "!=")] == [1, 1]
    assert [listed(f",spec.{field}{sign}{value}") for sign in ("=", "!=")] == [2, 0]

    wide = control_plane.kubectl("get", kind.singular, name, f"--namespace={namespace}", "-o", "wide").stdout
    head, row = wide.splitlines()
    first = ["NAME", "TYPE", "ACTION"] if kind is AUDIT_RECORD else ["NAME", "ACTION"]
    rest = "OUTCOME TARGET PHASE VECTOR AGE RECORD ID CORRELATION EXPIRES RECORDED BY"
    assert head.split() == [*first, *rest.split()]
    assert {name, "checkout", "Stored", "Written", own, "2099-01-01T00:00:00Z"} <= set(row.split())
    assert name in control_plane.kubectl("get", "audit", f"--namespace={namespace}").stdout


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_explain_describes_every_field(control_plane: Cluster, kind: ResourceKind) -> None:
    text = control_plane.kubectl("explain", kind.singular, "--recursive").stdout
    assert text.count("<no description>") == 0
    for part in ("spec", "status", "status.writes"):
        page = control_plane.kubectl("explain", f"{kind.singular}.{part}").stdout
        assert "<no description>" not in page
        assert "DESCRIPTION:" in page
