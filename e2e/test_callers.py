"""The real API server says who a caller of our API is and what it may do, and is asked only once in 10 s."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from pydantic import SecretStr
from starlette.datastructures import Headers

from datastorage.api.authorization import store_access
from datastorage.api.reviewcache import Limits
from datastorage.errors import ClusterUnavailableError, NotAllowedError, NotAuthenticatedError
from datastorage.kube.rightsreview import RightsReview
from datastorage.records.caller import Access, Caller, Reach
from datastorage.resources.kinds import ARCHIVE_GROUP
from e2e.callers import CallerBench, bearer, claims_of, forged, in_seconds, resigned, signing_key
from harness import REPOSITORY
from harness.controlplane import Cluster, ControlPlane
from harness.polling import until

KEPT = Limits().seconds
READER = "datastorage-archive-reader"


@pytest_asyncio.fixture
async def bench(control_plane: Cluster, namespace: str) -> AsyncIterator[CallerBench]:
    async with CallerBench.open(control_plane, namespace) as made:
        yield made


async def refusal(bench: CallerBench, token: str) -> str:
    with pytest.raises(NotAuthenticatedError) as caught:
        await bench.caller_of(token)
    assert token not in str(caught.value)
    return str(caught.value)


async def takes_effect(bench: CallerBench, caller: Caller, access: Access, *, granted: bool) -> None:
    """Wait until the API server decides so; the answers that our side remembers take no part."""

    async def decides() -> bool:
        return await bench.reviews.is_allowed(caller, access) is granted

    await until(decides, what=f"{access} is {'granted' if granted else 'taken away'}")


def listing(namespace: str | None) -> Access:
    return Access("list", "records", ARCHIVE_GROUP, namespace)


async def test_a_token_for_us_gives_its_caller(bench: CallerBench) -> None:
    token = bench.own_token()
    caller = await bench.caller_of(token)
    account = bench.cluster.get("serviceaccount", "reader", "-n", bench.namespace)
    assert (caller.username, caller.uid) == (bench.username, account["metadata"]["uid"])
    assert caller.groups == bench.reader.groups
    assert dict(caller.extra) == {
        "authentication.kubernetes.io/credential-id": (f"JTI={claims_of(token)['jti']}",)
    }


@pytest.mark.parametrize("options", [(), ("--audience=somebody-else",)], ids=["api-server", "other"])
async def test_a_token_for_another_audience_is_refused(bench: CallerBench, options: tuple[str, ...]) -> None:
    assert "not for the audience datastorage" in await refusal(bench, bench.token(*options))


async def test_forged_tokens_are_refused(bench: CallerBench) -> None:
    token = bench.own_token()
    for how, forgery in forged(token).items():
        with pytest.raises(NotAuthenticatedError):
            pytest.fail(f"{how}: {await bench.caller_of(forgery)}")
    assert (await bench.caller_of(token)).username == bench.username


@pytest.mark.usefixtures("own_control_plane")  # its key is at hand
async def test_an_expired_token_is_refused(bench: CallerBench) -> None:
    token, key = bench.own_token(), signing_key(bench.cluster)
    valid = resigned(token, key, **in_seconds(600))
    assert (await bench.caller_of(valid)).username == bench.username, "the key is the right one"
    await refusal(bench, resigned(token, key, **in_seconds(-600)))


async def test_a_revoked_token_is_refused_when_its_time_here_is_over(bench: CallerBench) -> None:
    token, unused = bench.own_token(), bench.own_token()
    caller = await bench.caller_of(token)
    bench.cluster.kubectl("delete", "serviceaccount", "reader", "-n", bench.namespace)

    async def void() -> bool:
        return await bench.reviews.caller_of(SecretStr(token), ["datastorage"]) is None

    await until(void, what="the token is void at the API server")
    bench.now += KEPT - 0.001
    assert await bench.caller_of(token) == caller
    bench.now += 0.001
    await refusal(bench, token)
    await refusal(bench, unused)


async def test_only_the_authorization_header_counts(bench: CallerBench) -> None:
    others = {
        "Impersonate-User": "system:admin", "Impersonate-Group": "system:masters",
        "X-Remote-User": "system:admin", "X-Remote-Group": "system:masters", "X-Remote-Extra-Scopes": "all",
    }  # fmt: skip
    caller = await bench.caller_of(bench.own_token(), **others)
    assert (caller.username, caller.groups) == (bench.username, bench.reader.groups)
    with pytest.raises(NotAllowedError):
        await bench.may_list(caller, bench.namespace)
    with pytest.raises(NotAuthenticatedError, match="no credentials"):
        await bench.authentication.caller_of(Headers(others))


async def test_without_a_role_nothing_is_allowed(bench: CallerBench) -> None:
    """Not even with the right to edit everything else in the namespace."""
    caller = await bench.caller_of(bench.own_token())
    subject = f"--serviceaccount={bench.namespace}:reader"
    for role in ("view", "edit", "admin"):
        bench.bind(role, subject, namespace=bench.namespace)
    await takes_effect(bench, caller, Access("delete", "configmaps", "", bench.namespace), granted=True)
    for namespace in (bench.namespace, None):
        with pytest.raises(NotAllowedError, match=r"list records\.archive"):
            await bench.may_list(caller, namespace)
    with pytest.raises(NotAllowedError, match=f"create auditrecords.* in namespace {bench.namespace}"):
        await bench.authorization.require(caller, store_access(bench.namespace))


@pytest.mark.parametrize("to", ["account", "group"])
async def test_a_role_in_one_namespace_holds_there_alone(
    bench: CallerBench, make_namespace: Callable[[], str], to: str
) -> None:
    caller, other = await bench.caller_of(bench.own_token()), make_namespace()
    subject = {
        "account": f"--serviceaccount={bench.namespace}:reader",
        "group": f"--group=system:serviceaccounts:{bench.namespace}",
    }[to]
    bench.bind(READER, subject, namespace=bench.namespace)
    await takes_effect(bench, caller, listing(bench.namespace), granted=True)
    assert await bench.may_list(caller, bench.namespace) == Reach(bench.namespace, is_cluster_wide=False)
    with pytest.raises(NotAllowedError, match=f"in namespace {other}$"):
        await bench.may_list(caller, other)
    with pytest.raises(NotAllowedError, match="name a namespace"):
        await bench.may_list(caller, None)
    # Neither another verb nor another resource comes with it.
    for verb, resource in (("export", "records"), ("list", "auditrecords"), ("get", "secrets")):
        with pytest.raises(NotAllowedError):
            await bench.authorization.namespaces_of(caller, verb, resource, bench.namespace)


async def test_a_role_in_the_cluster_shows_everything(bench: CallerBench) -> None:
    caller = await bench.caller_of(bench.own_token())
    subject = f"--serviceaccount={bench.namespace}:reader"
    bindings = [bench.bind(role, subject) for role in (READER, "datastorage-archive-exporter")]
    try:
        for verb in ("list", "get", "export"):
            access = Access(verb, "records", ARCHIVE_GROUP)
            await takes_effect(bench, caller, access, granted=True)
            reach = await bench.authorization.namespaces_of(caller, verb, "records", None)
            assert reach == Reach(None, is_cluster_wide=True)
        assert await bench.may_list(caller, "other") == Reach("other", is_cluster_wide=True)
        with pytest.raises(NotAllowedError):
            await bench.authorization.require(caller, store_access(bench.namespace))
    finally:
        for binding in bindings:
            bench.cluster.kubectl("delete", *binding)


async def test_the_writers_role_stores_and_does_not_read(bench: CallerBench) -> None:
    caller = await bench.caller_of(bench.own_token())
    subject = f"--serviceaccount={bench.namespace}:reader"
    bench.bind("datastorage-writer", subject, namespace=bench.namespace)
    access = store_access(bench.namespace)
    await takes_effect(bench, caller, access, granted=True)
    await bench.authorization.require(caller, access)
    with pytest.raises(NotAllowedError):
        await bench.authorization.require(caller, store_access("default"))
    with pytest.raises(NotAllowedError):
        await bench.may_list(caller, bench.namespace)


@pytest.mark.parametrize("granted_in", ["namespace", "cluster"])
async def test_a_right_that_is_taken_away_ends_when_its_time_here_is_over(
    bench: CallerBench, granted_in: str
) -> None:
    caller = await bench.caller_of(bench.own_token())
    namespace = bench.namespace if granted_in == "namespace" else None
    binding = bench.bind(READER, f"--serviceaccount={bench.namespace}:reader", namespace=namespace)
    try:
        await takes_effect(bench, caller, listing(namespace), granted=True)
        reach = await bench.may_list(caller, bench.namespace)
    finally:
        bench.cluster.kubectl("delete", *binding)
    await takes_effect(bench, caller, listing(namespace), granted=False)
    bench.now += KEPT - 0.001
    assert await bench.may_list(caller, bench.namespace) == reach
    bench.now += 0.001
    with pytest.raises(NotAllowedError):
        await bench.may_list(caller, bench.namespace)


async def test_the_api_server_is_asked_once_in_each_period(
    bench: CallerBench, make_namespace: Callable[[], str]
) -> None:
    """One TokenReview for a token, and one SubjectAccessReview for a caller, verb and namespace.

    Two tokens are two callers: their ids differ, and an authorizer of the cluster may look at them.
    """
    tokens = [bench.own_token(), bench.own_token()]
    void = forged(tokens[0])["another user"]
    places = [None, bench.namespace, make_namespace()]
    bench.bind(READER, f"--serviceaccount={bench.namespace}:reader", namespace=bench.namespace)
    await takes_effect(bench, bench.reader, listing(bench.namespace), granted=True)
    before = await settled(bench)

    async def request(token: str, verb: str, namespace: str | None) -> object:
        try:
            caller = await bench.caller_of(token)
            return await bench.authorization.namespaces_of(caller, verb, "records", namespace)
        except (NotAllowedError, NotAuthenticatedError) as error:
            return type(error)

    async def burst() -> Counter[object]:
        requests = [
            request(token, verb, place)
            for _ in range(20)
            for token in (*tokens, void)
            for verb in ("get", "list")
            for place in places
        ]
        return Counter(await asyncio.gather(*requests))

    expected: Counter[str] = Counter()
    for moment in (0.0, 5.0, 10.0, 14.0, 20.0):
        bench.now = moment
        assert await burst() == {
            Reach(bench.namespace, is_cluster_wide=False): 80,
            NotAllowedError: 160,
            NotAuthenticatedError: 120,
        }
        if moment in {0.0, 10.0, 20.0}:  # a new period
            expected += Counter(tokenreviews=3, subjectaccessreviews=12)
        assert await settled(bench) - before == expected


async def settled(bench: CallerBench) -> Counter[str]:
    """Return the API server's counts when they no longer grow: it counts a request after its answer."""
    last = bench.reviews_so_far()

    async def stands() -> Counter[str] | None:
        nonlocal last
        before, last = last, await asyncio.to_thread(bench.reviews_so_far)
        return last if before == last else None

    return await until(stands, what="the API server has counted all requests")


async def test_without_the_operators_own_right_nobody_comes_in(bench: CallerBench) -> None:
    caller = await bench.caller_of(bench.own_token())
    review = RightsReview(bench.transport, on_recovery=lambda: None, pause_seconds=0.05)
    running = asyncio.create_task(review.run())
    bench.cluster.kubectl("delete", "clusterrolebinding", "datastorage-auth-delegator")
    try:
        said = await until(lambda: trouble(bench, bench.own_token()), what="it is refused")
        assert "bind the ClusterRole system:auth-delegator" in said
        with pytest.raises(ClusterUnavailableError, match="ClusterRole system:auth-delegator"):
            await bench.authorization.require(caller, store_access(bench.namespace))

        async def shown() -> bool:
            return "no right to create tokenreviews" in (bench.transport.monitor.problem() or "")

        await until(shown, what="/ready names the right")
    finally:
        bench.cluster.apply(REPOSITORY / "manifests" / "base")

    async def well() -> bool:
        return bench.transport.monitor.problem() is None

    try:
        await until(well, what="/ready is well again")
    finally:
        running.cancel()
    assert await trouble(bench, bench.own_token()) is None


async def test_while_the_api_server_is_away_only_remembered_answers_count(
    bench: CallerBench, own_control_plane: ControlPlane
) -> None:
    token, other = bench.own_token(), bench.own_token()
    caller = await bench.caller_of(token)
    with pytest.raises(NotAllowedError):
        await bench.may_list(caller, bench.namespace)
    own_control_plane.kill_api_server()
    try:
        assert await bench.caller_of(token) == caller
        with pytest.raises(NotAllowedError):
            await bench.may_list(caller, bench.namespace)
        with pytest.raises(ClusterUnavailableError):
            await bench.caller_of(other)
        bench.now += KEPT
        with pytest.raises(ClusterUnavailableError):
            await bench.caller_of(token)
        with pytest.raises(ClusterUnavailableError):
            await bench.may_list(caller, bench.namespace)
    finally:
        own_control_plane.start_api_server()
    assert await bench.caller_of(token) == caller


async def trouble(bench: CallerBench, token: str) -> str | None:
    """Return why nobody says whose token this is, or None."""
    try:
        await bench.authentication.caller_of(bearer(token))
    except ClusterUnavailableError as error:
        return str(error)
    return None
