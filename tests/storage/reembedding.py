"""One run of a reembedding on real tables with a fake model, and the result that it should have."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from datastorage.embedding import Embedder, VectorCache
from datastorage.embedding.provider import probe
from datastorage.metrics import Dependency
from datastorage.records.record import Record
from datastorage.records.vector import EmbeddingModel, Matrix
from datastorage.resilience.breaker import Breaker
from datastorage.storage.connection.database import Database
from datastorage.storage.texts import Texts
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive
from datastorage.vectors.backfill import Dependencies
from datastorage.vectors.reembed import Pace, Reembed
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from tests.support.embedding import FakeProvider, vector_of
from tests.support.ping import ping

FULL: Final = 10


class SmallPartitions(VectorTables):
    """Its partitions are full with a few vectors, and indexed without delay."""

    grace_seconds = 0.0

    def max_rows(self, memory_mib: int) -> int:
        assert super().max_rows(memory_mib) > FULL
        return FULL

    async def index(
        self, *, memory_mib: int, full_rows: int = FULL, grace_seconds: float = 0, merged_partitions: int = 2
    ) -> bool:
        assert grace_seconds == 0
        return await super().index(
            memory_mib=memory_mib, full_rows=full_rows, grace_seconds=self.grace_seconds,
            merged_partitions=merged_partitions,
        )  # fmt: skip


class OtherModel(FakeProvider):
    """Another model of the same width."""

    @property
    def model(self) -> EmbeddingModel:
        return EmbeddingModel("fake", "other", super().model.dimensions)

    async def embed(self, texts: Sequence[str]) -> Matrix:
        return -await super().embed(texts)


class Run:
    """One run and its components."""

    def __init__(
        self,
        database: Database,
        vector_database: Database,
        provider: FakeProvider,
        texts: type[Texts] = Texts,
        *,
        pace: Pace = Pace(),
    ) -> None:
        self.provider = provider
        self.vectors = SmallPartitions(vector_database, provider.model)
        self.breakers = Dependencies(
            Breaker(Dependency.POSTGRES, partial(ping, database), trial=Texts(database).probe),
            Breaker(Dependency.EMBEDDER, partial(probe, provider)),
            Breaker(Dependency.VECTOR_STORE, self.vectors.probe),
        )
        self.embedder = Embedder(provider, VectorCache(provider.model), self.breakers.embedder)
        self.texts = texts(database)
        self.reembed = Reembed(
            texts=self.texts,
            vectors=self.vectors,
            embedder=self.embedder,
            dependencies=self.breakers,
            index_memory_mib=64,
            pace=pace,
        )

    async def run(self) -> Reembed:
        try:
            await self.reembed.run()
        finally:
            await self.close()
        return self.reembed

    async def close(self) -> None:
        for breaker in (self.breakers.postgres, self.breakers.embedder, self.breakers.vector_store):
            await breaker.close()


def audits(count: int, *, start: int = 0) -> list[Record]:
    """Records with distinct texts."""
    return [
        record_of(audit_record({**AUDIT_SPEC, "message": f"disk {n} is full"}))
        for n in range(start, start + count)
    ]


def traces(count: int) -> list[Record]:
    return [
        record_of(action_trace({**TRACE_SPEC, "model": {"reasoning": f"volume {n} grows"}}))
        for n in range(count)
    ]


async def store(archive: Archive, records: Sequence[Record], *, with_texts: bool = False) -> None:
    await archive.write([record if with_texts else replace(record, text=None) for record in records])


async def texts_of(owner: Any, records: Sequence[Record]) -> list[tuple[bytes | None, str | None]]:
    """Return each row's hash, and the text that is kept under it."""
    found = []
    for r in records:
        row = await owner.fetchrow(
            f"SELECT r.text_hash, t.text, r.content FROM datastorage.{r.table} r "
            "LEFT JOIN datastorage.embedding_texts t USING (text_hash) WHERE uid = $1 AND generation = $2",
            r.key.uid, r.key.generation,
        )  # fmt: skip
        assert row["content"] == r.content
        found.append((row["text_hash"], row["text"]))
    return found


async def vectors_in(owner: Any, number: int = 1) -> dict[bytes, list[float]]:
    rows = await owner.fetch(f"SELECT text_hash, embedding::text AS v FROM datastorage.embeddings_{number}")
    assert len({row["text_hash"] for row in rows}) == len(rows)
    return {row["text_hash"]: json.loads(row["v"]) for row in rows}


def expected_texts(records: Sequence[Record]) -> list[tuple[bytes | None, str | None]]:
    return [(r.text.hash, r.text.text or None) for r in records if r.text is not None]


def expected_vectors(records: Sequence[Record], sign: int = 1) -> dict[bytes, list[float]]:
    texts = {r.text.hash: r.text.text for r in records if r.text is not None and r.text.text}
    return {key: (sign * vector_of(text)).tolist() for key, text in texts.items()}
