"""Runs Kopf and never lets it end unnoticed.

Kopf gives up on some answers of the API server (404 and 410 to the watch request itself, a failed worker).
Then it is started again, with patience; the sweep covers the time between.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import kopf

from datastorage import metrics
from datastorage.kube.watchmonitor import WatchMonitor

_log = logging.getLogger(__name__)

_IDENTITY: Any = "datastorage"  # Kopf keeps its type for identities to itself
_FIRST_DELAY_SECONDS: Final = 0.5
_MAX_DELAY_SECONDS: Final = 5.0
# A watch that ran this long was healthy: the next failure begins a new series.
_HEALTHY_SECONDS: Final = 60.0


class Watch:
    """Kopf under supervision."""

    def __init__(
        self,
        *,
        server: str,
        session: Callable[[], aiohttp.ClientSession],
        registry: Callable[[], kopf.OperatorRegistry],
        settings: Callable[[], kopf.OperatorSettings],
        namespaces: tuple[str, ...],
        monitor: WatchMonitor,
        on_started: Callable[[], None],
        on_restart: Callable[[], None],
    ) -> None:
        """Take the parts. The first three callables make fresh ones for each start: Kopf keeps state in them.

        ``on_started`` is called whenever Kopf has begun, ``on_restart`` only when it had ended before.
        """
        self._server = server
        self._session = session
        self._registry = registry
        self._settings = settings
        self._namespaces = namespaces
        self._monitor = monitor
        self._on_started = on_started
        self._on_restart = on_restart

    async def run(self) -> None:
        """Watch until cancelled."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            started = time.monotonic()
            error = await self._run_once()
            self._monitor.stopped()
            metrics.WATCH_RESTARTS.inc()
            _log.warning("The watch ended and is started again", extra={"error": repr(error)})
            if time.monotonic() - started > _HEALTHY_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret
            delay = min(delay * 2, _MAX_DELAY_SECONDS)
            self._on_restart()

    async def _run_once(self) -> BaseException | None:
        """Run Kopf until one of its tasks ends; return the error that ended it, if any."""
        registry = self._registry()
        sessions: list[aiohttp.ClientSession] = []

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            # Called again when the API server answers 401, and after the session was closed.
            sessions.append(self._session())
            return kopf.AiohttpSession(server=self._server, aiohttp_session=sessions[-1])

        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=self._settings(),
            # Peering, the only use of it, is off; Kopf's own guess fails where the user has no name.
            identity=_IDENTITY,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self._on_started()
        try:
            # Not kopf.run_tasks: when Kopf ends, that one cancels every task of the event loop that is
            # younger than Kopf, and most of ours are.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # When one watch fails, Kopf ends without its other watches, and forgets their errors.
            running = {*tasks, *self._monitor.take_tasks()}
            for task in running:
                task.cancel()
            try:
                await asyncio.gather(*running, return_exceptions=True)
            finally:
                # Kopf closes its session only where it ends in order.
                for session in sessions:
                    await session.close()
        return next((task.exception() for task in done if not task.cancelled()), None)
