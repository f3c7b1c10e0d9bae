"""Decides what a caller may do, and which rows it may see: the API server says so for each right."""

import re
import time
from collections.abc import Callable
from typing import Final

from datastorage.api.reviewcache import Limits, ReviewCache
from datastorage.errors import InvalidQueryError, NotAllowedError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.metrics import Review
from datastorage.records.caller import Access, Caller, Reach
from datastorage.resources.kinds import ARCHIVE_GROUP, AUDIT_RECORD, GROUP

# As the API server requires of the name of a namespace.
NAMESPACE_PATTERN: Final = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_NAMESPACE: Final = re.compile(NAMESPACE_PATTERN)


def store_access(namespace: str) -> Access:
    """Return the right that is needed to store a record of a namespace."""
    return Access("create", AUDIT_RECORD.plural, GROUP, namespace)


class Authorization:
    """Asks for the rights of callers.

    Every method raises NotAllowedError for a missing right, InvalidQueryError for what can't be the name of a
    namespace, and ClusterUnavailableError if the API server does not say whether the caller has the right.
    A caller may ask about any number of namespaces, so the limit on its requests has to come before this.
    """

    def __init__(
        self,
        reviews: AccessReviews,
        *,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` is in seconds."""
        self._reviews = reviews
        self._clock = clock
        # The answer of yes is the time at which it was asked for.
        self._cache: ReviewCache[tuple[Caller, Access], float] = ReviewCache(
            Review.ACCESS, limits=limits, clock=clock
        )

    async def require(self, caller: Caller, access: Access) -> float:
        """Return if the caller has the right: when the API server was asked for it, in monotonic seconds."""
        reviewed_at = await self._reviewed_at(caller, access)
        if reviewed_at is None:
            raise NotAllowedError(f"{caller.username} has no right to {access}")
        return reviewed_at

    async def namespaces_of(self, caller: Caller, verb: str, resource: str, namespace: str | None) -> Reach:
        """Return the rows of the archive that the caller may see, at most those of the named namespace.

        A caller with the right in the whole cluster sees all; another one has to name a namespace.
        """
        _check(namespace)
        everywhere = Access(verb, resource, ARCHIVE_GROUP)
        if await self._reviewed_at(caller, everywhere) is not None:
            return Reach(namespace, is_cluster_wide=True)
        if namespace is None:
            raise NotAllowedError(
                f"{caller.username} has no right to {everywhere}: name a namespace in which it has the right"
            )
        reviewed_at = await self.require(caller, Access(verb, resource, ARCHIVE_GROUP, namespace))
        return Reach(namespace, is_cluster_wide=False, reviewed_at=reviewed_at)

    async def close(self) -> None:
        """End the reviews under way."""
        await self._cache.close()

    async def _reviewed_at(self, caller: Caller, access: Access) -> float | None:
        """Return when the API server was asked for the right; None if the caller does not have it."""
        _check(access.namespace)

        async def ask() -> float | None:
            asked_at = self._clock()
            return asked_at if await self._reviews.is_allowed(caller, access) else None

        return await self._cache.get((caller, access), ask, identity=caller.username)


def _check(namespace: str | None) -> None:
    # The API server would take an empty name for all namespaces.
    if namespace is not None and _NAMESPACE.fullmatch(namespace) is None:
        raise InvalidQueryError("namespace: not the name of a namespace (lower case letters, digits and -)")
