"""The tasks of one shard: how they begin, and how they end without a loss."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from datastorage.assembly.shard import Shard
from datastorage.resilience.cancellation import end_tasks
from datastorage.runtime.supervisor import start

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How many loops a shard has, and how it is stopped."""

    committers: int = 2
    """One batch is prepared while the other commits."""
    flush_poll_seconds: float = 0.05
    """A stop is rare and short: not worth an event in every component."""


class RunningShard:
    """A running shard: construction starts its tasks. Stopping it leaves other shards running."""

    def __init__(self, shard: Shard, pace: Pace = Pace()) -> None:
        self._shard = shard
        self._pace = pace
        self._intakes = [
            *(
                start(self._name(f"watch-{kind.plural}"), watch.run())
                for kind, watch in shard.watches.items()
            ),
            start(self._name("sweep"), shard.sweep.run()),
        ]
        self._workers = [
            *(start(self._name(f"committer-{n}"), shard.committer.run()) for n in range(pace.committers)),
            start(self._name("aside"), shard.committer.aside.run()),
            start(self._name("status-writer"), shard.status_writer.run()),
            start(self._name("garbage-collector"), shard.collector.run()),
        ]
        if shard.promotion is not None:
            self._workers.append(start(self._name("promotion"), shard.promotion.run()))

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The shard's tasks. None of them may end before the shard is stopped."""
        return [*self._intakes, *self._workers]

    async def flush(self, seconds: float) -> None:
        """Take in nothing more, and finish what was taken in; log what is lost if that takes too long."""
        await end_tasks(self._intakes)
        shard, started = self._shard, time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                while not (shard.committer.idle and shard.statuses.idle):  # noqa: ASYNC110  # see Pace
                    await asyncio.sleep(self._pace.flush_poll_seconds)
        except TimeoutError:
            # The next start finds what is still in the cluster. Last copies are lost.
            _log.warning("Stopped before every status was written; the next start writes the rest")
            self.log_lost()
        else:
            _log.info("Flushed", extra={"seconds": round(time.monotonic() - started, 2)})

    def log_lost(self) -> None:
        """Log the objects that only this process has, and has not committed yet."""
        for ref in self._shard.register.last_copies:
            _log.error("Lost: deleted in the cluster before it could be stored", extra=ref.as_log_fields())

    def _name(self, task: str) -> str:
        selection = self._shard.selection
        return task if selection.shards == 1 else f"{task}-of-shard-{selection.shard}"
