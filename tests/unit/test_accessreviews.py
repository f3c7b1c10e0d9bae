"""The API server is asked about callers, and only a clear answer counts."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from datastorage.errors import ClusterUnavailableError
from datastorage.kube.accessmonitor import Right
from datastorage.kube.accessreviews import AccessReviews, ReviewLimits
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.records.caller import Access, Caller
from harness.apiserver import FakeApiServer

TEXT = "eyJhbGciOi.the-bearer-token.c2lnbmF0dXJl"
TOKEN = SecretStr(TEXT)
AUDIENCES = ("datastorage", "archive")
ANN = Caller("ann", "u-1", ("team", "system:authenticated"), (("a/pod", ("x", "y")), ("b/scopes", ("z",))))
USER: dict[str, Any] = {
    "username": "ann",
    "uid": "u-1",
    "groups": ["team", "system:authenticated"],
    "extra": {"b/scopes": ["z"], "a/pod": ["x", "y"]},
}
LIST = Access("list", "records", "archive.datastorage.kubernaut.io", "payments")


class Bench:
    def __init__(self, server: FakeApiServer, transport: Transport, reviews: AccessReviews) -> None:
        self.server, self.transport, self.reviews = server, transport, reviews

    async def caller(self, status: Any) -> Caller | None:
        self.server.answer(201, {"status": status})
        return await self.reviews.caller_of(TOKEN, AUDIENCES)

    async def allowed(self, status: Any) -> bool:
        self.server.answer(201, {"status": status})
        return await self.reviews.is_allowed(ANN, LIST)

    async def ask(self, about: str) -> object:
        if about == "token":
            return await self.reviews.caller_of(TOKEN, AUDIENCES)
        return await self.reviews.is_allowed(ANN, LIST)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        yield Bench(server, transport, AccessReviews(transport))


ABOUT = pytest.mark.parametrize("about", ["token", "access"])


async def test_a_token_has_an_owner(bench: Bench) -> None:
    status = {"authenticated": True, "user": USER, "audiences": ["archive"]}
    assert await bench.caller(status) == ANN
    (request,) = bench.server.requests
    assert (request.method, request.path) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
    assert request.body == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": TEXT, "audiences": ["datastorage", "archive"]},
    }
    assert request.headers["Authorization"] == "Bearer the-token", "our own credentials, not the caller's"


async def test_a_user_needs_no_more_than_a_name(bench: Bench) -> None:
    status = {"authenticated": True, "user": {"username": "ann"}, "audiences": ["archive"]}
    assert await bench.caller(status) == Caller("ann")


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"error": "expired"},
        {"authenticated": False, "user": USER, "audiences": ["archive"]},
        {"authenticated": "true", "user": USER, "audiences": ["archive"]},
        {"authenticated": 1, "user": USER, "audiences": ["archive"]},
        {"authenticated": True, "user": USER},
        {"authenticated": True, "user": USER, "audiences": []},
        {"authenticated": True, "user": USER, "audiences": ["https://kubernetes.default.svc"]},
        {"authenticated": True, "user": USER, "audiences": "datastorage"},
    ],
)
async def test_a_token_without_a_clear_yes_has_none(bench: Bench, status: dict[str, Any]) -> None:
    assert await bench.caller(status) is None


@pytest.mark.parametrize(
    "user",
    [
        None, "ann", {}, {"username": ""}, {"username": 7}, {"username": "ann", "groups": "team"},
        {"username": "ann", "groups": [1]}, {"username": "ann", "extra": {"a": "b"}},
    ],
)  # fmt: skip
async def test_a_user_that_can_not_be_read_is_no_answer(bench: Bench, user: Any) -> None:
    with pytest.raises(ClusterUnavailableError, match="names no user"):
        await bench.caller({"authenticated": True, "user": user, "audiences": ["datastorage"]})


async def test_all_that_is_known_of_the_caller_is_sent(bench: Bench) -> None:
    assert await bench.allowed({"allowed": True}) is True
    (request,) = bench.server.requests
    assert (request.method, request.path) == ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews")
    assert request.body == {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "verb": "list", "group": "archive.datastorage.kubernaut.io", "resource": "records",
                "namespace": "payments",
            },
            "user": "ann", "uid": "u-1", "groups": ["team", "system:authenticated"],
            "extra": {"a/pod": ["x", "y"], "b/scopes": ["z"]},
        },
    }  # fmt: skip


async def test_the_whole_cluster_has_no_namespace(bench: Bench) -> None:
    bench.server.answer(201, {"status": {"allowed": True}})
    assert await bench.reviews.is_allowed(ANN, Access("create", "auditrecords", "g")) is True
    (request,) = bench.server.requests
    assert request.body["spec"]["resourceAttributes"] == {
        "verb": "create", "group": "g", "resource": "auditrecords",
    }  # fmt: skip


@pytest.mark.parametrize(
    "status",
    [
        {}, {"allowed": False}, {"allowed": "true"}, {"allowed": 1}, {"allowed": None},
        {"allowed": True, "denied": True}, {"allowed": True, "denied": "no"}, {"denied": False},
        {"allowed": False, "evaluationError": "no such role"},
    ],
)  # fmt: skip
async def test_nothing_but_a_clear_yes_is_a_right(bench: Bench, status: dict[str, Any]) -> None:
    assert await bench.allowed(status) is False


@ABOUT
@pytest.mark.parametrize("answer", [{}, {"status": None}, {"status": "ok"}, {"status": [True]}])
async def test_without_a_status_there_is_no_answer(bench: Bench, about: str, answer: Any) -> None:
    bench.server.answer(201, answer)
    with pytest.raises(ClusterUnavailableError, match="no status"):
        await bench.ask(about)


@ABOUT
@pytest.mark.parametrize("code", [302, 400, 401, 404, 405, 409, 410, 413, 415, 422, 429, 500, 503])
async def test_every_other_answer_is_none(bench: Bench, about: str, code: int) -> None:
    bench.server.refuse(code, "no")
    with pytest.raises(ClusterUnavailableError):
        await bench.ask(about)


@ABOUT
async def test_a_page_of_a_proxy_is_no_answer(bench: Bench, about: str) -> None:
    bench.server.answers.append(web.Response(text="<html>please log in</html>"))
    with pytest.raises(ClusterUnavailableError, match="not a JSON object"):
        await bench.ask(about)


@ABOUT
async def test_an_answer_has_a_bounded_size(bench: Bench, about: str) -> None:
    reviews = AccessReviews(bench.transport, ReviewLimits(answer_bytes=1000))
    bench.reviews = reviews
    bench.server.answer(201, {"status": {"allowed": True, "reason": "x" * 1000}})
    with pytest.raises(ClusterUnavailableError, match="more than 1000 bytes"):
        await bench.ask(about)


async def test_a_server_that_is_away_is_no_answer() -> None:
    async with FakeApiServer().serve() as server:
        transport = server.transport()
    async with transport:
        with pytest.raises(ClusterUnavailableError, match="Connection refused"):
            await AccessReviews(transport).caller_of(TOKEN, AUDIENCES)


@pytest.mark.parametrize(
    ("about", "right"),
    [
        ("token", Right("create", "authentication.k8s.io", "tokenreviews", None)),
        ("access", Right("create", "authorization.k8s.io", "subjectaccessreviews", None)),
    ],
)
async def test_a_missing_right_of_ours_is_an_error_with_its_remedy(
    bench: Bench, about: str, right: Right
) -> None:
    bench.server.refuse(403, "no")
    with pytest.raises(ClusterUnavailableError, match="ClusterRole system:auth-delegator"):
        await bench.ask(about)
    assert bench.transport.monitor.suspects() == (right,), "so that /ready names it"


def echo(code: int) -> web.Response:
    """Answer with the request, as some proxies do to explain a refusal."""
    return web.Response(status=code, text=f"there is something wrong with {TEXT}", reason="No")


@pytest.mark.parametrize("code", [200, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503])
async def test_the_token_is_in_no_error_and_in_no_log(
    bench: Bench, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench.server.answers = [echo(code), echo(code)]
    with pytest.raises(ClusterUnavailableError) as caught:
        await bench.reviews.caller_of(TOKEN, AUDIENCES)
    error: BaseException | None = caught.value
    while error is not None:
        assert "bearer-token" not in repr(error)
        error = error.__cause__ or error.__context__
    assert "bearer-token" not in (bench.transport.monitor.problem() or "")
    assert "bearer-token" not in caplog.text
    assert bench.server.requests[0].body["spec"]["token"] == TEXT, "it was sent"


def test_a_request_does_not_show_its_body() -> None:
    target = Target(Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview"))
    assert TEXT not in repr(ApiRequest("POST", target, body={"spec": {"token": TEXT}}, has_secret=True))


async def test_the_limit_of_time_holds(bench: Bench) -> None:
    reviews = AccessReviews(bench.transport, ReviewLimits(seconds=1e-6))
    with pytest.raises(ClusterUnavailableError, match="no answer in time"):
        await reviews.is_allowed(ANN, LIST)
