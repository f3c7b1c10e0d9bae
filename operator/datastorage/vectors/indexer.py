"""Keeps the vectors searchable at speed: asks their store to index what has gathered without an index."""

import asyncio
import logging
import time
from typing import Final, Protocol

from datastorage import metrics
from datastorage.errors import TransientError

_log = logging.getLogger(__name__)

# A part fills in a minute at the very most; counting it takes milliseconds.
_PAUSE_SECONDS: Final = 15.0
# After a failure: somebody holds the tables, or the server is short of something. Where that stays, as a
# limit on the time of a statement does, each step is work in vain.
_RETRY_SECONDS: Final = 60.0
_MAX_RETRY_SECONDS: Final = 3600.0


class Vectors(Protocol):
    """What is indexed (storage/vectors.py)."""

    async def index(self, *, memory_mib: int) -> bool: ...


class Indexer:
    """One step after the other, on any replica: the store lets one work at a time."""

    def __init__(self, vectors: Vectors, *, memory_mib: int) -> None:
        """``memory_mib`` is what the vectors' server may use for building one index."""
        self._vectors = vectors
        self._memory_mib = memory_mib
        self._failures = 0

    async def run(self) -> None:
        """Index until cancelled."""
        while True:
            pause = await self._step()
            await asyncio.sleep(pause)

    async def _step(self) -> float:
        """Do one step; return after how many seconds the next one may follow."""
        started = time.perf_counter()
        try:
            worked = await self._vectors.index(memory_mib=self._memory_mib)
        except TransientError as error:
            # Searches go on without: they read what has no index.
            metrics.VECTOR_INDEX_STEPS.labels("failed").inc()
            _log.warning("Indexing vectors failed; it will be repeated", extra={"error": str(error)})
            self._failures += 1
            return min(_RETRY_SECONDS * (1 << min(self._failures - 1, 10)), _MAX_RETRY_SECONDS)
        self._failures = 0
        if not worked:
            return _PAUSE_SECONDS
        metrics.VECTOR_INDEX_STEPS.labels("success").inc()
        _log.info("Vectors indexed", extra={"seconds": round(time.perf_counter() - started, 1)})
        return 0.0
