"""Finds out which rights are missing after a write was refused, and when they are back.

A 403 to a list or a watch says so itself, and is repeated until it passes. A 403 to a write may come from
an admission policy as well, and nothing need repeat it: so the API server is asked about the right alone.
While all is well nothing is asked.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Final

import aiohttp

from datastorage.errors import ClusterError
from datastorage.kube.accessmonitor import AccessMonitor, Right
from datastorage.kube.transport import Transport
from datastorage.resources import GROUP

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
_PAUSE_SECONDS: Final = 5.0


class RightsReview:
    """Asks about the rights that the monitor suspects to be missing."""

    def __init__(self, transport: Transport, *, on_recovery: Callable[[], None]) -> None:
        """``on_recovery`` is called when a right that was missing is there again."""
        self._transport = transport
        self._monitor: AccessMonitor = transport.monitor
        self._on_recovery = on_recovery

    async def run(self) -> None:
        """Wait for suspicions, and follow each up to its end, until cancelled."""
        while True:
            await self._monitor.suspicion()
            for right in self._monitor.suspects():
                allowed = await self._is_allowed(right)
                if allowed is False:
                    self._monitor.missing(right)
                elif self._monitor.dismissed(right):
                    self._on_recovery()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _is_allowed(self, right: Right) -> bool | None:
        """Return the API server's judgement; None where there is none: the next 403 leads here again."""
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "group": GROUP, "resource": resource, "subresource": subresource, "verb": right.verb,
            "namespace": right.namespace,
        }  # fmt: skip
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        try:
            async with await self._transport.request(
                "POST",
                _REVIEWS,
                headers={"Content-Type": "application/json"},
                body=json.dumps(review).encode(),
                timeout=_TIMEOUT,
            ) as response:
                answer = json.loads(await response.read())
                return bool(answer["status"]["allowed"])
        except (ClusterError, aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            return None
