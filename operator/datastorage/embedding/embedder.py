"""Returns vectors of many texts, from the cache or from the provider, and remembers refused texts."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cachetools import TTLCache

from datastorage.embedding.cache import VectorCache
from datastorage.embedding.isolation import Embeddings, Isolation, Limits, embedded
from datastorage.embedding.provider import Provider, fault_of, probe, rows_of
from datastorage.embedding.questiontext import query_text
from datastorage.errors import EmbedderUnavailableError, EmbeddingRefusedError, InvalidQueryError
from datastorage.records.hashes import text_hash
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.resilience.breaker import Breaker


@dataclass(frozen=True)
class RefusalMemory:
    """Bounds on the memory of refused texts. Without it, each batch with such a text takes further calls."""

    seconds: float = 600.0
    """After this time a text is tried again: the model behind the name may have been replaced or repaired."""
    max_texts: int = 10_000
    """With their reasons, this many take some MB."""


class Embedder:
    """Makes vectors with one provider, behind a cache and a breaker."""

    def __init__(
        self,
        provider: Provider,
        cache: VectorCache,
        breaker: Breaker,
        *,
        in_background: bool = False,
        limits: Limits = Limits(),
        memory: RefusalMemory = RefusalMemory(),
    ) -> None:
        """The breaker's probe must be ``probe`` in provider.py, for the same provider. ``in_background``: the
        write path takes only the vectors that are at hand.
        """
        self.in_background = in_background
        self._provider = provider
        self._cache = cache
        self._breaker = breaker
        self._limits = limits
        # The reason why each text was refused, by its hash.
        self._refusals: TTLCache[bytes, str] = TTLCache(memory.max_texts, memory.seconds, time.monotonic)

    @property
    def model(self) -> EmbeddingModel:
        """The model of the vectors."""
        return self._provider.model

    async def embed(
        self, texts: Mapping[bytes, str], *, timeout_seconds: float | None, ask_again: bool = False
    ) -> Embeddings:
        """Return the vectors of texts, which are keyed by their hashes. Raises nothing.

        A provider that takes longer than ``timeout_seconds`` counts as away. With None, only the provider's
        own time-out applies, and this method searches for the texts with which the provider fails while it
        serves others: they are refused. One call may not find all of them. With ``ask_again``, texts that
        were refused recently are tried too.
        """
        vectors = await self._cache.get(list(texts))
        missing = {key: text for key, text in texts.items() if key not in vectors}
        known = {} if ask_again else self._known_refusals(missing)
        isolation = Isolation(
            self._provider, self._breaker, timeout_seconds=timeout_seconds, limits=self._limits
        )
        fresh = await isolation.embed({key: text for key, text in missing.items() if key not in known})
        await self._cache.set(fresh.vectors)
        vectors |= fresh.vectors
        for key in vectors:
            self._refusals.pop(key, None)
        self._refusals.update(fresh.refused)
        return Embeddings(vectors, known | fresh.refused, fresh.error)

    async def at_hand(self, texts: Mapping[bytes, str]) -> Embeddings:
        """Return what is known of texts without asking the provider, as ``embed`` does. Raises nothing.

        Only while the provider is away, the result has an error.
        """
        vectors = await self._cache.get(list(texts))
        refused = self._known_refusals(key for key in texts if key not in vectors)
        reason = self._breaker.reason
        return Embeddings(vectors, refused, None if reason is None else EmbedderUnavailableError(reason))

    async def embed_query(self, text: str) -> Vector:
        """Return the vector of a question.

        Raises InvalidQueryError if it has no vector, EmbedderUnavailableError if the provider can't serve
        now.
        """
        words = query_text(text)
        if not words:
            raise InvalidQueryError("the question has no words to search for")
        key = text_hash(words)
        cached = (await self._cache.get([key])).get(key)
        if cached is not None:
            return cached
        # Not through the breaker: it may be open because batches take too long, and a question that makes the
        # provider fail must not keep the records from their vectors.
        try:
            row = (await rows_of(self._provider, [words]))[0]
        except EmbeddingRefusedError as error:
            raise InvalidQueryError(f"the embedding model refuses this question: {error}") from error
        fault = fault_of(row)
        if fault:
            raise InvalidQueryError(f"the embedding model makes no usable vector of this question: {fault}")
        vector = embedded(row)
        await self._cache.set({key: vector})
        self._refusals.pop(key, None)
        return vector

    async def probe(self) -> None:
        """Check that the provider serves. Raises EmbedderUnavailableError while it does not."""
        await probe(self._provider)

    async def close(self) -> None:
        """Release the resources of the provider and the cache."""
        await self._provider.close()
        await self._cache.close()

    def _known_refusals(self, keys: Iterable[bytes]) -> dict[bytes, str]:
        found = {key: self._refusals.get(key) for key in keys}
        return {key: reason for key, reason in found.items() if reason is not None}
