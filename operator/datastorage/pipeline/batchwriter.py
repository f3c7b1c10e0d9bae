"""Writes a batch: makes the vectors of its texts, then stores everything in one transaction.

The rows do not depend on the vectors: if the embedder is away, slow or wrong, the vectors stay pending.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from datastorage import metrics
from datastorage.embedding import Embedder
from datastorage.metrics import VectorFailure
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.storage.write import TextVectors, distinct_texts
from datastorage.tracing import NO_TRACES, Traces

# The longest that the write path waits for an embedder; the backfill can take more time.
_EMBEDDER_SECONDS: Final = 2.0


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
        traces: Traces = NO_TRACES,
    ) -> None:
        """``on_pending`` is called when vectors could not be written and wait in the outbox."""
        self._archive = archive
        self._embedder = embedder
        self._on_pending = on_pending
        self._traces = traces

    async def store(self, records: Sequence[Record], *, whole: bool = False) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        Raises errors as Archive.write does. A failure of the embedder raises
        nothing.
        """
        texts = distinct_texts(records)
        self._traces.embedding_begins()
        embeddings = await self._embedder.embed(texts, timeout_seconds=_EMBEDDER_SECONDS)
        unavailable = self._missing(Reason.EMBEDDER_UNAVAILABLE, str(embeddings.error or ""))
        missing = dict.fromkeys(texts.keys() - embeddings.vectors.keys(), unavailable) | {
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

    def _missing(self, reason: Reason, message: str, state: WriteState = WriteState.PENDING) -> VectorWrite:
        return VectorWrite(state, reason, message, str(self._embedder.model))


def _count(stored: Sequence[StoredRecord]) -> None:
    states = Counter((row.vector.state, row.vector.reason.label) for row in stored if row.is_new)
    for (state, reason), count in states.items():
        if state is WriteState.WRITTEN:
            metrics.DUALWRITE_SUCCESS.inc(count)
        if state in {WriteState.PENDING, WriteState.FAILED}:
            metrics.DUALWRITE_FAILURE.labels(VectorFailure(reason)).inc(count)
        # Where the vectors have a server of their own, each of them follows: that is no fallback.
        if state is WriteState.PENDING and reason != VectorFailure.FOLLOWING:
            metrics.FALLBACK_MODE.inc(count)
