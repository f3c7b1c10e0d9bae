"""The look at the guards reports what refuses nothing; an absent API server is no such thing."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import web

from datastorage.kube.guards import GUARDS, Guards, Pace
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

    def __init__(self, server: FakeApiServer, guards: Guards) -> None:
        self.guards = guards
        self.objects: dict[tuple[str, str], Mapping[str, Any]] = dict(SHIPPED)
        self.status = 404
        server.answers = [self._answer] * 10_000

    def _answer(self, request: web.Request) -> web.Response:
        plural, name = request.path.split("/")[-2:]
        kind = POLICY if plural == "validatingadmissionpolicies" else BINDING
        found = self.objects.get((kind, name))
        if found is None:
            details = {"name": name, "kind": plural}
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
        yield Bench(server, Guards(transport, Pace(interval_seconds=0.01)))


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

    await until(has_problem, seconds=10, what="the guard is missed")
    bench.objects[BINDING, DELETION] = SHIPPED[BINDING, DELETION]
    await until(has_none, seconds=10, what="the guard is back")
