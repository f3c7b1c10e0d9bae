"""Requests for any resource: their paths, their rights, and the errors that name the object."""

import pytest
from aiohttp import web

from datastorage.errors import ObjectChangedError, ObjectGoneError, RequestRefusedError
from datastorage.kube.accessmonitor import Right
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import AnswerTooLargeError
from harness.apiserver import FakeApiServer

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
LEASE = Target(LEASES, "ops", "shard-0")


@pytest.mark.parametrize(
    ("request_", "path", "verb"),
    [
        (ApiRequest("GET", LEASE), "/apis/coordination.k8s.io/v1/namespaces/ops/leases/shard-0", "get"),
        (ApiRequest("PUT", LEASE), "/apis/coordination.k8s.io/v1/namespaces/ops/leases/shard-0", "update"),
        (ApiRequest("POST", LEASE), "/apis/coordination.k8s.io/v1/namespaces/ops/leases", "create"),
        (
            ApiRequest("GET", Target(LEASES, "ops"), query={"limit": "2", "continue": "a/b="}),
            "/apis/coordination.k8s.io/v1/namespaces/ops/leases?limit=2&continue=a%2Fb%3D",
            "list",
        ),
        (
            ApiRequest("POST", Target(TOKEN_REVIEWS)),
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "create",
        ),
        (ApiRequest("GET", Target(Resource("", "v1", "pods", "Pod"))), "/api/v1/pods", "list"),
        (
            ApiRequest("PATCH", Target(LEASES, "ops", "a b", "status")),
            "/apis/coordination.k8s.io/v1/namespaces/ops/leases/a%20b/status",
            "patch",
        ),
    ],
)
def test_each_request_has_its_path_and_verb(request_: ApiRequest, path: str, verb: str) -> None:
    assert (request_.path, request_.verb) == (path, verb)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (LEASE, "Lease ops/shard-0"),
        (Target(LEASES, "ops"), "Lease in namespace ops"),
        (Target(TOKEN_REVIEWS), "TokenReview"),
        (Target(Resource("", "v1", "namespaces", "Namespace"), name="ops"), "Namespace ops"),
    ],
)
def test_each_target_has_a_name_for_errors(target: Target, name: str) -> None:
    assert str(target) == name


async def test_another_resource_is_asked_for_with_one_call() -> None:
    spec = {"holderIdentity": "a"}
    async with FakeApiServer().serve() as server, server.transport() as transport:
        server.answer(200, {"spec": spec})
        assert await transport.call(ApiRequest("PUT", LEASE, body={"spec": spec})) == {"spec": spec}
        [seen] = server.requests
        assert (seen.method, seen.path, seen.body) == ("PUT", LEASE.path, {"spec": spec})
        assert seen.headers["Content-Type"] == seen.headers["Accept"] == "application/json"


@pytest.mark.parametrize(("status", "error"), [(409, ObjectChangedError), (404, ObjectGoneError)])
async def test_errors_name_the_object_of_another_resource(status: int, error: type[Exception]) -> None:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        server.refuse(status, "the reason")
        with pytest.raises(error, match=rf"^Lease ops/shard-0: API server \({status}\): the reason$"):
            await transport.call(ApiRequest("GET", LEASE))


@pytest.mark.parametrize("review_right", [False, True])
async def test_the_right_to_a_refused_write_is_suspect_only_if_asked(*, review_right: bool) -> None:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        server.refuse(403, "no")
        with pytest.raises(RequestRefusedError):
            await transport.call(ApiRequest("POST", LEASE, body={}), review_right=review_right)
        suspect = Right("create", "coordination.k8s.io", "leases", "ops")
        assert transport.monitor.suspects() == ((suspect,) if review_right else ())


async def test_a_repeated_request_notes_a_missing_right_until_it_succeeds() -> None:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        request = ApiRequest("GET", Target(LEASES, "ops"))
        server.refuse(403, "no")
        with pytest.raises(RequestRefusedError):
            await transport.call(request, repeated=True)
        problem = f"API server (403): no right to list {request.target.path}: no"
        assert transport.monitor.problem() == problem
        server.answer(200, {"items": []})
        await transport.call(ApiRequest("GET", LEASE))
        assert transport.monitor.problem() == problem, "another request is no proof of this right"
        server.answer(200, {"items": []})
        await transport.call(request, repeated=True)
        assert transport.monitor.problem() is None


async def test_an_answer_is_read_up_to_a_limit() -> None:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        server.answers = [web.Response(body=b"{" + b" " * 100_000 + b"}") for _ in range(2)]
        assert await transport.call(ApiRequest("GET", LEASE)) == {}
        with pytest.raises(AnswerTooLargeError):
            await transport.call(ApiRequest("GET", LEASE), max_bytes=10_000)
