"""Keeps searches over vectors fast: asks the store to index the vectors that have no index yet."""

import logging
import time
from dataclasses import dataclass
from typing import NoReturn, Protocol

from datastorage import metrics
from datastorage.errors import TransientError
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.worker import repeat

_log = logging.getLogger(__name__)


class Vectors(Protocol):
    """The store that indexes them (storage/vectors.py)."""

    async def index(self, *, memory_mib: int) -> bool: ...


@dataclass(frozen=True)
class Pace:
    """Pauses in seconds."""

    interval: float = 15.0
    """While there is nothing to index. At full speed a partition fills in about a minute; counting it takes
    milliseconds."""
    first_retry: float = 60.0
    """After a failure: somebody holds the tables, or the server is short of something."""
    max_retry: float = 3600.0
    """While the cause lasts, such as a limit on the time of a statement, every step is wasted work."""


class Indexer:
    """Indexes step by step. Every replica runs one: the store lets only one of them work at a time."""

    def __init__(self, vectors: Vectors, *, memory_mib: int, pace: Pace = Pace()) -> None:
        """``memory_mib`` is the memory that the vectors' server may use for building one index."""
        self._vectors = vectors
        self._memory_mib = memory_mib
        self._interval_seconds = pace.interval
        self._retries = Backoff(pace.first_retry, pace.max_retry)

    async def run(self) -> NoReturn:
        """Index until cancelled."""
        await repeat(self._step, interval_seconds=self._interval_seconds)

    async def _step(self) -> float | None:
        """Do one step; return the seconds until the next one, None for the interval."""
        started = time.perf_counter()
        try:
            worked = await self._vectors.index(memory_mib=self._memory_mib)
        except TransientError as error:
            # Searches work without an index too: they read all vectors that have none.
            metrics.VECTOR_INDEX_STEPS.labels(metrics.Completion.FAILED).inc()
            _log.warning("Indexing vectors failed; it will be repeated", extra={"error": str(error)})
            return self._retries.next()
        self._retries.reset()
        if not worked:
            return None
        metrics.VECTOR_INDEX_STEPS.labels(metrics.Completion.SUCCESS).inc()
        _log.info("Vectors indexed", extra={"seconds": round(time.perf_counter() - started, 1)})
        return 0.0
