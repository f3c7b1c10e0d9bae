"""The writer of batches: which vectors it asks for, and how it counts the results."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from datastorage import metrics
from datastorage.embedding import Embedder, VectorCache
from datastorage.errors import EmbedderUnavailableError, TransientError
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
from tests.support.pace import NEVER

RECORD = record_of(audit_record())


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


@dataclass
class Bench:
    """A writer with fakes around it."""

    archive: Answers
    in_background: bool = False
    provider: FakeProvider = field(default_factory=FakeProvider)
    asked: int = 0
    """How often a look at the outbox was requested."""

    def __post_init__(self) -> None:
        cache = VectorCache(self.provider.model)
        self.embedder_breaker = Breaker(Dependency.EMBEDDER, self._probe, pace=NEVER)
        self.vector_store = Breaker(Dependency.VECTOR_STORE, self._probe, pace=NEVER)
        self.embedder = Embedder(
            self.provider, cache, self.embedder_breaker, in_background=self.in_background
        )
        self.writer = EmbeddingWriter(
            archive=self.archive,
            embedder=self.embedder,
            on_pending=self._ask,
            vector_store=self.vector_store,
        )

    async def store(self) -> VectorWrite | None:
        """Store a record; return why its vector was missing then, or None if it was there."""
        await self.writer.store([RECORD])
        given = self.archive.given[-1]
        assert given is not None
        return next(iter(given.missing.values()), None)

    async def close(self) -> None:
        await self.embedder.close()
        await self.embedder_breaker.close()
        await self.vector_store.close()

    def _ask(self) -> None:
        self.asked += 1

    async def _probe(self) -> None:
        """Do nothing: whatever is probed serves."""


async def _store(archive: Answers) -> int:
    """Store one record; return how often a look at the outbox was requested."""
    bench = Bench(archive)
    await bench.store()
    await bench.close()
    return bench.asked


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
        (WriteState.PENDING, Reason.QUEUED),
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


@pytest_asyncio.fixture
async def background() -> AsyncIterator[Bench]:
    """A writer whose embedder works in the background."""
    made = Bench(Answers(VectorWrite(WriteState.PENDING, Reason.QUEUED)), in_background=True)
    yield made
    await made.close()


async def test_the_write_path_does_not_ask_an_embedder_of_the_background(background: Bench) -> None:
    background.provider.never_answers = True
    missing = await background.store()
    assert missing == VectorWrite(WriteState.PENDING, Reason.QUEUED, "", str(background.provider.model))
    assert background.provider.calls == []
    assert background.asked == 1


async def test_a_vector_that_is_at_hand_is_written_with_its_record(background: Bench) -> None:
    assert RECORD.text is not None
    await background.embedder.embed({RECORD.text.hash: RECORD.text.text}, timeout_seconds=None)
    assert await background.store() is None


async def test_a_text_that_was_refused_is_known_to_have_no_vector(background: Bench) -> None:
    assert RECORD.text is not None
    background.provider.refused = {RECORD.text.text}
    await background.embedder.embed({RECORD.text.hash: RECORD.text.text}, timeout_seconds=None)
    missing = await background.store()
    assert missing is not None
    assert (missing.state, missing.reason) == (WriteState.FAILED, Reason.EMBEDDING_REFUSED)


async def test_while_the_embedder_is_away_its_vectors_are_not_called_queued(background: Bench) -> None:
    background.provider.failure = EmbedderUnavailableError("the model is gone")
    await background.embedder.embed({b"other": "other"}, timeout_seconds=None)
    missing = await background.store()
    assert missing is not None
    assert (missing.reason, missing.message) == (Reason.EMBEDDER_UNAVAILABLE, "the model is gone")


async def test_while_the_vector_store_is_away_vectors_are_not_called_queued(background: Bench) -> None:
    async def fail() -> None:
        raise TransientError("no tables")

    with pytest.raises(TransientError):
        await background.vector_store.attempt(fail)
    missing = await background.store()
    assert missing is not None
    assert (missing.reason, missing.message) == (Reason.VECTOR_STORE_UNAVAILABLE, "no tables")
