"""What one batch becomes: its texts get their vectors, and rows and vectors are stored.

The rows never wait for the vectors: an embedder that is away, slow or wrong leaves its texts owed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from datastorage import metrics
from datastorage.embedding import Embedder, Embeddings
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vector import Vector
from datastorage.records.writes import VectorWrite, WriteState
from datastorage.storage.archive import distinct_texts

# The write path waits no longer for an embedder; the backfill has the time that it lacks.
_PATIENCE_SECONDS: Final = 2.0


class DualWrite(Protocol):
    """Where rows and vectors go (storage/dualwrite.py)."""

    async def store(
        self, records: Sequence[Record], vectors: Mapping[bytes, Vector], owed: Mapping[bytes, VectorWrite]
    ) -> list[StoredRecord]: ...


class Rows(Protocol):
    """Where rows alone go (storage/archive.py)."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]: ...


class RowWriter:
    """Stores records where no vectors are kept."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store all records in one transaction, as Archive.store does."""
        return await self._rows.store(records)

    store_bare = store


class EmbeddingWriter:
    """Stores records with their vectors."""

    def __init__(self, *, embedder: Embedder, dual_write: DualWrite, on_owed: Callable[[], None]) -> None:
        """``on_owed`` is called when vectors could not be written and wait in the outbox."""
        self._embedder = embedder
        self._dual_write = dual_write
        self._on_owed = on_owed

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        Raises RecordRefusedError and TransientError as Archive.store does, and only for the rows' sake.
        """
        texts = distinct_texts(records)
        embeddings = await self._embedder.embed(texts, patience_seconds=_PATIENCE_SECONDS)
        stored = await self._dual_write.store(records, embeddings.vectors, self._owed(texts, embeddings))
        _count(stored)
        if any(row.vector.state is WriteState.PENDING for row in stored):
            self._on_owed()
        return stored

    async def store_bare(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store all records in one transaction as ``store`` does, all their vectors owed."""
        why = "rows and vectors together are too much for PostgreSQL"
        owed = VectorWrite(
            WriteState.PENDING, Reason.VECTOR_STORE_UNAVAILABLE, why, str(self._embedder.model)
        )
        stored = await self._dual_write.store(records, {}, dict.fromkeys(distinct_texts(records), owed))
        _count(stored)
        self._on_owed()
        return stored

    def _owed(self, texts: Mapping[bytes, str], embeddings: Embeddings) -> dict[bytes, VectorWrite]:
        model = str(self._embedder.model)
        owed = {
            key: VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, reason, model)
            for key, reason in embeddings.refused.items()
        }
        missing = texts.keys() - embeddings.vectors.keys() - owed.keys()
        away = VectorWrite(
            WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, str(embeddings.error or ""), model
        )
        return owed | dict.fromkeys(missing, away)


_REASONS: Final = {
    "EmbedderUnavailable": "embedder_unavailable",
    "EmbeddingRefused": "embedding_refused",
    "VectorStoreUnavailable": "vector_store_unavailable",
}


def _count(stored: Sequence[StoredRecord]) -> None:
    for row in stored:
        if not row.is_new:
            continue
        if row.vector.state is WriteState.WRITTEN:
            metrics.DUALWRITE_SUCCESS.inc()
        elif row.vector.reason in _REASONS:
            metrics.DUALWRITE_FAILURE.labels(_REASONS[row.vector.reason]).inc()
            if row.vector.state is WriteState.PENDING:
                metrics.FALLBACK_MODE.inc()
