"""Looks up when namespaces were created."""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

import aiohttp
from cachetools import TTLCache

from datastorage.errors import ClusterUnavailableError, ForbiddenError, ObjectGoneError
from datastorage.kube.answers import metadata_of
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.records.times import time_in
from datastorage.resilience.singleflight import NoResultError, SingleFlight

_NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
# A namespace that was deleted and made again is noticed after this time, like a right that was taken away.
_REMEMBERED_SECONDS: Final = 10.0
_MOST_REMEMBERED: Final = 5_000


class Namespaces:
    """Reads namespaces, and remembers their ages for some seconds."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self._transport = transport
        self._ages: TTLCache[str, datetime | None] = TTLCache(
            _MOST_REMEMBERED, _REMEMBERED_SECONDS, timer=clock
        )
        self._under_way: SingleFlight[str, datetime | None] = SingleFlight("namespace")

    async def created_at(self, namespace: str) -> datetime | None:
        """Return when the namespace was created; None if the cluster has none of that name.

        Raises ClusterUnavailableError if the API server does not say.
        """
        if namespace in self._ages:
            return self._ages[namespace]
        try:
            created_at = await self._under_way.do(namespace, partial(self._ask, namespace))
        except NoResultError:
            raise ClusterUnavailableError(
                f"namespace {namespace} was not looked up: the program ends"
            ) from None
        self._ages[namespace] = created_at
        return created_at

    async def close(self) -> None:
        """End the requests under way."""
        await self._under_way.close()

    async def _ask(self, namespace: str) -> datetime | None:
        target = Target(_NAMESPACES, name=namespace)
        try:
            answer = await self._transport.call(
                ApiRequest("GET", target), timeout=_TIMEOUT, review_right=True
            )
        except ObjectGoneError:
            return None
        except ForbiddenError as error:
            raise ClusterUnavailableError(
                f"{error}; the operator needs the right to get namespaces (manifests/base/rbac.yaml)"
            ) from error
        created_at = time_in(metadata_of(answer, target), "creationTimestamp")
        if created_at is None:
            raise ClusterUnavailableError(f"{target}: the answer has no time of creation")
        return created_at
