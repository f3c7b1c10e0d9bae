"""An installation for named namespaces with protected guards, on a control plane of its own."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.guards import GUARDS as GUARD_NAMES
from datastorage.kube.guards import Guards
from datastorage.kube.transport import Transport
from datastorage.resources.kinds import AUDIT_RECORD, GROUP, KINDS
from e2e.rights import CLUSTER_RIGHTS, LEASE_RIGHTS, OBJECT_RIGHTS, OBJECTS, Right, own_rights
from e2e.workbench import Workbench, shipped_account
from harness.apiclient import ApiClient
from harness.controlplane import Cluster, ControlPlane
from harness.manifestlint.renderings import BASE, MANIFESTS, compose
from harness.manifests import action_trace, audit_record
from harness.polling import until
from harness.postgres import TestDatabases

SYSTEM = "datastorage-system"
TEAMS = ("team-a", "team-b")
OPERATOR = f"system:serviceaccount:{SYSTEM}:datastorage"
# Requests of the operator, and nothing else.
AUDIT = f"""
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: ["{OPERATOR}"]
  - level: None
"""
# The file that tells the API server where its own policies are.
ADMISSION = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: ValidatingAdmissionPolicy
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: ValidatingAdmissionPolicyConfiguration
      staticManifestsDir: {directory}
"""
# The operator looks an object up only after somebody has changed it at the wrong moment.
SELDOM: set[Right] = {("get", resource) for resource in OBJECTS}
GUARDS = "validatingadmissionpolicies,validatingadmissionpolicybindings"
OURS = "--selector=app.kubernetes.io/name=datastorage"


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the overlay for named namespaces, with the component that protects the guards."""
    component = MANIFESTS / "components" / "guard-protection"
    return compose(tmp_path_factory.mktemp("overlay"), MANIFESTS / "overlays" / "namespaced", [component])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, overlay: Path) -> Iterator[ControlPlane]:
    """Provide a cluster on which nothing but this overlay was ever applied."""
    directory = tmp_path_factory.mktemp("namespaced")
    policy = directory / "audit.yaml"
    policy.write_text(AUDIT)
    with ControlPlane(directory / "cluster", fsync=False, audit_policy=policy) as own:
        for namespace in (*TEAMS, "elsewhere"):
            own.kubectl("create", "namespace", namespace)
        own.apply_product(overlay)
        yield own


def create(cluster: Cluster, namespace: str, *manifests: dict[str, Any]) -> None:
    for manifest in manifests:
        cluster.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(manifest))


async def are_gone(cluster: Cluster, namespace: str) -> bool:
    return not cluster.get(",".join(kind.plural for kind in KINDS), "-n", namespace)["items"]


def requests(cluster: ControlPlane) -> list[dict[str, Any]]:
    """Return the API server's notes of the operator's requests to resources."""
    lines = (cluster.directory / "logs" / "audit.log").read_text().splitlines()
    return [found for found in map(json.loads, lines) if "objectRef" in found]


def right_of(request: dict[str, Any]) -> Right:
    place = request["objectRef"]
    group = f".{place['apiGroup']}" if "apiGroup" in place else ""
    subresource = f"/{place['subresource']}" if "subresource" in place else ""
    name = f"={place['name']}" if place["resource"].startswith("validatingadmission") else ""
    return request["verb"], place["resource"] + group + subresource + name


def test_the_rights_to_objects_end_at_the_named_namespaces(installed: ControlPlane) -> None:
    installed.kubectl("create", "serviceaccount", "nobody", "-n", "elsewhere")
    nobody = installed.service_account_kubeconfig("elsewhere", "nobody")
    operator = shipped_account(installed)
    for namespace, rights in {
        **dict.fromkeys(TEAMS, OBJECT_RIGHTS | CLUSTER_RIGHTS),
        SYSTEM: CLUSTER_RIGHTS | LEASE_RIGHTS,
        "elsewhere": CLUSTER_RIGHTS,
    }.items():
        assert own_rights(installed, operator, namespace, nobody=nobody) == rights


async def test_the_operator_works_with_these_rights_and_uses_them(
    installed: ControlPlane, databases: TestDatabases, tmp_path: Path
) -> None:
    database = await databases.clone()
    bench = Workbench(
        cluster=installed, kubeconfig=shipped_account(installed), namespace=",".join(TEAMS),
        owner_url=database.owner_url, database_url=database.service_url, directory=tmp_path,
    )  # fmt: skip
    try:
        operator = bench.start_operator(LEASE_NAMESPACE=SYSTEM)
        for namespace in (*TEAMS, "elsewhere"):
            create(
                installed,
                namespace,
                audit_record("record", ttlSecondsAfterStored=1),
                action_trace("trace", execution={"status": "Completed"}, ttlSecondsAfterStored=1),
            )
        for namespace in TEAMS:
            await until(partial(are_gone, installed, namespace), what="they are stored and gone")
        left = installed.get(AUDIT_RECORD.plural, "record", "-n", "elsewhere")
        assert "status" not in left, "nobody serves this namespace"
        check_the_api(installed, operator.api_url)
        for guard in GUARD_NAMES:
            assert operator.metric(f'datastorage_guard_in_force{{guard="{guard}"}}') == 1
    finally:
        await bench.close()
    await databases.drop(database)
    answered = requests(installed)
    refused = [found for found in answered if found["responseStatus"]["code"] in {401, 403}]
    assert refused == []
    # Everybody may ask about their own rights, and the test above has.
    used = {right for right in map(right_of, answered) if not right[1].startswith("selfsubject")}
    expected = OBJECT_RIGHTS | CLUSTER_RIGHTS | LEASE_RIGHTS
    assert used <= expected
    assert expected - used <= SELDOM, "a right that nothing uses"


def check_the_api(cluster: Cluster, url: str) -> None:
    """Store and read a record over HTTP with rights in one namespace."""
    cluster.kubectl("create", "serviceaccount", "caller", "-n", TEAMS[0])
    for role in ("datastorage-writer", "datastorage-archive-reader"):
        account = f"--serviceaccount={TEAMS[0]}:caller"
        cluster.kubectl("create", "rolebinding", role, f"--clusterrole={role}", account, "-n", TEAMS[0])
    made = cluster.kubectl("create", "token", "caller", "-n", TEAMS[0], "--audience=datastorage")
    client = ApiClient(url, made.stdout.strip())
    spec = {"action": "scale-deployment", "phase": "Completed", "correlationID": "rr-1", "message": "scaled"}
    stored = client.post("/store/workflow", {"metadata": {"namespace": TEAMS[0]}, "spec": spec})
    assert stored.status == 201, stored.content
    found = client.get("/query/workflow", namespace=TEAMS[0])
    assert [item["uid"] for item in found.json["items"]] == [stored.json["uid"]]
    assert client.get("/query/workflow", namespace=TEAMS[1]).status == 403


def test_a_deleted_guard_stays_in_force_until_it_is_back(installed: ControlPlane, overlay: Path) -> None:
    """The commands are those of docs/operations/guards.md."""
    create(installed, "elsewhere", audit_record("unstored"))
    installed.kubectl("delete", GUARDS, OURS, "--wait=false")
    assert_guarded(installed)
    deleted = installed.kubectl("get", GUARDS, OURS, "-o", "name").stdout.split()
    assert len(deleted) == 8
    installed.kubectl("patch", *deleted, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    installed.apply_product(overlay)
    for guard in installed.get(GUARDS, OURS)["items"]:
        assert "deletionTimestamp" not in guard["metadata"]
        assert guard["metadata"]["finalizers"] == [f"{GROUP}/keep-guard"]


async def test_a_guard_that_somebody_has_changed_is_named_until_it_is_mended(
    installed: ControlPlane, overlay: Path
) -> None:
    """The commands are those of docs/operations/guards.md. An apply leaves added conditions alone."""
    policy, binding = "validatingadmissionpolicy", "validatingadmissionpolicybinding"
    namespaces = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "team-a"}}}
    replace = (
        "replace",
        *(f"--filename={BASE / file}" for file in ("deletion-guard.yaml", "status-guard.yaml")),
    )
    kubeconfig = shipped_account(installed)
    async with Transport(lambda: load_endpoint({"KUBECONFIG": str(kubeconfig)})) as transport:
        guards = Guards(transport)

        async def problem() -> str:
            await guards.look()
            return await guards.problem() or ""

        def change(kind: str, **spec: Any) -> None:
            patch = f"--patch={json.dumps({'spec': spec})}"
            installed.kubectl("patch", kind, f"deletion-guard.{GROUP}", "--type=merge", patch)

        change(binding, matchResources=namespaces)
        assert f"Binding deletion-guard.{GROUP} differs from that of release" in await problem()
        installed.apply_product(overlay)
        assert await problem() == ""
        change(policy, matchConditions=[{"name": "nobody", "expression": "false"}])
        installed.apply_product(overlay)
        assert f"Policy deletion-guard.{GROUP} differs from that of release" in await problem()
        installed.kubectl(*replace)
        installed.apply_product(overlay)
        assert await problem() == ""


def assert_guarded(cluster: Cluster) -> None:
    record = ("auditrecord", "unstored", "-n", "elsewhere")
    for command in (
        ("delete", *record),
        ("patch", *record, "--subresource=status", "--type=merge", '--patch={"status":{"phase":"Stored"}}'),
        ("delete", "crd", f"{AUDIT_RECORD.plural}.{GROUP}"),
    ):
        done = cluster.kubectl(*command, check=False)
        assert done.returncode != 0
        assert "denied request" in done.stderr


def test_a_policy_of_the_api_server_keeps_the_guards(tmp_path: Path) -> None:
    """The flags and the steps are those of docs/operations/guards.md."""
    configuration = tmp_path / "admission.yaml"
    configuration.write_text(ADMISSION.format(directory=MANIFESTS / "apiserver"))
    flags = (
        "--feature-gates=ManifestBasedAdmissionControlConfig=true",
        f"--admission-control-config-file={configuration}",
    )
    guard = "deletion-guard.datastorage.kubernaut.io"
    binding = ("validatingadmissionpolicybinding", guard)
    disarm = ("patch", *binding, "--type=merge", '--patch={"spec":{"validationActions":["Warn"]}}')
    with ControlPlane(tmp_path / "cluster", fsync=False, api_server_flags=flags) as own:
        own.apply_product()
        own.apply_product()  # an apply that changes nothing passes
        for command in (
            ("delete", *binding),
            ("delete", "validatingadmissionpolicy", guard),
            ("delete", GUARDS, OURS),
            disarm,
        ):
            done = own.kubectl(*command, check=False)
            assert done.returncode != 0
            assert "must not be deleted or changed" in done.stderr
        own.kubectl("label", *binding, f"{GROUP}/deletion-guard=disabled")
        own.kubectl(*disarm)
        own.kubectl("delete", *binding)
