"""Finds out which rights are missing after a write was refused, and when they are granted again.

A 403 for a list or a watch shows which right is missing, and the request is repeated until it succeeds. A 403
for a write may also come from an admission policy, and the write may never be repeated. So the API server is
asked about the right itself, by a SelfSubjectAccessReview. While no write is refused, no review is sent.
"""

from collections.abc import Callable
from typing import Final

import aiohttp

from datastorage.errors import ClusterError
from datastorage.kube.accessmonitor import AccessMonitor, Right
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.resilience.worker import repeat

_API_VERSION: Final = "authorization.k8s.io/v1"
_KIND: Final = "SelfSubjectAccessReview"
_REVIEWS: Final = Target(Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", _KIND))
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
# Between two reviews of the same right. A role binding takes effect within a second or two.
_PAUSE_SECONDS: Final = 5.0


class RightsReview:
    """Asks about the rights that the monitor suspects to be missing."""

    def __init__(
        self,
        transport: Transport,
        *,
        on_recovery: Callable[[], None],
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        """``on_recovery`` is called when a missing right has been granted again."""
        self._transport = transport
        self._monitor: AccessMonitor = transport.monitor
        self._on_recovery = on_recovery
        self._pause_seconds = pause_seconds

    async def run(self) -> None:
        """Wait for suspect rights and review them, until cancelled."""
        # The interval is 0, because the work itself waits for a suspicion.
        await repeat(self._review, interval_seconds=0.0, pause_seconds=self._pause_seconds)

    async def _review(self) -> None:
        await self._monitor.suspicion()
        for right in self._monitor.suspects():
            allowed = await self._is_allowed(right)
            if allowed is False:
                self._monitor.missing(right)
            elif self._monitor.dismissed(right):
                self._on_recovery()

    async def _is_allowed(self, right: Right) -> bool | None:
        """Return the API server's decision, or None without one: the next 403 leads to another review."""
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb,
            "namespace": right.namespace or "",
        }  # fmt: skip
        review = {"apiVersion": _API_VERSION, "kind": _KIND, "spec": {"resourceAttributes": attributes}}
        try:
            answer = await self._transport.call(ApiRequest("POST", _REVIEWS, body=review), timeout=_TIMEOUT)
            return bool(answer["status"]["allowed"])
        except (ClusterError, KeyError, TypeError):
            return None
