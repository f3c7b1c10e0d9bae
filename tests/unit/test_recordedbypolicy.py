"""The look at the policy that names authors: in force only if it is ours, and was never changed."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import web

from datastorage.errors import ClusterUnavailableError
from datastorage.kube.recordedbypolicy import InForce, RecordedByPolicy
from datastorage.resources.kinds import RECORDED_BY_POLICY
from harness.apiserver import FakeApiServer

COMPONENT = Path(__file__).resolve().parents[2] / "manifests" / "components" / "recorded-by"
SPECS = [document["spec"] for document in yaml.safe_load_all((COMPONENT / "policy.yaml").read_text())]
PLURALS = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
EARLIER, LATER = "2026-03-01T10:00:00Z", "2026-03-02T10:00:00Z"


class Bench:
    """A look at a policy and a binding that a test has chosen."""

    def __init__(self, server: FakeApiServer, look: RecordedByPolicy) -> None:
        self.server = server
        self._look = look

    async def look(self) -> InForce:
        return await self._look.look()

    def finds(self, *created: str, change: Mapping[str, Any] | None = None) -> None:
        """Let the API server answer with a policy and a binding; ``change`` replaces fields of both."""
        found: dict[str, Any] = {}
        for kind, spec, at in zip(PLURALS, SPECS, created, strict=True):
            metadata = {"name": RECORDED_BY_POLICY, "generation": 1, "creationTimestamp": at}
            fields: dict[str, Any] = {"metadata": metadata, "spec": spec}
            found[kind] = fields | {name: {**fields[name], **new} for name, new in (change or {}).items()}
        # Both are asked for at once, and may arrive in any order.
        self.server.answers += [lambda request: web.json_response(found[request.path.split("/")[-2]])] * 2


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        yield Bench(server, RecordedByPolicy(transport))


@pytest.mark.parametrize("created", [(EARLIER, LATER), (LATER, EARLIER)])
async def test_it_is_in_force_since_the_later_of_both(bench: Bench, created: tuple[str, str]) -> None:
    bench.finds(*created)
    assert await bench.look() == InForce(datetime(2026, 3, 2, 10, tzinfo=UTC))
    assert {request.path for request in bench.server.requests} == {
        f"/apis/admissionregistration.k8s.io/v1/{plural}/{RECORDED_BY_POLICY}" for plural in PLURALS
    }
    assert {tuple(request.query) for request in bench.server.requests} == {()}, "no answer of a cache"


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"generation": 3}},
        {"metadata": {"generation": None}},
        {"spec": {"failurePolicy": "Ignore"}},
        {"spec": {"matchConditions": [{"name": "nobody", "expression": "false"}]}},
    ],
)
async def test_another_policy_or_a_changed_one_does_not_count(
    bench: Bench, change: Mapping[str, Any]
) -> None:
    bench.finds(EARLIER, EARLIER, change=change)
    answer = await bench.look()
    assert answer.since is None
    assert "delete it and apply the component again" in (answer.problem or "")


@pytest.mark.parametrize(
    ("status", "remedy"), [(404, "apply manifests/components/recorded-by"), (403, "rbac.yaml")]
)
async def test_what_is_missing_is_named(bench: Bench, status: int, remedy: str) -> None:
    for _ in SPECS:
        bench.server.refuse(status, "no")
    answer = await bench.look()
    assert answer.since is None
    assert remedy in (answer.problem or "")


async def test_an_api_server_without_such_policies_is_named(bench: Bench) -> None:
    for _ in SPECS:
        bench.server.answer(404, {"kind": "Status", "message": "the server could not find the resource"})
    answer = await bench.look()
    assert "Kubernetes 1.36 or later is needed" in (answer.problem or "")


@pytest.mark.parametrize(
    "answers", [[(503, {})], [(200, {"spec": {}})], [(200, {"metadata": {}, "spec": {}})]]
)
async def test_no_answer_says_nothing(bench: Bench, answers: list[tuple[int, Any]]) -> None:
    for status, body in answers * len(SPECS):
        bench.server.answer(status, body)
    with pytest.raises(ClusterUnavailableError):
        await bench.look()
