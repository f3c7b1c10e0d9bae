"""Writes a batch: makes the vectors of its texts, then stores everything in one transaction.

The rows do not depend on the vectors: if the embedder is away, slow or wrong, the vectors stay pending. The
vectors of an embedder that works in the background are pending at first, unless the cache has them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from datastorage import metrics
from datastorage.embedding import Embedder
from datastorage.errors import EmbedderUnavailableError
from datastorage.metrics import VectorFailure
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.storage.write import TextVectors, distinct_texts
from datastorage.tracing import NO_TRACES, Traces

# The longest that the write path waits for an embedder; the backfill can take more time.
_EMBEDDER_SECONDS: Final = 2.0
# Reasons for which a vector is pending although nothing is wrong.
_ON_PURPOSE: Final = frozenset({Reason.QUEUED, Reason.FOLLOWING})


class Archive(Protocol):
    """The archive, as far as this module uses it (storage/write.py)."""

    async def write(
        self, records: Sequence[Record], given: TextVectors | None = None, *, whole: bool = False
    ) -> list[StoredRecord]: ...


class RowWriter:
    """Stores records where no vectors are kept."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def store(self, records: Sequence[Record], *, whole: bool = False) -> list[StoredRecord]:
        """Store all records in one transaction, as Archive.write does."""
        return await self._archive.write(records, whole=whole)

    store_bare = store


class EmbeddingWriter:
    """Stores records with their vectors."""

    def __init__(
        self,
        *,
        archive: Archive,
        embedder: Embedder,
        on_pending: Callable[[], None],
        vector_store: Breaker | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        """``on_pending`` is called when vectors wait in the outbox. ``vector_store`` is the breaker of their
        tables, which says whether those of the background can be written at present.
        """
        self._archive = archive
        self._embedder = embedder
        self._on_pending = on_pending
        self._vector_store = vector_store
        self._traces = traces

    async def store(self, records: Sequence[Record], *, whole: bool = False) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        Raises errors as Archive.write does. A failure of the embedder raises
        nothing.
        """
        texts = distinct_texts(records)
        self._traces.embedding_begins()
        if self._embedder.in_background:
            embeddings = await self._embedder.at_hand(texts)
        else:
            embeddings = await self._embedder.embed(texts, timeout_seconds=_EMBEDDER_SECONDS)
        pending = self._pending(embeddings.error)
        missing = dict.fromkeys(texts.keys() - embeddings.vectors.keys(), pending) | {
            key: self._missing(Reason.EMBEDDING_REFUSED, why, WriteState.FAILED)
            for key, why in embeddings.refused.items()
        }
        given = TextVectors(texts, embeddings.vectors, missing)
        return await self._write(records, given, whole=whole)

    async def store_bare(self, records: Sequence[Record], *, whole: bool = False) -> list[StoredRecord]:
        """Store all records in one transaction as ``store`` does, but leave all their vectors pending."""
        why = "rows and vectors together are too much for PostgreSQL"
        write = self._missing(Reason.VECTOR_STORE_UNAVAILABLE, why)
        return await self._write(records, TextVectors.all_missing(records, write), whole=whole)

    async def _write(
        self, records: Sequence[Record], given: TextVectors, *, whole: bool
    ) -> list[StoredRecord]:
        stored = await self._archive.write(records, given, whole=whole)
        _count(stored)
        if any(row.vector.state is WriteState.PENDING for row in stored):
            self._on_pending()
        return stored

    def _pending(self, error: EmbedderUnavailableError | None) -> VectorWrite:
        if error is not None:
            return self._missing(Reason.EMBEDDER_UNAVAILABLE, str(error))
        away = None if self._vector_store is None else self._vector_store.reason
        if away is not None:
            return self._missing(Reason.VECTOR_STORE_UNAVAILABLE, away)
        return self._missing(Reason.QUEUED, "")

    def _missing(self, reason: Reason, message: str, state: WriteState = WriteState.PENDING) -> VectorWrite:
        return VectorWrite(state, reason, message, str(self._embedder.model))


def _count(stored: Sequence[StoredRecord]) -> None:
    states = Counter((row.vector.state, row.vector.reason) for row in stored if row.is_new)
    for (state, reason), count in states.items():
        if state is WriteState.WRITTEN:
            metrics.DUALWRITE_SUCCESS.inc(count)
        if state in {WriteState.PENDING, WriteState.FAILED}:
            metrics.DUALWRITE_FAILURE.labels(VectorFailure(reason.label)).inc(count)
        if state is WriteState.PENDING and reason not in _ON_PURPOSE:
            metrics.FALLBACK_MODE.inc(count)
