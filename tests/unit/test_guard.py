"""Rows are shown since the creation of the namespace that the right is in, however lately that was."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datastorage.api.allowances import Allowances
from datastorage.api.authentication import Authentication
from datastorage.api.authorization import Authorization
from datastorage.api.guard import KubernetesGuard
from datastorage.errors import NotAllowedError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.records.caller import Access, Caller

BOB = Caller("bob")
FIRST = datetime(2026, 3, 5, tzinfo=UTC)
AGAIN = FIRST + timedelta(days=1)


class Cluster(AccessReviews):
    """Gives rights in a namespace, and remembers its age, as kube/namespaces.py does."""

    def __init__(self) -> None:
        self.now = 100.0
        self.may: set[str] = set()
        self.age = FIRST
        self._known: tuple[float, datetime] | None = None

    def clock(self) -> float:
        return self.now

    async def is_allowed(self, caller: Caller, access: Access) -> bool:
        return access.namespace == "shop" and caller.username in self.may

    async def created_at(self, namespace: str, *, asked_since: float) -> datetime | None:
        del namespace
        if self._known is None or self._known[0] < asked_since:
            self._known = (self.now, self.age)
        return self._known[1]

    async def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def guard(cluster: Cluster) -> KubernetesGuard:
    return KubernetesGuard(
        Authentication(cluster, ["datastorage"]),
        Authorization(cluster, clock=cluster.clock),
        cluster,
        Allowances(),
    )


async def since_of(guard: KubernetesGuard, caller: Caller) -> Any:
    return (await guard.scope_of(caller, "list", "shop")).since


async def test_a_right_in_a_namespace_that_was_made_again_shows_no_row_of_the_one_before(
    cluster: Cluster, guard: KubernetesGuard
) -> None:
    ann = Caller("ann")
    cluster.may = {"ann"}
    assert await since_of(guard, ann) == FIRST
    # A second later, the namespace is another one, and belongs to somebody else.
    cluster.now += 1
    cluster.age, cluster.may = AGAIN, {"bob"}
    assert await since_of(guard, BOB) == AGAIN
    # From then on, nobody sees the older rows, though the right of the first caller is still remembered.
    assert await since_of(guard, ann) == AGAIN


async def test_an_identifier_from_the_namespace_before_is_free(
    cluster: Cluster, guard: KubernetesGuard
) -> None:
    ann = Caller("ann")
    cluster.may = {"ann"}
    assert await guard.created_at(ann, "shop") == FIRST
    cluster.now += 1
    cluster.age, cluster.may = AGAIN, {"bob"}
    assert await guard.created_at(BOB, "shop") == AGAIN
    with pytest.raises(NotAllowedError):
        await guard.created_at(Caller("eve"), "shop")
