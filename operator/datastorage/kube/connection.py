"""Kopf's way through our transport: paced, and reported on to the monitor of the watches."""

import asyncio
import json as jsonlib
import time
from collections.abc import Mapping
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from datastorage.errors import TransientError
from datastorage.kube.transport import USER_AGENT, Transport
from datastorage.kube.watchmonitor import WatchMonitor

# A watch that the server closes at once is asked for again at once by Kopf. This keeps such a loop at
# one request a second, whatever closes it.
_WATCH_INTERVAL_SECONDS: Final = 1.0
_UNAUTHORIZED: Final = 401


def watch_session(transport: Transport, monitor: WatchMonitor) -> aiohttp.ClientSession:
    """Return what Kopf takes for a session of its own; closing it leaves the transport open."""
    return cast("aiohttp.ClientSession", _WatchSession(transport, monitor))


class _WatchSession:
    """What Kopf uses of aiohttp.ClientSession."""

    def __init__(self, transport: Transport, monitor: WatchMonitor) -> None:
        self.headers = {"User-Agent": USER_AGENT}
        self.closed = False
        self._transport = transport
        self._monitor = monitor
        self._last_watch: dict[str, float] = {}

    async def close(self) -> None:
        """Take no more requests. Kopf has closed its answers before."""
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
        """Send a request; errors are aiohttp's, as Kopf expects them."""
        self._monitor.asked()
        if self.closed:
            raise RuntimeError("Session is closed")
        # With or without a server before the path: the transport knows the current one.
        target = URL(url, encoded=True)
        is_watch = target.query.get("watch") == "true"
        if is_watch:
            await self._pace(target.path)
        try:
            response = await self._transport.request(
                method.upper(),
                target.raw_path_qs,
                headers=headers,
                body=jsonlib.dumps(json).encode() if json is not None else None,
                timeout=timeout,
                right=f"{'watch' if is_watch else method.lower()} {target.path}",
            )
        except TransientError as error:
            if is_watch:
                self._monitor.closed(target.path)
            raise aiohttp.ClientConnectionError(str(error)) from error
        if is_watch:
            (self._monitor.opened if response.ok else self._monitor.closed)(target.path)
        if response.status == _UNAUTHORIZED:
            # Kopf would log in again at once, for ever, and close the other watches each time. The transport
            # has tried new credentials already; what is left is to wait, as for a lost connection.
            response.close()
            raise aiohttp.ClientConnectionError("API server (401): it does not accept the credentials")
        return response

    async def _pace(self, path: str) -> None:
        pause = self._last_watch.get(path, 0.0) + _WATCH_INTERVAL_SECONDS - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._last_watch[path] = time.monotonic()
