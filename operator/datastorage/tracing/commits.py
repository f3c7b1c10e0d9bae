"""The spans of a commit, which are made when it is over, with the times that were noted before.

A record that waits holds two numbers and no span, and one that is never committed leaves none.

A batch has a span of its own in a trace of its own, and each record has a span ``commit`` in its trace. Each
has a link to the other, as the conventions want it where one operation is about several messages
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/): a span has one parent, so a batch
can't be the child of each record.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from opentelemetry.semconv.attributes.db_attributes import DB_COLLECTION_NAME, DB_OPERATION_BATCH_SIZE
from opentelemetry.trace import Link, Span, SpanKind

from datastorage.records.record import StoredRecord
from datastorage.records.vectorwrite import WriteState
from datastorage.tracing.attributes import (
    BATCH,
    COMMIT,
    DIVERGED,
    TRANSACTION,
    UID,
    VECTOR,
    VECTOR_STATE,
    WAIT,
    Attributes,
    fail,
)
from datastorage.tracing.interface import Exemplar, TakenIn, Tracked
from datastorage.tracing.parents import NO_PARENT, exemplar_of, within
from datastorage.tracing.recorder import Recorder


class Commit:
    """The commit of a batch: what was noted while it lasted, and the spans that are made of it."""

    def __init__(self, recorder: Recorder, batch: Sequence[Tracked]) -> None:
        self._recorder = recorder
        self._batch = batch
        self._started_ns = self._ended_ns = 0
        self._embedding_ns: int | None = None
        self.exemplar: Exemplar | None = None
        self._exemplars: dict[int, Exemplar] = {}

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """As in CommitTrace."""
        self._embedding_ns, self._started_ns = None, time.time_ns()
        token = _committing.set(self)
        try:
            yield
        except Exception as error:
            with self._recorder.harmless():
                if any(map(self._recorder.is_tracked, self._batch)):
                    span = self._batch_span(())
                    fail(span, error)
                    span.end()
            raise
        finally:
            self._ended_ns = time.time_ns()
            _committing.reset(token)

    def stored(self, rows: Sequence[StoredRecord]) -> None:
        """As in CommitTrace."""
        with self._recorder.harmless():
            self._make_spans(rows)

    def exemplar_of(self, place: int) -> Exemplar | None:
        """As in CommitTrace."""
        return self._exemplars.get(place)

    def embedding_begins(self) -> None:
        """Note that the vectors of this attempt begin to be made."""
        self._embedding_ns = time.time_ns()

    def _make_spans(self, rows: Sequence[StoredRecord]) -> None:
        stored = [
            _Stored(place, item, item.taken_in, row, span)
            for place, (item, row) in enumerate(zip(self._batch, rows, strict=True))
            if item.taken_in is not None
            and (span := self._recorder.stored_span(item, is_new=row.is_new)) is not None
        ]
        if not stored:
            return
        batch = self._batch_span([Link(each.span.get_span_context()) for each in stored])
        batch.end(self._ended_ns)
        self.exemplar = exemplar_of(batch)
        link = Link(batch.get_span_context())
        for each in stored:
            self._exemplars[each.place] = exemplar_of(each.span)
            self._make_steps(each, link)

    def _batch_span(self, links: Sequence[Link]) -> Span:
        attributes: Attributes = {**TRANSACTION, DB_OPERATION_BATCH_SIZE: len(self._batch)}
        return self._recorder.batches.start_span(
            BATCH, NO_PARENT, SpanKind.CLIENT, attributes, links, start_time=self._started_ns
        )

    def _make_steps(self, stored: "_Stored", batch: Link) -> None:
        """Make the spans within that of a stored record, and end it."""
        record, row, span = stored.item.record, stored.row, stored.span
        tracer, inside = self._recorder.tracer, within(span.get_span_context())
        uid: Attributes = {UID: record.key.uid}
        wait = tracer.start_span(WAIT, inside, attributes=uid, start_time=stored.taken_in.at_ns)
        wait.end(self._started_ns)
        attributes: Attributes = {
            **uid, **TRANSACTION, DB_COLLECTION_NAME: f"datastorage.{record.table}",
        }  # fmt: skip
        links = [batch, *self._own_trace(stored)]
        commit = tracer.start_span(
            COMMIT, inside, SpanKind.CLIENT, attributes, links, start_time=self._started_ns
        )
        commit.end(self._ended_ns)
        if row.vector.state is not WriteState.SKIPPED:
            state: Attributes = {**uid, VECTOR_STATE: row.vector.state.value}
            begun = self._embedding_ns or self._started_ns
            tracer.start_span(VECTOR, inside, attributes=state, start_time=begun).end(self._ended_ns)
        if row.diverged:
            span.set_attributes({DIVERGED: True})
        span.end(self._ended_ns)

    def _own_trace(self, stored: "_Stored") -> Iterator[Link]:
        """Begin the trace of the uid for a record in its request's trace, if its vector is still to come."""
        taken_in, row = stored.taken_in, stored.row
        pending = row.vector.state is WriteState.PENDING
        if pending and row.is_new and taken_in.request is not None and taken_in.is_single:
            origin = stored.span.get_span_context()
            own = self._recorder.begin_own_trace(stored.item.record, taken_in.at_ns, origin)
            if own is not None:
                yield Link(own)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A stored record whose spans are recorded; ``place`` is that in its batch."""

    place: int
    item: Tracked
    taken_in: TakenIn
    row: StoredRecord
    span: Span


_committing: Final[ContextVar[Commit | None]] = ContextVar("committing", default=None)


def current_commit() -> Commit | None:
    """Return the commit that the current task attempts, if it does."""
    return _committing.get()
