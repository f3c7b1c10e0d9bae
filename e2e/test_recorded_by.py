"""The API server itself says who recorded an object, and the operator believes nobody but the API server.

The policy is installed for these tests alone. The last ones need it to be some seconds old.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.recordedbypolicy import InForce, RecordedByPolicy
from datastorage.kube.transport import Transport
from datastorage.pipeline.authors import Pace
from datastorage.records.times import time_in
from datastorage.resources.kinds import (
    ACTION_TRACE,
    API_VERSION,
    AUDIT_RECORD,
    GROUP,
    KINDS,
    RECORDED_BY_ANNOTATION,
    RECORDED_BY_POLICY,
    ResourceKind,
)
from datastorage.resources.reading.registry import table_of
from e2e.workbench import Workbench
from harness import REPOSITORY
from harness.archive import rows
from harness.bulk import BulkClient
from harness.controlplane import Cluster
from harness.manifests import action_trace, audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until, until_blocking

SYSTEM = "datastorage-system"
COMPONENT = REPOSITORY / "manifests" / "components" / "recorded-by"
POLICY = ("mutatingadmissionpolicy", RECORDED_BY_POLICY)
BINDING = ("mutatingadmissionpolicybinding", RECORDED_BY_POLICY)
OPERATOR = f"system:serviceaccount:{SYSTEM}:datastorage"
FORGED = {RECORDED_BY_ANNOTATION: "system:admin-of-everything"}

MAKERS: dict[ResourceKind, Callable[..., dict[str, Any]]] = {
    AUDIT_RECORD: audit_record,
    ACTION_TRACE: action_trace,
}
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


def forged(kind: ResourceKind, name: str) -> dict[str, Any]:
    """Return an object that claims to be by somebody else."""
    made = MAKERS[kind](name)
    return {**made, "metadata": {**made["metadata"], "annotations": {**FORGED, "note": "kept"}}}


class Users:
    """A namespace with two ServiceAccounts that are cluster-admins, and the administrator of the cluster."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        for name in ("first", "second"):
            cluster.kubectl("create", "serviceaccount", name, "-n", namespace)
            subject = f"--serviceaccount={namespace}:{name}"
            binding = f"{namespace}-{name}"
            cluster.kubectl("create", "clusterrolebinding", binding, "--clusterrole=cluster-admin", subject)
        whoami = cluster.kubectl("auth", "whoami", "-o", "json").stdout
        self.admin: str = json.loads(whoami)["status"]["userInfo"]["username"]

    def name(self, account: str) -> str:
        return f"system:serviceaccount:{self.namespace}:{account}"

    def kubeconfig(self, account: str) -> Path:
        return self.cluster.service_account_kubeconfig(self.namespace, account)

    def kubectl(self, *arguments: str, by: str | None = None, body: Any = None) -> str:
        """Run kubectl as a ServiceAccount, or as the administrator; return its output."""
        return self.cluster.kubectl(
            *arguments,
            "-n",
            self.namespace,
            input=None if body is None else json.dumps(body),
            kubeconfig=None if by is None else self.kubeconfig(by),
        ).stdout

    def author(self, kind: ResourceKind, name: str) -> str | None:
        found = self.cluster.get(kind.crd_name, name, "-n", self.namespace)
        author: str | None = found["metadata"].get("annotations", {}).get(RECORDED_BY_ANNOTATION)
        return author

    def close(self) -> None:
        bindings = [f"{self.namespace}-{name}" for name in ("first", "second")]
        self.cluster.kubectl("delete", "clusterrolebinding", *bindings)


@pytest.fixture(scope="module")
def before(mutating_policies: None, control_plane: Cluster) -> Iterator[str]:
    """Provide a namespace with two objects from before the policy; one has a name that nobody has checked."""
    del mutating_policies  # otherwise these tests are skipped
    namespace = "e2e-before-the-policy"
    control_plane.kubectl("create", "namespace", namespace)
    for manifest in (forged(ACTION_TRACE, "forged"), action_trace("plain")):
        control_plane.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(manifest))
    yield namespace
    control_plane.kubectl("label", "namespace", namespace, f"{GROUP}/deletion-guard=disabled")
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module", autouse=True)
def policy(control_plane: Cluster, before: str) -> Iterator[None]:
    """Install the component without the setting, and wait until the API server applies it."""
    del before  # it must be there first
    install(control_plane)
    yield
    control_plane.kubectl("delete", "-f", str(COMPONENT / "policy.yaml"), "-f", str(COMPONENT / "rbac.yaml"))


def install(cluster: Cluster) -> None:
    """Create what is not there, and wait until objects are stamped."""
    cluster.apply(COMPONENT / "rbac.yaml", COMPONENT / "policy.yaml")
    probe = json.dumps(audit_record("stamp-probe"))
    dry_run = ("create", "-n", "default", "--dry-run=server", "-o", "json", "-f", "-")
    until_blocking(
        lambda: RECORDED_BY_ANNOTATION in cluster.kubectl(*dry_run, input=probe).stdout,
        what="objects are stamped",
    )


@pytest.fixture
def users(control_plane: Cluster, namespace: str) -> Iterator[Users]:
    made = Users(control_plane, namespace)
    yield made
    made.close()


@each_kind
def test_a_name_that_is_forged_at_the_creation_is_replaced(users: Users, kind: ResourceKind) -> None:
    for by, name in (("first", "by-first"), (None, "by-admin")):
        users.kubectl("create", "-f", "-", by=by, body=forged(kind, name))
        assert users.author(kind, name) == (users.name(by) if by else users.admin)
    found = users.cluster.get(kind.crd_name, "by-first", "-n", users.namespace)
    assert found["metadata"]["annotations"]["note"] == "kept"


@each_kind
def test_without_annotations_the_name_is_added(users: Users, kind: ResourceKind) -> None:
    plain = MAKERS[kind]("plain")
    nothing = {**MAKERS[kind]("nothing"), "metadata": {"name": "nothing", "annotations": None}}
    for body in (plain, nothing):
        users.kubectl("create", "-f", "-", by="first", body=body)
        assert users.author(kind, body["metadata"]["name"]) == users.name("first")


@each_kind
def test_nobody_changes_the_name_afterwards(users: Users, kind: ResourceKind) -> None:
    users.kubectl("create", "-f", "-", by="first", body=MAKERS[kind]("kept"))
    annotation = f"{RECORDED_BY_ANNOTATION}=somebody"
    users.kubectl("annotate", kind.crd_name, "kept", annotation, "--overwrite", by="second")
    assert users.author(kind, "kept") == users.name("first")
    users.kubectl("annotate", kind.crd_name, "kept", annotation, "--overwrite")
    assert users.author(kind, "kept") == users.name("first")
    users.kubectl("annotate", kind.crd_name, "kept", f"{RECORDED_BY_ANNOTATION}-", "note=x", by="second")
    assert users.author(kind, "kept") == users.name("first")
    removal = json.dumps([{"op": "remove", "path": "/metadata/annotations"}])
    users.kubectl("patch", kind.crd_name, "kept", "--type=json", "-p", removal, by="second")
    assert users.author(kind, "kept") == users.name("first")


@each_kind
def test_server_side_apply_does_not_own_the_name(users: Users, kind: ResourceKind) -> None:
    apply = ("apply", "--server-side", "-f", "-")
    users.kubectl(*apply, "--field-manager=one", by="first", body=forged(kind, "applied"))
    assert users.author(kind, "applied") == users.name("first")
    for manager, force in (("one", "--force-conflicts"), ("two", "--force-conflicts")):
        manager_option = f"--field-manager={manager}"
        users.kubectl(*apply, manager_option, force, by="second", body=forged(kind, "applied"))
        assert users.author(kind, "applied") == users.name("first"), "the spec is the same"


def test_a_change_of_the_spec_names_who_made_it(users: Users) -> None:
    users.kubectl("create", "-f", "-", by="first", body=action_trace("grows"))
    change = {"spec": {"stateAfter": {"replicas": 5}}, "metadata": {"annotations": FORGED}}
    users.kubectl(
        "patch", ACTION_TRACE.crd_name, "grows", "--type=merge", "-p", json.dumps(change), by="second"
    )
    assert users.author(ACTION_TRACE, "grows") == users.name("second")
    users.kubectl("label", ACTION_TRACE.crd_name, "grows", "looked-at=yes", by="first")
    assert users.author(ACTION_TRACE, "grows") == users.name("second")
    applied = {**forged(ACTION_TRACE, "grows")}
    applied["spec"] = {**applied["spec"], "parameters": {"replicas": 3}}
    users.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", by="first", body=applied)
    assert users.author(ACTION_TRACE, "grows") == users.name("first")


@each_kind
def test_the_status_can_not_carry_a_name(users: Users, kind: ResourceKind) -> None:
    users.kubectl("create", "-f", "-", by="first", body=MAKERS[kind]("reported"))
    status = {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "metadata": {"name": "reported", "namespace": users.namespace, "annotations": FORGED},
        "status": {"phase": "Pending", "observedGeneration": 1},
    }
    users.cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--subresource=status", "--validate=false"),
        *("-f", "-"),
        input=json.dumps(status),
        kubeconfig=users.cluster.service_account_kubeconfig(SYSTEM, "datastorage"),
    )
    found = users.cluster.get(kind.crd_name, "reported", "-n", users.namespace)
    assert found["status"]["phase"] == "Pending"
    assert users.author(kind, "reported") == users.name("first")


def test_impersonation_shows_who_was_impersonated(users: Users) -> None:
    """The API server hands on the impersonated name; its audit log has both."""
    users.kubectl("create", "-f", "-", f"--as={users.name('second')}", body=audit_record("posed"))
    assert users.author(AUDIT_RECORD, "posed") == users.name("second")


@each_kind
def test_a_deletion_leaves_the_name(users: Users, kind: ResourceKind) -> None:
    manifest = MAKERS[kind]("leaving")
    manifest["metadata"]["finalizers"] = [f"{GROUP}/test"]
    users.kubectl("create", "-f", "-", by="first", body=manifest)
    operator = users.cluster.service_account_kubeconfig(SYSTEM, "datastorage")
    users.cluster.kubectl(
        *("delete", kind.crd_name, "leaving", "-n", users.namespace, "--wait=false"), kubeconfig=operator
    )
    assert users.author(kind, "leaving") == users.name("first")
    users.kubectl(
        "annotate", kind.crd_name, "leaving", f"{RECORDED_BY_ANNOTATION}=x", "--overwrite", by="second"
    )
    assert users.author(kind, "leaving") == users.name("first")
    users.kubectl("patch", kind.crd_name, "leaving", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert users.kubectl("get", kind.crd_name, "leaving", "--ignore-not-found") == ""


def test_nobody_adds_a_name_to_an_object_from_before(users: Users, before: str) -> None:
    def annotations(name: str, *change: str) -> dict[str, str]:
        trace = (ACTION_TRACE.crd_name, name, "-n", before)
        users.cluster.kubectl("annotate", *trace, "--overwrite", *change)
        found: dict[str, str] = users.cluster.get(*trace)["metadata"]["annotations"]
        return found

    assert annotations("plain", f"{RECORDED_BY_ANNOTATION}=x", "note=y") == {"note": "y"}
    # The operator takes no name from an object that is older than the policy, so this one does no harm.
    assert annotations("forged", f"{RECORDED_BY_ANNOTATION}=x") == {**FORGED, "note": "kept"}


@each_kind
def test_the_largest_objects_are_stamped(users: Users, kind: ResourceKind) -> None:
    field = "details" if kind is AUDIT_RECORD else "parameters"
    manifest = MAKERS[kind]("large", **{field: {f"key-{n}": "x" * 100 for n in range(9_000)}})
    users.kubectl("create", "-f", "-", by="first", body=manifest)
    users.kubectl("label", kind.crd_name, "large", "looked-at=yes", by="second")
    assert users.author(kind, "large") == users.name("first")


def test_an_invalid_object_gets_the_usual_answer(users: Users) -> None:
    body = {**audit_record("invalid"), "spec": None}
    done = users.cluster.kubectl(
        "create", "--validate=false", "-n", users.namespace, "-f", "-", input=json.dumps(body), check=False
    )
    assert "spec: Required value" in done.stderr


@each_kind
def test_kubectl_shows_the_name(users: Users, kind: ResourceKind) -> None:
    users.kubectl("create", "-f", "-", by="first", body=MAKERS[kind]("shown"))
    head, line = users.kubectl("get", kind.crd_name, "shown", "-o", "wide").splitlines()
    assert "RECORDED BY" in head
    assert users.name("first") in line
    assert "RECORDED BY" not in users.kubectl("get", kind.crd_name, "shown")


@asynccontextmanager
async def looking(
    cluster: Cluster, account: tuple[str, str] = (SYSTEM, "datastorage")
) -> AsyncIterator[RecordedByPolicy]:
    """Open a look at the policy, with the rights of the operator or of another ServiceAccount."""
    kubeconfig = cluster.service_account_kubeconfig(*account)
    async with Transport(lambda: load_endpoint({"KUBECONFIG": str(kubeconfig)})) as transport:
        yield RecordedByPolicy(transport)


async def test_the_operator_sees_since_when_the_policy_is_in_force(control_plane: Cluster) -> None:
    created = [
        time_in(control_plane.get(*which)["metadata"], "creationTimestamp") for which in (POLICY, BINDING)
    ]
    async with looking(control_plane) as look:
        assert await look.look() == InForce(max(time for time in created if time is not None))


async def test_without_the_right_the_problem_says_what_to_apply(users: Users) -> None:
    users.cluster.kubectl("create", "serviceaccount", "nobody", "-n", users.namespace)
    async with looking(users.cluster, (users.namespace, "nobody")) as look:
        answer = await look.look()
    assert answer.since is None
    assert "rbac.yaml" in (answer.problem or "")


class Bench:
    """An operator, and users that record in its namespace."""

    def __init__(self, workbench: Workbench, users: Users) -> None:
        self.namespace = workbench.namespace
        self.database_url = workbench.database_url
        self.kubeconfigs = {name: users.kubeconfig(name) for name in ("first", "second")}

    async def create(self, kind: ResourceKind, name: str, by: str = "first") -> dict[str, Any]:
        """Create an object that claims to be by somebody else."""
        async with BulkClient.connect(self.kubeconfigs[by]) as client:
            return await client.create(kind, self.namespace, forged(kind, name))

    async def change(self, name: str, replicas: int, by: str) -> None:
        """Change the spec of an ActionTrace, once its present one is stored."""
        async with BulkClient.connect(self.kubeconfigs[by]) as client:

            async def recorded() -> bool:
                found = await client.get(ACTION_TRACE, self.namespace, name)
                status = {} if found is None else found.get("status", {})
                return (
                    found is not None and status.get("observedGeneration") == found["metadata"]["generation"]
                )

            await until(recorded, what="the generation before is stored")
            change = {"spec": {"stateAfter": {"replicas": replicas}}, "metadata": {"annotations": FORGED}}
            await client.patch(ACTION_TRACE, self.namespace, name, change)

    async def authors(self, kind: ResourceKind, name: str, generations: int = 1) -> list[str | None]:
        """Wait until the generations are stored; return their authors."""

        async def stored() -> list[Any] | None:
            found = await rows(self.database_url, self.namespace, table_of(kind))
            of_name = [row for row in found if row["name"] == name]
            return of_name if len(of_name) == generations else None

        found = await until(stored, what=f"{name} is stored")
        assert {row["via"] for row in found} == {"cluster"}
        return [row["recorded_by"] for row in found]


async def note(operator: OperatorProcess) -> str:
    """Return what /ready says about the policy."""
    _, answer = await asyncio.to_thread(operator.ask, "/ready")
    said: str = json.loads(answer)["checks"]["recorded_by"]
    return said


async def test_without_the_setting_no_name_is_believed(workbench: Workbench, users: Users) -> None:
    await asyncio.to_thread(workbench.start_operator, EMBEDDING_PROVIDER="none")
    bench = Bench(workbench, users)
    for kind in KINDS:
        await bench.create(kind, "unknown")
        assert await bench.authors(kind, "unknown") == [None]


async def test_the_authors_are_in_the_archive(workbench: Workbench, users: Users) -> None:
    """Each generation has its own author, and none if the policy was not there all the time."""
    operator = await asyncio.to_thread(
        workbench.start_operator, RECORDED_BY_POLICY="true", EMBEDDING_PROVIDER="none"
    )
    bench, cluster = Bench(workbench, users), workbench.cluster
    first, second = users.name("first"), users.name("second")
    async with looking(cluster) as look:
        since = (await look.look()).since
    assert since is not None
    numbers = itertools.count()

    async def old_enough() -> bool:
        made = await bench.create(AUDIT_RECORD, f"probe-{next(numbers)}")
        created_at = time_in(made["metadata"], "creationTimestamp")
        return created_at is not None and (created_at - since).total_seconds() > Pace().margin_seconds

    await until(old_enough, what="the policy is old enough")
    await bench.create(AUDIT_RECORD, "record")
    assert await bench.authors(AUDIT_RECORD, "record") == [first]
    await bench.create(ACTION_TRACE, "trace", by="second")
    await bench.change("trace", 5, by="first")
    assert await bench.authors(ACTION_TRACE, "trace", generations=2) == [second, first]
    assert await note(operator) == "ok"

    cluster.kubectl("delete", *POLICY)
    probe = json.dumps(audit_record("stamp-probe"))
    dry_run = ("create", "-n", "default", "--dry-run=server", "-o", "json", "-f", "-")
    until_blocking(
        lambda: RECORDED_BY_ANNOTATION not in cluster.kubectl(*dry_run, input=probe).stdout,
        what="objects are no longer stamped",
    )
    await bench.create(AUDIT_RECORD, "meanwhile")
    assert await bench.authors(AUDIT_RECORD, "meanwhile") == [None]
    assert "apply manifests/components/recorded-by" in await note(operator)
    await bench.change("trace", 6, by="second")
    install(cluster)
    # The new policy stamps this change, but nobody knows what happened to the object before.
    await bench.change("trace", 7, by="second")
    expected = [second, first, None, None]
    assert await bench.authors(ACTION_TRACE, "trace", generations=4) == expected


async def test_a_policy_that_was_changed_for_a_while_does_not_count(control_plane: Cluster) -> None:
    """Only a new policy counts again, so this test is the last one."""
    for value in ("Ignore", "Fail"):
        patch = json.dumps({"spec": {"failurePolicy": value}})
        control_plane.kubectl("patch", *POLICY, "--type=merge", "-p", patch)
    async with looking(control_plane) as look:
        answer = await look.look()
        assert answer.since is None
        assert "delete it and apply the component again" in (answer.problem or "")
        control_plane.kubectl("delete", *BINDING)
        control_plane.kubectl("delete", *POLICY)
        answer = await look.look()
        assert "is missing; apply manifests/components/recorded-by" in (answer.problem or "")
    install(control_plane)
