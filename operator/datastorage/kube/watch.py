"""Runs one Kopf operator for each kind, and starts it again whenever it ends.

The two Kopf operators share nothing but the API server: a change to one kind's definition does not disturb
the watch of the other. An operator that ends, or that can't resume its watch, is started again with new
state. The sweep finds the objects that were changed meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory  # Kopf has no public name for them

from datastorage import metrics
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.kube.watchretry import RequestPace, WatchRetry
from datastorage.kube.watchsession import WatchSession
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.cancellation import end_tasks
from datastorage.resources.kinds import ResourceKind

_log = logging.getLogger(__name__)

_IDENTITY: Any = "datastorage"  # Kopf's type for identities is not public
# Kopf's module that looks for resources. Kopf keeps no reference to the tasks in which it does so.
_KOPF_SCANNING: Final = "scanning.py"


@dataclass(frozen=True, slots=True)
class WatchPace:
    """How often a Kopf operator is started again, and how often its requests are sent."""

    first_pause_seconds: float = 0.5
    """Between the end of a Kopf operator and its next start. The pause grows while operators end soon after
    their start."""
    max_pause_seconds: float = 5.0
    healthy_seconds: float = 60.0
    """After a watch that ran this long, the next pause is the first one again."""
    requests: RequestPace = field(default_factory=RequestPace)


@dataclass(frozen=True)
class KopfFactory:
    """Makes the objects that a Kopf operator needs. Each start needs new ones: Kopf keeps state in them."""

    namespaces: tuple[str, ...]
    session: Callable[[ResourceKind, WatchRetry], WatchSession]
    registry: Callable[[ResourceKind], kopf.OperatorRegistry]
    settings: Callable[[ResourceKind], kopf.OperatorSettings]


class Watch:
    """Runs the Kopf operator of one kind, and starts it again when it ends."""

    def __init__(
        self,
        kind: ResourceKind,
        factory: KopfFactory,
        *,
        monitor: WatchMonitor,
        on_started: Callable[[], None],
        on_recovery: Callable[[ResourceKind, bool], None],
        pace: WatchPace = WatchPace(),
    ) -> None:
        """``on_started`` is called whenever Kopf has started.

        ``on_recovery`` is called when the watch is open after trouble or a restart, with True if the
        definition was missing before.
        """
        self._pace = pace
        self._kind = kind
        self._factory = factory
        self._monitor = monitor
        self._on_started = on_started
        self._on_recovery = on_recovery

    async def run(self) -> None:
        """Watch until cancelled."""
        backoff = Backoff(self._pace.first_pause_seconds, self._pace.max_pause_seconds)
        while True:
            started = time.monotonic()
            error = await self._run_once()
            self._monitor.lost(self._kind)
            metrics.WATCH_RESTARTS.inc()
            if error is not None:
                extra = {"kind": self._kind.kind, "error": repr(error)}
                _log.warning("The watch ended and is started again", extra=extra)
            if error is None or time.monotonic() - started > self._pace.healthy_seconds:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _run_once(self) -> BaseException | None:
        """Run Kopf until one of its tasks ends or it has to be restarted; return the error that ended it."""
        registry, settings = self._factory.registry(self._kind), self._factory.settings(self._kind)
        sessions: list[WatchSession] = []
        gone = asyncio.Event()
        retry = WatchRetry(
            self._kind,
            self._monitor,
            on_recovery=self._on_recovery,
            on_gone=gone.set,
            pace=self._pace.requests,
        )

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            # Kopf calls this again after the session was closed.
            sessions.append(self._factory.session(self._kind, retry))
            session = cast("aiohttp.ClientSession", sessions[-1])
            # The server is empty, because the transport knows the API server's current address.
            return kopf.AiohttpSession(server="", aiohttp_session=session)

        # Kopf starts in a task of its own, because it keeps an operator's settings and credentials in the
        # context of the task that starts it, and because a cancellation must not leave tasks of Kopf behind.
        spawning = asyncio.create_task(self._spawn(registry, settings))
        ending = asyncio.create_task(gone.wait())
        tasks: Sequence[asyncio.Task[Any]] = ()
        try:
            tasks = await asyncio.shield(spawning)
            # kopf.run_tasks would not do: when Kopf ends, it cancels every task of the event loop that is
            # younger than Kopf, and most of ours are.
            done, _ = await asyncio.wait({*tasks, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                # The tasks that look for the resource must end first, because the end of the others closes
                # the session.
                await end_tasks([task for task in _tasks_of(settings) if _looks_for_resources(task)])
                await end_tasks([*(tasks or await spawning), ending])
                await end_tasks(_tasks_of(settings))
            finally:
                # Kopf closes its session only if it ends in an orderly way.
                for session in sessions:
                    await session.close()
        if ending in done:
            return None
        error = next((task.exception() for task in done if not task.cancelled()), None)
        return error or RuntimeError("Kopf ended")

    async def _spawn(
        self, registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings
    ) -> Sequence[asyncio.Task[Any]]:
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings,
            # Only peering uses the identity, and it is off; Kopf's own default fails if the user has no name.
            identity=_IDENTITY,
            standalone=True,
            clusterwide=not self._factory.namespaces,
            namespaces=self._factory.namespaces,
            memories=_NoMemories(),
        )
        # This must be called before anything else can run: Kopf has just replaced the signal handlers.
        self._on_started()
        return list(tasks)


class _NoMemories(ResourceMemories):
    """Keeps Kopf from remembering every object that it has seen until a deletion tells it to forget.

    Kopf does not see every deletion (see watchlines.py), and event handlers need nothing of the memory.
    """

    async def recall(self, *_: Any, **__: Any) -> ResourceMemory:
        return ResourceMemory()


def _tasks_of(settings: kopf.OperatorSettings) -> list[asyncio.Task[Any]]:
    """Return the tasks of a Kopf operator, including those that it leaves behind when it ends.

    The settings identify them: each operator has its own.
    """
    return [task for task in asyncio.all_tasks() if _settings_in(task.get_coro()) is settings]


def _looks_for_resources(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and Path(code.co_filename).name == _KOPF_SCANNING


def _settings_in(coroutine: Any) -> Any:
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None:
        return None
    names = frame.f_locals
    return names["settings"] if "settings" in names else _settings_in(names.get("coro"))
