"""The writer of batches: which vectors it asks for, and how it counts the results."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from datastorage import metrics
from datastorage.embedding import Embedder, VectorCache
from datastorage.metrics import Dependency
from datastorage.pipeline.batchwriter import EmbeddingWriter
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.storage.write import TextVectors
from harness.objects import audit_record, record_of
from tests.support.embedding import FakeProvider
from tests.support.fakes import STORED_AT


@dataclass
class Answers:
    """An archive that answers ``write`` for the vector of every record."""

    write_of_all: VectorWrite
    is_new: bool = True
    given: list[TextVectors | None] = field(default_factory=list)

    async def write(
        self, records: Sequence[Record], given: TextVectors | None = None, *, whole: bool = False
    ) -> list[StoredRecord]:
        assert not whole
        self.given.append(given)
        return [
            StoredRecord(r.content_hash, STORED_AT, self.write_of_all, is_new=self.is_new) for r in records
        ]


async def _store(archive: Answers) -> int:
    """Store one record; return how often a look at the outbox was requested."""
    provider, asked = FakeProvider(), 0

    def ask() -> None:
        nonlocal asked
        asked += 1

    async def serves() -> None:
        """Do nothing: the provider always serves."""

    breaker = Breaker(Dependency.EMBEDDER, serves, on_recovery=lambda: None)
    embedder = Embedder(provider, VectorCache(provider.model), breaker)
    writer = EmbeddingWriter(archive=archive, embedder=embedder, on_pending=ask)
    await writer.store([record_of(audit_record())])
    await embedder.close()
    await breaker.close()
    return asked


def _failures(reason: Reason) -> float:
    sample = metrics.REGISTRY.get_sample_value(
        "datastorage_dualwrite_failure_total", {"reason": reason.label}
    )
    return sample or 0.0


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE),
        (WriteState.PENDING, Reason.VECTOR_STORE_UNAVAILABLE),
        (WriteState.PENDING, Reason.FOLLOWING),
        (WriteState.FAILED, Reason.EMBEDDING_REFUSED),
    ],
)
async def test_every_reason_of_a_row_without_its_vector_is_counted(state: WriteState, reason: Reason) -> None:
    before = _failures(reason)
    asked = await _store(Answers(VectorWrite(state, reason)))
    assert _failures(reason) == before + 1
    assert asked == (1 if state is WriteState.PENDING else 0)


async def test_a_repeated_row_is_not_counted_again_and_its_vector_still_asked_for() -> None:
    before = _failures(Reason.IN_OUTBOX)
    assert await _store(Answers(VectorWrite(WriteState.PENDING, Reason.IN_OUTBOX), is_new=False)) == 1
    assert _failures(Reason.IN_OUTBOX) == before
