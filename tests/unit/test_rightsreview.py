"""A refused write leads to a question about the right; /ready names the right while it is missing."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from datastorage.errors import RequestRefusedError
from datastorage.kube.accessmonitor import AccessMonitor
from datastorage.kube.objects import ObjectClient
from datastorage.kube.rightsreview import RightsReview
from datastorage.kube.transport import Transport
from datastorage.resources.kinds import AUDIT_RECORD
from harness.apiserver import FakeApiServer
from harness.polling import eventually
from tests.support.tasks import Spawn

PATCH = "API server (403): no right to patch auditrecords/status in namespace shop"


class Bench:
    """A client whose writes are refused, and the review that asks why."""

    def __init__(self, server: FakeApiServer, transport: Transport) -> None:
        self.server = server
        self.transport = transport
        self.client = ObjectClient(transport)
        self.recoveries = 0
        self.review = RightsReview(transport, on_recovery=self._recovered, pause_seconds=0.0)

    def _recovered(self) -> None:
        self.recoveries += 1

    @property
    def reviews(self) -> list[object]:
        return [
            request.body["spec"]["resourceAttributes"]
            for request in self.server.requests
            if request.path.endswith("/selfsubjectaccessreviews")
        ]

    async def refused_patch(self) -> None:
        self.server.refuse(403, "no")
        with pytest.raises(RequestRefusedError):
            await self.client.patch_status(AUDIT_RECORD, "shop", "a", resource_version="7", status={})


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        yield Bench(server, transport)


async def test_a_missing_right_is_named_until_it_is_there(bench: Bench, spawn: Spawn) -> None:
    await bench.refused_patch()
    assert bench.transport.monitor.problem() is None, "it may have been an admission policy"
    answers: list[bool] = []

    def judge(_: web.Request) -> web.Response:
        answers.append(bench.transport.monitor.problem() == PATCH)
        return web.json_response({"status": {"allowed": len(answers) == 4}}, status=201)

    bench.server.answers = [judge] * 4
    spawn(bench.review.run())
    await eventually(lambda: bench.recoveries == 1)
    assert answers == [False, True, True, True]
    assert bench.transport.monitor.problem() is None
    assert bench.reviews[0] == {
        "group": "datastorage.kubernaut.io", "resource": "auditrecords", "subresource": "status",
        "verb": "patch", "namespace": "shop",
    }  # fmt: skip
    assert len(bench.reviews) == 4, "nothing is asked while all is well"


async def test_a_refusal_by_a_policy_is_no_missing_right(bench: Bench, spawn: Spawn) -> None:
    await bench.refused_patch()
    bench.server.answer(201, {"status": {"allowed": True}})
    spawn(bench.review.run())
    await eventually(lambda: bench.transport.monitor.suspects() == ())
    assert bench.transport.monitor.problem() is None
    assert bench.recoveries == 0


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_without_an_answer_nothing_is_said(bench: Bench, spawn: Spawn, status: int) -> None:
    await bench.refused_patch()
    bench.server.refuse(status, "no reviews")
    spawn(bench.review.run())
    await eventually(lambda: bench.transport.monitor.suspects() == ())
    assert "patch" not in (bench.transport.monitor.problem() or "")


async def test_many_missing_rights_are_counted() -> None:
    monitor = AccessMonitor()
    for number in range(200):
        monitor.forbidden(f"list /{number:03}", "no")
    assert monitor.problem() == (
        "API server (403): no right to list /000: no; API server (403): no right to list /001: no; "
        "API server (403): no right to list /002: no; and 197 more"
    )
