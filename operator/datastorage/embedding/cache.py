"""A cache of vectors: in this process's memory, and in the Redis that all replicas share.

Redis is optional, and nothing depends on its contents: a vector that is not found is made again.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from cachetools import LRUCache

from datastorage import metrics
from datastorage.embedding.provider import fault_of
from datastorage.records.vector import EmbeddingModel, Vector

# Room for some 10,000 vectors of 256 numbers.
_MEMORY_BYTES: Final = 16 * 2**20
# The measured memory of an entry in addition to its numbers: the array, the key and the table.
_ENTRY_BYTES: Final = 600


class SharedStore(Protocol):
    """A key-value store that all replicas share (rediscache.py). No method raises."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]: ...
    async def set(self, values: Mapping[str, bytes]) -> None: ...
    async def connect(self) -> None: ...
    async def check(self) -> str | None: ...
    async def close(self) -> None: ...


class VectorCache:
    """Keeps vectors of one model by the hashes of their texts."""

    def __init__(
        self, model: EmbeddingModel, shared: SharedStore | None = None, *, memory_bytes: int = _MEMORY_BYTES
    ) -> None:
        """``memory_bytes`` bounds the cache in this process. Without ``shared``, there is no other cache."""
        self._size = model.dimensions * 4
        self._prefix = f"datastorage:vector:{model.provider}:{model.name}:{model.dimensions}:"
        # Holds the most recently used vectors.
        self._memory: LRUCache[bytes, Vector] = LRUCache(memory_bytes // (self._size + _ENTRY_BYTES))
        self._shared = shared

    async def get(self, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the vectors that are cached, by the hashes of their texts. Raises nothing."""
        found = {key: self._memory[key] for key in hashes if key in self._memory}
        metrics.CACHE_HITS.labels(metrics.CacheTier.MEMORY).inc(len(found))
        rest = [key for key in dict.fromkeys(hashes) if key not in found]
        shared = await self._from_shared(rest)
        self._memory.update(shared)
        metrics.CACHE_HITS.labels(metrics.CacheTier.REDIS).inc(len(shared))
        metrics.CACHE_MISSES.inc(len(rest) - len(shared))
        return found | shared

    async def set(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors, in memory and for the other replicas. Raises nothing."""
        self._memory.update(vectors)
        if self._shared is not None and vectors:
            await self._shared.set(
                {self._key(key): vector.astype("<f4").tobytes() for key, vector in vectors.items()}
            )

    async def connect(self) -> None:
        """Connect to Redis before the first use. Raises nothing."""
        if self._shared is not None:
            await self._shared.connect()

    async def check(self) -> str | None:
        """Return a description of what is wrong with Redis, or None."""
        return await self._shared.check() if self._shared is not None else None

    async def close(self) -> None:
        """Close the connections to Redis, if there is one."""
        if self._shared is not None:
            await self._shared.close()

    async def _from_shared(self, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        if self._shared is None or not hashes:
            return {}
        values = await self._shared.get([self._key(key) for key in hashes])
        found = {}
        for key, value in zip(hashes, values, strict=True):
            if value is None:
                continue
            vector = self._vector(value)
            if vector is None:
                metrics.CACHE_ERRORS.labels(metrics.CacheError.GARBAGE).inc()
            else:
                found[key] = vector
        return found

    def _key(self, text_hash: bytes) -> str:
        return self._prefix + text_hash.hex()

    def _vector(self, value: bytes) -> Vector | None:
        if len(value) != self._size:
            return None
        vector = np.frombuffer(value, dtype="<f4").astype(np.float32)
        if fault_of(vector):  # a provider's vector would be refused for the same fault
            return None
        vector.setflags(write=False)
        return vector
