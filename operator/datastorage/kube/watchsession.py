"""Sends Kopf's requests through our transport, and repeats them while the API server fails."""

import json as jsonlib
from collections.abc import Mapping
from typing import Any, cast

import aiohttp
from yarl import URL

from datastorage.kube.transport import USER_AGENT, Transport
from datastorage.kube.watchlines import IsKnown, WatchLines
from datastorage.kube.watchretry import WatchRetry
from datastorage.resources.selection import EVERYTHING, Selection


class WatchSession:
    """The methods of aiohttp.ClientSession that Kopf uses. Closing it leaves the transport open."""

    def __init__(
        self, transport: Transport, retry: WatchRetry, is_known: IsKnown, selection: Selection = EVERYTHING
    ) -> None:
        """``is_known`` judges the object of each deletion: Kopf does not get to see a known one.

        Nor does it see the objects of other shards than that of the ``selection``.
        """
        self.headers = {"User-Agent": USER_AGENT}
        self.closed = False
        self._transport = transport
        self._retry = retry
        self._is_known = is_known
        self._selection = selection

    async def close(self) -> None:
        """Accept no more requests. Kopf has already closed its answers."""
        self.closed = True

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's signature
    ) -> aiohttp.ClientResponse:
        """Send a request, and repeat it until there is an answer that Kopf can use."""
        if self.closed:
            raise RuntimeError("Session is closed")
        # The server in the URL is dropped, because the transport knows the current one.
        target = URL(url, encoded=True)
        watches = target.query.get("watch") == "true"
        selector = self._selection.shard_selector
        if watches and selector is not None:
            target = target.update_query(shardSelector=selector)

        async def send() -> aiohttp.ClientResponse:
            return await self._transport.request(
                method.upper(),
                target.raw_path_qs,
                headers=headers,
                body=jsonlib.dumps(json).encode() if json is not None else None,
                timeout=timeout,
                right=f"{'watch' if watches else method.lower()} {target.path}",
            )

        response = await self._retry.answer(target.path, send, watches=watches)
        if watches:
            is_selected = None if selector is None else self._selection.has
            lines = WatchLines(response.content, self._is_known, is_selected)
            response.content = cast("aiohttp.StreamReader", lines)
        return response
