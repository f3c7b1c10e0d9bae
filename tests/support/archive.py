"""An archive to search: records with vectors in real databases, and a provider with simple distances."""

import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datastorage.assembly.queries import build_queries
from datastorage.assembly.searching import by_meaning
from datastorage.embedding import Embedder, Provider, VectorCache
from datastorage.errors import EmbedderUnavailableError
from datastorage.metrics import Dependency
from datastorage.query.meaning import NearestInMeaning
from datastorage.query.questions import ArchiveQueries
from datastorage.query.search import Searcher
from datastorage.records.vector import EmbeddingModel, Matrix
from datastorage.resilience.breaker import Breaker
from datastorage.storage.clues import ClueLimits
from datastorage.storage.connection.database import Database
from datastorage.storage.contents import MAX_ANSWER_BYTES
from datastorage.storage.fulltext import FullText
from datastorage.storage.hits import HitReader
from datastorage.storage.nearest import Nearest, WalkLimits
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.ranking import RankLimits
from datastorage.storage.readonly import READING
from datastorage.storage.schema import VECTORS
from datastorage.storage.summaries import Summaries
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive
from harness.objects import record_of
from harness.polling import DEADLINE_SECONDS
from harness.postgres import TestDatabase

MODEL = EmbeddingModel("test", "bag-of-words", 512)
PATIENT = ClueLimits(seconds=DEADLINE_SECONDS)
"""For tests of what clues find: within the product's limit, a busy machine may find nothing."""


class BagOfWords:
    """Its vectors count the words of a text: texts that share words are near each other."""

    is_slow = False

    def __init__(self) -> None:
        self.is_away = False

    @property
    def model(self) -> EmbeddingModel:
        return MODEL

    async def embed(self, texts: Sequence[str]) -> Matrix:
        if self.is_away:
            raise EmbedderUnavailableError("the bag is away")
        rows = np.zeros((len(texts), MODEL.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace(".", " ").split():
                row[zlib.crc32(word.encode()) % MODEL.dimensions] += 1
        return rows

    async def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True)
class Vectors:
    """The attributes of a VectorStore that the queries need."""

    database: Database
    same_server: bool
    embedder: Embedder


@dataclass(frozen=True)
class Store:
    """The attributes of a Store that the queries need."""

    database: Database
    vectors: Vectors | None


@dataclass(frozen=True)
class SearchableArchive:
    """An archive that stores objects and answers questions."""

    store: Store
    provider: Provider
    questions: Database
    """What it asks: as in the service, connections of their own to the database of the records."""
    ask: ArchiveQueries

    def limited(
        self,
        *,
        walk: WalkLimits = WalkLimits(),
        rank: RankLimits = RankLimits(),
        clues: ClueLimits = PATIENT,
        max_bytes: int = MAX_ANSWER_BYTES,
        embedding_seconds: float = DEADLINE_SECONDS,
    ) -> "SearchableArchive":
        """Return the same archive with other limits. By default, a search has all the time that it needs."""
        vectors, database = self.store.vectors, self.questions
        assert vectors is not None
        nearest = Nearest(
            database,
            database if vectors.same_server else vectors.database,
            model=self.provider.model,
            same_server=vectors.same_server,
            limits=walk,
        )
        meaning = NearestInMeaning(vectors.embedder, nearest)
        hits = HitReader(database, max_bytes=max_bytes)
        full_text = FullText(database, limits=rank, clue_limits=clues)
        searcher = Searcher(hits, full_text, meaning, embedding_seconds=embedding_seconds)
        return replace(
            self,
            ask=ArchiveQueries(ArchiveReader(database, max_bytes=max_bytes), searcher, Summaries(database)),
        )

    async def put(self, *bodies: Mapping[str, Any], with_vectors: bool = True) -> None:
        """Store objects and their vectors."""
        records = [record_of(body) for body in bodies]
        await Archive(self.store.database).write(records)
        texts = {r.text.hash: r.text.text for r in records if r.text is not None and r.text.text}
        if with_vectors and texts and self.store.vectors is not None:
            model = self.provider.model
            tables = VectorTables(self.store.vectors.database, model)
            rows = await self.provider.embed(list(texts.values()))
            await tables.insert(dict(zip(texts, rows, strict=True)))


@asynccontextmanager
async def searchable(
    records: TestDatabase, vectors: TestDatabase | None = None, provider: Provider | None = None
) -> AsyncIterator[SearchableArchive]:
    """Open an archive under the service role; its vectors are beside it, or in a database of their own."""
    async with AsyncExitStack() as stack:
        database = Database(records.service_url, pool_size=4)
        stack.push_async_callback(database.close)
        questions = Database(records.service_url, pool_size=4, session_settings=READING)
        stack.push_async_callback(questions.close)
        apart = database
        if vectors is not None:
            apart = Database(vectors.service_url, pool_size=4, chain=VECTORS)
            stack.push_async_callback(apart.close)
        chosen = provider or BagOfWords()
        breaker = Breaker(Dependency.EMBEDDER, _serves, on_recovery=lambda: None)
        stack.push_async_callback(breaker.close)
        embedder = Embedder(chosen, VectorCache(chosen.model), breaker)
        stack.push_async_callback(embedder.close)
        store = Store(database, Vectors(apart, vectors is None, embedder))
        meaning = by_meaning(questions, embedder, apart if vectors is not None else None)
        yield SearchableArchive(store, chosen, questions, build_queries(questions, meaning)).limited()


async def _serves() -> None:
    """The tests decide whether the provider serves."""
