"""The look at the guards reports what refuses nothing; an absent API server is no such thing."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import web

from datastorage import __version__
from datastorage.kube.guards import GUARDS, Guards, Pace
from datastorage.kube.transport import Transport
from datastorage.metrics import REGISTRY
from datastorage.resources.kinds import GROUP
from harness.apiserver import FakeApiServer
from harness.polling import until
from tests.support.tasks import Spawn

BASE = Path(__file__).resolve().parents[2] / "manifests" / "base"
SHIPPED = {
    (document["kind"].lower(), document["metadata"]["name"]): document
    for file in ("deletion-guard.yaml", "status-guard.yaml")
    for document in yaml.safe_load_all((BASE / file).read_text())
}
POLICY, BINDING = "validatingadmissionpolicy", "validatingadmissionpolicybinding"
DELETION = f"deletion-guard.{GROUP}"


class Bench:
    """Guards whose API server has what a test has chosen."""

    def __init__(self, server: FakeApiServer, transport: Transport) -> None:
        self.transport = transport
        self.guards = Guards(transport, Pace(interval_seconds=0.01))
        self.objects: dict[tuple[str, str], Mapping[str, Any]] = dict(SHIPPED)
        self.status = 404
        self.is_served = True
        server.answers = [self._answer] * 10_000

    def _answer(self, request: web.Request) -> web.Response:
        plural, name = request.path.split("/")[-2:]
        kind = POLICY if plural == "validatingadmissionpolicies" else BINDING
        found = self.objects.get((kind, name))
        if found is None:
            details = {"name": name, "kind": plural} if self.is_served else {}
            return web.json_response({"details": details, "message": f"no {name}"}, status=self.status)
        return web.json_response(found)

    def change(self, kind: str, **fields: Any) -> None:
        """Change the spec of the deletion guard, or its metadata."""
        found = self.objects[kind, DELETION]
        metadata = fields.pop("metadata", {})
        self.objects[kind, DELETION] = {
            **found, "spec": {**found["spec"], **fields}, "metadata": {**found["metadata"], **metadata},
        }  # fmt: skip

    async def problem(self) -> str | None:
        await self.guards.look()
        return await self.guards.problem()


def in_force(guard: str) -> float | None:
    return REGISTRY.get_sample_value("datastorage_guard_in_force", {"guard": guard})


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        yield Bench(server, transport)


async def test_the_shipped_guards_are_in_force(bench: Bench) -> None:
    assert await bench.problem() is None
    assert [in_force(guard) for guard in GUARDS] == [1] * 4


@pytest.mark.parametrize("kind", [POLICY, BINDING])
async def test_a_missing_one_is_named(bench: Bench, kind: str) -> None:
    del bench.objects[kind, DELETION]
    problem = await bench.problem()
    assert problem is not None
    assert DELETION in problem
    assert "missing; apply manifests/base" in problem
    assert [in_force("deletion-guard"), in_force("status-guard")] == [0, 1]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (POLICY, {"failurePolicy": "Ignore"}),
        (BINDING, {"validationActions": ["Warn"]}),
        (BINDING, {"policyName": "another"}),
    ],
)
async def test_one_that_refuses_nothing_is_named(bench: Bench, kind: str, change: dict[str, Any]) -> None:
    bench.change(kind, **change)
    assert "apply manifests/base" in (await bench.problem() or "")
    assert in_force("deletion-guard") == 0


NOT_HERE = {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["payments"]}]}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (POLICY, {"matchConstraints": {"resourceRules": []}}),
        (POLICY, {"matchConditions": [{"name": "nobody", "expression": "false"}]}),
        (POLICY, {"validations": [{"expression": "true"}]}),
        (BINDING, {"matchResources": {"namespaceSelector": NOT_HERE}}),
        (BINDING, {"validationActions": ["Deny", "Audit"]}),
    ],
)
async def test_one_that_differs_in_anything_is_named(bench: Bench, kind: str, change: dict[str, Any]) -> None:
    bench.change(kind, **change)
    problem = await bench.problem() or ""
    assert f"{DELETION} differs from that of release {__version__}" in problem
    assert "apply manifests/base of this release" in problem
    assert "missing" not in problem
    assert [in_force("deletion-guard"), in_force("status-guard")] == [0, 1]


async def test_a_guard_that_exempts_another_account_differs(bench: Bench) -> None:
    """Whatever stands for the operator while specs are compared is no name that somebody could write."""
    operator = "system:serviceaccount:datastorage-system:datastorage"
    for other in ("OPERATOR", "\0", "system:serviceaccount:default:datastorage"):
        text = json.dumps([*SHIPPED.values()]).replace(operator, json.dumps(other)[1:-1])
        bench.objects = dict(zip(SHIPPED, json.loads(text), strict=True))
        assert "differs" in (await bench.problem() or "")
        assert in_force("deletion-guard") == 0


@pytest.mark.parametrize(("own", "is_recognised"), [("team-archive", True), (None, False), ("team", False)])
async def test_guards_name_the_operator_in_its_own_namespace(
    bench: Bench, own: str | None, *, is_recognised: bool
) -> None:
    """The chart installs them for the namespace of its release."""
    text = json.dumps([*SHIPPED.values()]).replace("datastorage-system", "team-archive")
    bench.objects = dict(zip(SHIPPED, json.loads(text), strict=True))
    guards = Guards(bench.transport, namespace=own)
    await guards.look()
    assert (await guards.problem() is None) == is_recognised
    # The other two name nobody.
    assert [in_force(guard) for guard in GUARDS] == [1, 1, is_recognised, is_recognised]


async def test_an_api_server_without_such_policies_is_named(bench: Bench) -> None:
    bench.is_served = False
    bench.objects.clear()
    assert "Kubernetes 1.34 or later is needed" in (await bench.problem() or "")


async def test_an_answer_that_is_no_object_changes_nothing(bench: Bench) -> None:
    assert await bench.problem() is None
    bench.objects[POLICY, DELETION] = {"message": "please log in"}
    assert await bench.problem() is None
    assert in_force("deletion-guard") == 1


@pytest.mark.parametrize("kind", [POLICY, BINDING])
async def test_one_that_is_being_deleted_still_applies(bench: Bench, kind: str) -> None:
    bench.change(kind, metadata={"deletionTimestamp": "2026-03-01T10:00:00Z"})
    assert "is being deleted" in (await bench.problem() or "")
    assert in_force("deletion-guard") == 1


async def test_a_missing_right_is_named(bench: Bench) -> None:
    bench.status = 403
    bench.objects.clear()
    assert "apply manifests/base/rbac.yaml" in (await bench.problem() or "")
    assert in_force("deletion-guard") == 0


async def test_an_absent_api_server_changes_nothing(bench: Bench) -> None:
    assert await bench.problem() is None
    bench.status = 503
    bench.objects.clear()
    assert await bench.problem() is None
    assert in_force("deletion-guard") == 1


async def test_a_guard_that_is_back_is_noticed(bench: Bench, spawn: Spawn) -> None:
    del bench.objects[BINDING, DELETION]
    spawn(bench.guards.run())

    async def has_problem() -> bool:
        return await bench.guards.problem() is not None

    async def has_none() -> bool:
        return not await has_problem()

    await until(has_problem, what="the guard is missed")
    bench.objects[BINDING, DELETION] = SHIPPED[BINDING, DELETION]
    await until(has_none, what="the guard is back")
