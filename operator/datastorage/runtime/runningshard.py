"""The tasks of one shard: how they begin, and how they end without a loss.

What is in the intake is committed, and its status written, at all times: also records that come over HTTP.
The cluster's objects are watched, listed and deleted only while this process holds the shard's Lease.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from datastorage.assembly.shard import Shard
from datastorage.resilience.cancellation import end_tasks
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.runtime.supervisor import ended_unexpectedly, start

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How many loops a shard has, and how it is stopped."""

    committers: int = 2
    """One batch is prepared while the other commits."""
    flush_poll_seconds: float = 0.05
    """A stop is rare and short: not worth an event in every component."""
    linger_seconds: float = 10.0
    """The watches go on for so long after a Lease was lost: an object that is deleted before the next holder
    watches is in no listing. Others may take the Lease 5 s after its holder had to stop, look for one every
    2 s, and need some seconds to begin. What is in the cluster is left to them."""


class Tenure(Protocol):
    """Says when this process is the one that processes the objects of a shard (pipeline/lease.py)."""

    async def until_held(self) -> None: ...
    async def until_lost(self) -> None: ...


class Always:
    """The tenure of a process that is alone."""

    async def until_held(self) -> None:
        """Return at once."""

    async def until_lost(self) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


class RunningShard:
    """A running shard: construction starts its tasks. Stopping it leaves other shards running."""

    def __init__(self, shard: Shard, tenure: Tenure | None = None, pace: Pace = Pace()) -> None:
        """Without ``tenure``, this process processes the shard's objects as long as it runs."""
        self._shard = shard
        self._tenure = tenure or Always()
        self._pace = pace
        self._leading = start(self._name("leading"), self._lead())
        self._committers = [
            start(self._name(f"committer-{n}"), shard.committer.run()) for n in range(pace.committers)
        ]
        self._aside = start(self._name("aside"), shard.aside.run())
        self._status_writer = start(self._name("status-writer"), shard.status_writer.run())

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The shard's tasks. None of them may end before the shard is stopped."""
        return [self._leading, *self._committers, self._aside, self._status_writer]

    async def _lead(self) -> NoReturn:
        """Process the cluster's objects whenever this process has to, until cancelled."""
        kinds = [kind.kind for kind in self._shard.selection.kinds]
        while True:
            await self._tenure.until_held()
            _log.info(
                "Processing the objects of a shard",
                extra={"kinds": kinds, "shard": self._shard.selection.shard},
            )
            self._shard.objects.only_last_copies = False
            watches, others = self._start_leading()
            try:
                await self._until(self._tenure.until_lost(), [*watches, *others])
                self._shard.objects.only_last_copies = True
                await end_tasks(others)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.linger_seconds):
                        await self._until(self._tenure.until_held(), watches)
            finally:
                await end_tasks([*watches, *others])
            _log.warning(
                "Stopped processing the objects of a shard: its Lease was lost or handed over",
                extra={"kinds": kinds, "shard": self._shard.selection.shard},
            )

    async def _until(self, change: Coroutine[Any, Any, None], tasks: list[asyncio.Task[Any]]) -> None:
        """Wait for a change of the tenure while the tasks run; raises if one of them ends."""
        changed = start(self._name("tenure"), change)
        try:
            done, _ = await asyncio.wait({*tasks, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks([changed])
        for task in done - {changed}:
            raise ended_unexpectedly(task)

    def _start_leading(self) -> tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]]:
        """Start what only a holder does; return the watches, and the other tasks."""
        shard = self._shard
        # While another process had the shard, objects were stored that are in no schedule here.
        for kind in shard.selection.kinds:
            shard.collector.list_soon(kind)
            shard.sweep_requests.add(kind)
        watches = [start(self._name("watch", kind), watch.run()) for kind, watch in shard.watches.items()]
        others = [
            start(self._name("sweep"), shard.sweep.run()),
            start(self._name("garbage-collector"), shard.collector.run()),
        ]
        if shard.promotion is not None:
            others.append(start(self._name("promotion"), shard.promotion.run()))
        return watches, others

    async def flush(self, seconds: float) -> None:
        """Take in nothing more, and finish what was taken in; log what is lost if that takes too long."""
        await end_tasks([self._leading])
        kinds, started = [kind.kind for kind in self._shard.selection.kinds], time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._is_working():  # noqa: ASYNC110  # see Pace
                    await asyncio.sleep(self._pace.flush_poll_seconds)
        if self._unfinished():
            # The next start finds what is still in the cluster. Last copies are lost.
            _log.warning(
                "Stopped before every status was written; the next start writes the rest",
                extra={"kinds": kinds},
            )
        else:
            took = round(time.monotonic() - started, 2)
            _log.info("Flushed", extra={"kinds": kinds, "seconds": took})
        for ref in self._shard.register.last_copies:
            _log.error("Lost: deleted in the cluster before it could be stored", extra=ref.as_log_fields())

    def _unfinished(self) -> list[list[asyncio.Task[Any]]]:
        """Return the tasks of each component that has work left, for which a stop waits."""
        shard = self._shard
        components = [
            (shard.committer.idle, self._committers),
            (shard.aside.idle, [self._aside]),
            (shard.statuses.idle, [self._status_writer]),
        ]
        return [tasks for idle, tasks in components if not idle]

    def _is_working(self) -> bool:
        """Whether any work is left that gets done: a component that has failed does nothing more."""
        return any(not task.done() for tasks in self._unfinished() for task in tasks)

    def _name(self, task: str, *kinds: ResourceKind) -> str:
        """Return a name that no other task of the process has."""
        selection = self._shard.selection
        if not kinds and selection.kinds != KINDS:
            kinds = selection.kinds
        words = [task, *(kind.plural for kind in kinds)]
        if selection.shards > 1:
            words.append(f"of-shard-{selection.shard}")
        return "-".join(words)
