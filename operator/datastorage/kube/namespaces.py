"""Looks up when namespaces were created."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import aiohttp
from cachetools import TTLCache

from datastorage.errors import ClusterUnavailableError, ForbiddenError, ObjectGoneError
from datastorage.kube.answers import metadata_of
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.records.times import time_in

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

    async def created_at(self, namespace: str) -> datetime | None:
        """Return when the namespace was created; None if the cluster has none of that name.

        Raises ClusterUnavailableError if the API server does not say.
        """
        if namespace in self._ages:
            return self._ages[namespace]
        target = Target(_NAMESPACES, name=namespace)
        created_at = None
        try:
            answer = await self._transport.call(
                ApiRequest("GET", target), timeout=_TIMEOUT, review_right=True
            )
        except ObjectGoneError:
            pass
        except ForbiddenError as error:
            raise ClusterUnavailableError(
                f"{error}; the operator needs the right to get namespaces (manifests/base/rbac.yaml)"
            ) from error
        else:
            created_at = time_in(metadata_of(answer, target), "creationTimestamp")
            if created_at is None:
                raise ClusterUnavailableError(f"{target}: the answer has no time of creation")
        self._ages[namespace] = created_at
        return created_at
