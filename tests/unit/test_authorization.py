"""A right in the whole cluster shows everything; otherwise a namespace has to be named."""

import pytest

from datastorage.api.authorization import Authorization, store_access
from datastorage.errors import ClusterUnavailableError, InvalidQueryError, NotAllowedError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.records.caller import Access, Caller, Reach

ANN = Caller("ann", groups=("team",))
ARCHIVE = "archive.datastorage.kubernaut.io"


class Reviews(AccessReviews):
    """Knows the rights of everybody."""

    def __init__(self) -> None:
        self.rights: set[tuple[str, str | None]] = set()
        self.asked: list[tuple[str, Access]] = []
        self.away = False

    async def is_allowed(self, caller: Caller, access: Access) -> bool:
        self.asked.append((caller.username, access))
        if self.away:
            raise ClusterUnavailableError("away")
        return {(caller.username, None), (caller.username, access.namespace)} & self.rights != set()


@pytest.fixture
def reviews() -> Reviews:
    return Reviews()


@pytest.fixture
def authorization(reviews: Reviews) -> Authorization:
    return Authorization(reviews)


@pytest.mark.parametrize("namespace", [None, "payments"])
async def test_a_cluster_wide_right_shows_everything(
    authorization: Authorization, reviews: Reviews, namespace: str | None
) -> None:
    reviews.rights = {("ann", None)}
    reach = await authorization.namespaces_of(ANN, "list", "records", namespace)
    assert reach == Reach(namespace, is_cluster_wide=True)
    assert reviews.asked == [("ann", Access("list", "records", ARCHIVE))]


async def test_a_right_in_a_namespace_shows_that_namespace(
    authorization: Authorization, reviews: Reviews
) -> None:
    reviews.rights = {("ann", "payments")}
    reach = await authorization.namespaces_of(ANN, "list", "records", "payments")
    assert reach == Reach("payments", is_cluster_wide=False)
    assert [access for _, access in reviews.asked] == [
        Access("list", "records", ARCHIVE),
        Access("list", "records", ARCHIVE, "payments"),
    ]


@pytest.mark.parametrize(
    ("namespace", "said"),
    [
        ("shop", "ann has no right to list records.archive.datastorage.kubernaut.io in namespace shop"),
        (
            None,
            (
                "ann has no right to list records.archive.datastorage.kubernaut.io in the whole cluster: "
                "name a namespace in which it has the right"
            ),
        ),
    ],
)
async def test_a_refusal_names_what_is_missing(
    authorization: Authorization, reviews: Reviews, namespace: str | None, said: str
) -> None:
    reviews.rights = {("ann", "payments")}
    with pytest.raises(NotAllowedError) as caught:
        await authorization.namespaces_of(ANN, "list", "records", namespace)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "name", ["", "*", "Payments", "a/b", "a.b", "-a", "a-", "a" * 64, "payments\n", "päyments", "a\x00"]
)
async def test_what_is_no_name_of_a_namespace_is_not_asked(
    authorization: Authorization, reviews: Reviews, name: str
) -> None:
    reviews.rights = {("ann", None)}
    with pytest.raises(InvalidQueryError, match=r"^namespace: "):
        await authorization.namespaces_of(ANN, "list", "records", name)
    with pytest.raises(InvalidQueryError, match=r"^namespace: "):
        await authorization.require(ANN, store_access(name))
    assert reviews.asked == []


async def test_storing_needs_the_right_to_create_in_the_namespace(
    authorization: Authorization, reviews: Reviews
) -> None:
    reviews.rights = {("ann", "payments")}
    await authorization.require(ANN, store_access("payments"))
    with pytest.raises(
        NotAllowedError, match=r"create auditrecords\.datastorage\.kubernaut\.io in namespace shop"
    ):
        await authorization.require(ANN, store_access("shop"))


async def test_answers_are_remembered_for_each_caller_and_right(
    authorization: Authorization, reviews: Reviews
) -> None:
    reviews.rights = {("ann", "payments"), ("bob", None)}
    callers = [
        ANN, Caller("bob"), Caller("ann"), Caller("ann", "u-1", ("team",)),
        Caller("ann", groups=("team",), extra=(("scopes", ("x",)),)),
    ]  # fmt: skip
    for _ in range(3):
        for caller in callers:
            for verb in ("list", "get"):
                await authorization.namespaces_of(caller, verb, "records", "payments")
    # Two rights for bob; for each of the others, two in the cluster and two in the namespace.
    assert len(reviews.asked) == 2 + 4 * 4


async def test_without_an_answer_nothing_is_allowed(authorization: Authorization, reviews: Reviews) -> None:
    reviews.rights = {("ann", None)}
    reviews.away = True
    for _ in range(2):
        with pytest.raises(ClusterUnavailableError):
            await authorization.namespaces_of(ANN, "list", "records", None)
        with pytest.raises(ClusterUnavailableError):
            await authorization.require(ANN, store_access("payments"))
    reviews.away = False
    await authorization.require(ANN, store_access("payments"))


def test_a_reach_of_everything_without_the_right_can_not_be_made() -> None:
    with pytest.raises(ValueError, match="a namespace must be named"):
        Reach(None, is_cluster_wide=False)
