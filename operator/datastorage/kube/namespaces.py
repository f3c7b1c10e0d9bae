"""Looks up when namespaces were created."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Age:
    """An answer about a namespace, and when it was asked for."""

    asked_at: float
    created_at: datetime | None


class Namespaces:
    """Reads namespaces, and remembers their ages for some seconds."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self._transport = transport
        self._clock = clock
        self._ages: TTLCache[str, _Age] = TTLCache(_MOST_REMEMBERED, _REMEMBERED_SECONDS, timer=clock)
        self._under_way: SingleFlight[str, _Age] = SingleFlight("namespace")

    async def created_at(self, namespace: str, *, asked_since: float = -math.inf) -> datetime | None:
        """Return when the namespace was created; None if the cluster has none of that name.

        An answer that the API server was asked for before ``asked_since``, in seconds of the clock, does not
        count. Raises ClusterUnavailableError if the API server does not say.
        """
        age = self._ages.get(namespace)
        # A look-up under way may have begun too early as well; the next one begins now.
        while age is None or age.asked_at < asked_since:
            try:
                age = await self._under_way.do(namespace, partial(self._ask, namespace))
            except NoResultError:
                raise ClusterUnavailableError(
                    f"namespace {namespace} was not looked up: the program ends"
                ) from None
            self._ages[namespace] = age
        return age.created_at

    async def close(self) -> None:
        """End the requests under way."""
        await self._under_way.close()

    async def _ask(self, namespace: str) -> _Age:
        asked_at = self._clock()
        target = Target(_NAMESPACES, name=namespace)
        try:
            answer = await self._transport.call(
                ApiRequest("GET", target), timeout=_TIMEOUT, review_right=True
            )
        except ObjectGoneError:
            return _Age(asked_at, None)
        except ForbiddenError as error:
            raise ClusterUnavailableError(
                f"{error}; the operator needs the right to get namespaces (manifests/base/rbac.yaml)"
            ) from error
        created_at = time_in(metadata_of(answer, target), "creationTimestamp")
        if created_at is None:
            raise ClusterUnavailableError(f"{target}: the answer has no time of creation")
        return _Age(asked_at, created_at)
