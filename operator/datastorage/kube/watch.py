"""Runs one Kopf for each kind and never lets one end unnoticed.

They share nothing but the API server: what happens to one kind's definition does not disturb the other's
watch. A Kopf that ends, or that can't go on from where it was, is started again with new state; the sweep
covers the time between.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import kopf

from datastorage import metrics
from datastorage.cancellation import end_tasks
from datastorage.kube.patience import Patience
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.resources import ResourceKind

_log = logging.getLogger(__name__)

_IDENTITY: Any = "datastorage"  # Kopf keeps its type for identities to itself
_FIRST_DELAY_SECONDS: Final = 0.5
_MAX_DELAY_SECONDS: Final = 5.0
# A watch that ran this long was healthy: the next failure begins a new series.
_HEALTHY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class KopfParts:
    """What a Kopf is made of. It keeps state in what the callables return: they are called for each start."""

    server: str
    namespaces: tuple[str, ...]
    session: Callable[[Patience], aiohttp.ClientSession]
    registry: Callable[[ResourceKind], kopf.OperatorRegistry]
    settings: Callable[[ResourceKind], kopf.OperatorSettings]


class Watch:
    """One kind's Kopf under supervision."""

    def __init__(
        self,
        kind: ResourceKind,
        parts: KopfParts,
        *,
        monitor: WatchMonitor,
        on_started: Callable[[], None],
        on_recovery: Callable[[ResourceKind, bool], None],
    ) -> None:
        """``on_started`` is called whenever Kopf has begun.

        ``on_recovery`` is called when the watch is open after trouble or a restart: with True when the
        definition was not there before.
        """
        self._kind = kind
        self._parts = parts
        self._monitor = monitor
        self._on_started = on_started
        self._on_recovery = on_recovery

    async def run(self) -> None:
        """Watch until cancelled."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            started = time.monotonic()
            error = await self._run_once()
            self._monitor.lost(self._kind)
            metrics.WATCH_RESTARTS.inc()
            if error is not None:
                extra = {"kind": self._kind.kind, "error": repr(error)}
                _log.warning("The watch ended and is started again", extra=extra)
            if error is None or time.monotonic() - started > _HEALTHY_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret
            delay = min(delay * 2, _MAX_DELAY_SECONDS)

    async def _run_once(self) -> BaseException | None:
        """Run Kopf until one of its tasks ends or it has to begin anew; return the error that ended it."""
        registry = self._parts.registry(self._kind)
        sessions: list[aiohttp.ClientSession] = []
        gone = asyncio.Event()
        patience = Patience(self._kind, self._monitor, on_recovery=self._on_recovery, on_gone=gone.set)

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            # Called again after the session was closed.
            sessions.append(self._parts.session(patience))
            return kopf.AiohttpSession(server=self._parts.server, aiohttp_session=sessions[-1])

        # In a task of its own: Kopf keeps the settings and the credentials of an operator in the context of
        # the task that starts it. And a cancellation must not leave behind what Kopf has started already.
        spawning = asyncio.create_task(self._spawn(registry))
        ending = asyncio.create_task(gone.wait())
        tasks: Sequence[asyncio.Task[Any]] = ()
        try:
            tasks = await asyncio.shield(spawning)
            self._on_started()
            # Not kopf.run_tasks: when Kopf ends, that one cancels every task of the event loop that is
            # younger than Kopf, and most of ours are.
            done, _ = await asyncio.wait({*tasks, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                await end_tasks([*(tasks or await spawning), ending])
            finally:
                # Kopf closes its session only where it ends in order.
                for session in sessions:
                    await session.close()
        if ending in done:
            return None
        error = next((task.exception() for task in done if not task.cancelled()), None)
        return error or RuntimeError("Kopf ended")

    async def _spawn(self, registry: kopf.OperatorRegistry) -> Sequence[asyncio.Task[Any]]:
        return list(
            await kopf.spawn_tasks(
                registry=registry,
                settings=self._parts.settings(self._kind),
                # Peering, the only use of it, is off; Kopf's own guess fails where the user has no name.
                identity=_IDENTITY,
                standalone=True,
                clusterwide=not self._parts.namespaces,
                namespaces=self._parts.namespaces,
            )
        )
