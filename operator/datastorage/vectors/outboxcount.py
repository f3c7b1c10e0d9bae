"""Counts the vectors in the outbox for the metrics, and notices when others have written or dropped some."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from datastorage import metrics
from datastorage.errors import WorkRefusedError
from datastorage.records.vectorwrite import OutboxState
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.worker import repeat
from datastorage.storage.outbox import OutboxDepth

_log = logging.getLogger(__name__)


class Outbox(Protocol):
    """The outbox of pending, failed and dropped vectors (storage/outbox.py)."""

    async def depths(self) -> Mapping[OutboxState, OutboxDepth]: ...


@dataclass(frozen=True)
class Pace:
    """Seconds between two counts. Each reads the whole outbox."""

    interval: float = 15.0
    refused: float = 300.0
    """After a count that took too long: the next one would hardly be quicker."""


class OutboxCount:
    """Keeps the depth and the age of the outbox in the metrics."""

    def __init__(
        self, outbox: Outbox, postgres: Breaker, *, on_progress: Callable[[], None], pace: Pace = Pace()
    ) -> None:
        """``on_progress`` is called when fewer vectors are pending than before (promote.py)."""
        self._outbox = outbox
        self._postgres = postgres
        self._on_progress = on_progress
        self._pace = pace
        self._pending = 0

    async def run(self) -> NoReturn:
        """Count until cancelled, the first time at once."""
        await repeat(self._count, interval_seconds=self._pace.interval)

    async def _count(self) -> float | None:
        try:
            depths = await self._postgres.judge(self._outbox.depths)
        except WorkRefusedError as error:
            _log.warning("The pending vectors can't be counted for now", extra={"error": str(error)})
            return self._pace.refused
        pending = depths[OutboxState.PENDING]
        if pending.depth < self._pending:
            # Another replica has written some, or a person has dropped some: statuses may have to say so.
            self._on_progress()
        self._pending = pending.depth
        for state, found in depths.items():
            metrics.OUTBOX_DEPTH.labels(state).set(found.depth)
        metrics.OUTBOX_AGE.set(pending.oldest_seconds)
        return None
