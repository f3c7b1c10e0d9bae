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
# After a failure: somebody holds the tables, or the server is short of something.
_RETRY_SECONDS: Final = 60.0


class Vectors(Protocol):
    """What is indexed (storage/vectors.py)."""

    async def index(self, *, memory_mib: int) -> bool: ...


class Indexer:
    """One step after the other, on any replica: the store lets one work at a time."""

    def __init__(self, vectors: Vectors, *, memory_mib: int) -> None:
        """``memory_mib`` is what the vectors' server may use for building one index."""
        self._vectors = vectors
        self._memory_mib = memory_mib

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
            return _RETRY_SECONDS
        if not worked:
            return _PAUSE_SECONDS
        metrics.VECTOR_INDEX_STEPS.labels("success").inc()
        _log.info("Vectors indexed", extra={"seconds": round(time.perf_counter() - started, 1)})
        return 0.0
