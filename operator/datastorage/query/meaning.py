"""Finds the records that are nearest in meaning to a question: by its vector."""

import asyncio
from collections.abc import Mapping, Sequence

from datastorage.embedding import Embedder
from datastorage.errors import EmbedderUnavailableError
from datastorage.records.vector import Vector
from datastorage.storage.criteria import Criteria
from datastorage.storage.matches import Match, Near, Similarities
from datastorage.storage.nearest import Nearest


class NearestInMeaning:
    """Embeds a question, and looks for the vectors that are nearest to it."""

    def __init__(self, embedder: Embedder, nearest: Nearest) -> None:
        """Both must be for the same model."""
        self._embedder = embedder
        self._nearest = nearest

    async def nearest(
        self, question: str, criteria: Criteria, *, limit: int, per_text: int, seconds: float | None
    ) -> Near:
        """Return the nearest records, with a few of each text.

        Raises InvalidQueryError for a question without a vector, EmbedderUnavailableError if it has none
        within ``seconds``, and TransientError if PostgreSQL can't serve.
        """
        try:
            async with asyncio.timeout(seconds):
                vector = await self._embedder.embed_query(question)
        except TimeoutError:
            raise EmbedderUnavailableError(f"the question had no vector within {seconds:g} s") from None
        return await self._nearest.nearest(criteria, vector, limit=limit, per_text=per_text)

    async def similarities(
        self, criteria: Criteria, vector: Vector, text_hashes: Sequence[bytes]
    ) -> Similarities:
        """Return how near a question is to texts, and to others that are picked at random.

        If the criteria name a namespace, the others are of this namespace, too. ``vector`` is that of the
        question. Raises TransientError if PostgreSQL can't serve.
        """
        return await self._nearest.similarities(criteria, vector, text_hashes)

    async def records_of(
        self, criteria: Criteria, similarities: Mapping[bytes, float], *, per_text: int
    ) -> list[Match]:
        """Return the newest records of texts whose similarities are known, at most ``per_text`` of each.

        Raises TransientError if PostgreSQL can't serve.
        """
        return await self._nearest.records_of(criteria, similarities, per_text=per_text)
