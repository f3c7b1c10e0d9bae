"""Vectors at hand: in this process's memory, and in the Redis that all replicas share.

Nothing here is ever needed: whatever Redis does or has in it, a vector that is not found is made anew.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from datastorage import metrics
from datastorage.embedding.provider import fault_of
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.secrets import Origin

if TYPE_CHECKING:
    from datastorage.embedding.redis import RedisStore

_MEMORY_BYTES: Final = 16 * 2**20
# What an array, its key and its place in the table take beside the numbers, measured.
_ENTRY_BYTES: Final = 450


class VectorCache:
    """Keeps vectors of one model by the hashes of their texts."""

    def __init__(self, model: EmbeddingModel, redis_url: str | Origin | None, ttl_seconds: int) -> None:
        """Without a URL there is the memory alone. Raises ConfigurationError when the URL is malformed."""
        self._size = model.dimensions * 4
        self._prefix = f"datastorage:vector:{model.provider}:{model.name}:{model.dimensions}:"
        self._memory = _Memory(_MEMORY_BYTES // (self._size + _ENTRY_BYTES))
        self._redis = _store(redis_url, ttl_seconds) if redis_url else None

    async def get(self, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the vectors that are there. Raises nothing."""
        found = self._memory.get(hashes)
        metrics.CACHE_HITS.labels("memory").inc(len(found))
        rest = [key for key in dict.fromkeys(hashes) if key not in found]
        shared = await self._from_redis(rest)
        self._memory.set(shared)
        metrics.CACHE_HITS.labels("redis").inc(len(shared))
        metrics.CACHE_MISSES.inc(len(rest) - len(shared))
        return found | shared

    async def set(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors, here and for the other replicas. Raises nothing."""
        self._memory.set(vectors)
        if self._redis is not None and vectors:
            await self._redis.set(
                {self._key(key): vector.astype("<f4").tobytes() for key, vector in vectors.items()}
            )

    async def connect(self) -> None:
        """Connect to Redis before the first use. Raises nothing."""
        if self._redis is not None:
            await self._redis.connect(self._prefix + "check")

    async def check(self) -> str | None:
        """Return what is wrong with Redis, or None."""
        return await self._redis.check(self._prefix + "check") if self._redis is not None else None

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.close()

    async def _from_redis(self, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        if self._redis is None or not hashes:
            return {}
        values = await self._redis.get([self._key(key) for key in hashes])
        found = {}
        for key, value in zip(hashes, values, strict=True):
            if value is None:
                continue
            vector = self._vector(value)
            if vector is None:
                metrics.CACHE_ERRORS.labels("garbage").inc()
            else:
                found[key] = vector
        return found

    def _key(self, text_hash: bytes) -> str:
        return self._prefix + text_hash.hex()

    def _vector(self, value: bytes) -> Vector | None:
        if len(value) != self._size:
            return None
        vector = np.frombuffer(value, dtype="<f4").astype(np.float32)
        if fault_of(vector):  # it would be refused if it were new
            return None
        vector.setflags(write=False)
        return vector


class _Memory:
    """The vectors that were used last."""

    def __init__(self, max_vectors: int) -> None:
        self._max_vectors = max_vectors
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()

    def get(self, hashes: Iterable[bytes]) -> dict[bytes, Vector]:
        found = {}
        for key in hashes:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
                found[key] = vector
        return found

    def set(self, vectors: Mapping[bytes, Vector]) -> None:
        self._vectors.update(vectors)
        for key in vectors:
            self._vectors.move_to_end(key)
        while len(self._vectors) > self._max_vectors:
            self._vectors.popitem(last=False)


def _store(url: str | Origin, ttl_seconds: int) -> "RedisStore":
    # The library takes a quarter of a second to load; where there is no Redis nobody needs it.
    from datastorage.embedding.redis import RedisStore  # noqa: PLC0415

    return RedisStore(url, ttl_seconds)
