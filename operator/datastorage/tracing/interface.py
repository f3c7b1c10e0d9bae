"""The calls by which other rooms say what happens, and the implementation that makes no traces of it.

A record of the cluster has a trace of its own (``identity.py``): all steps from the watch event to the
deletion. A single record that comes with a request has its steps in the trace of the request, which goes on
with that of the caller. A record among several of one request has a trace of its own again, with a link to
the request: a span has one parent, and the trace of a batch would be of no use to read. A vector that such a
record still lacks is written later, in the trace of the record's uid; spans there and here have links.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import WriteState

Exemplar = dict[str, str]
"""The labels by which a sample of a histogram names its trace."""
Fields = Callable[[], Mapping[str, str]]
"""Returns the fields that name an object in a log entry. It is called only if its trace is recorded."""


class Step(StrEnum):
    """The steps of an object after the commit; the values are the names of the spans."""

    STATUS = "write status"
    DELETION = "delete object"


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The span of a request over HTTP that is served now. All ids are in lower-case hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    """The span of the caller in the same trace; None if the caller names none."""
    is_sampled: bool
    """Whether the span is recorded. If not, nothing else is that the request leads to, except a vector that
    is written later."""
    started_ns: int
    """In nanoseconds since 1970."""

    @property
    def exemplar(self) -> Exemplar | None:
        """The labels of the span; None unless it is recorded."""
        return {"trace_id": self.trace_id, "span_id": self.span_id} if self.is_sampled else None


@dataclass(frozen=True, slots=True)
class TakenIn:
    """When a record was taken in, in nanoseconds since 1970, and the request that it came with."""

    at_ns: int
    request: RequestTrace | None = None
    is_single: bool = False
    """Whether it is the only record of the request."""

    @property
    def trace_id(self) -> str | None:
        """The trace of the request, if the record's steps are recorded there."""
        request = self.request
        return request.trace_id if request is not None and self.is_single and request.is_sampled else None


class Tracked(Protocol):
    """A record on its way to the commit."""

    @property
    def record(self) -> Record: ...
    @property
    def taken_in(self) -> TakenIn | None: ...


class CommitTrace(Protocol):
    """The commit of a batch, with all attempts at it."""

    @property
    def exemplar(self) -> Exemplar | None:
        """The labels of the span of the batch; None unless it is stored and recorded."""

    def attempt(self) -> AbstractContextManager[None]:
        """Note the duration of an attempt. An error that it raises ends it."""

    def stored(self, rows: Sequence[StoredRecord]) -> None:
        """Note that the last attempt has stored the batch, with what the archive holds for each record."""

    def exemplar_of(self, place: int) -> Exemplar | None:
        """Return the labels of the trace of a stored record, by its place in the batch, if it is recorded."""


class Traces(Protocol):
    """Makes the spans. No call waits, and none raises an error of its own."""

    def request(self, trace_id: str | None, span_id: str | None, *, is_sampled: bool) -> RequestTrace | None:
        """Begin the span of a request, in the trace of the caller if there is one; None without traces.

        The arguments are those of the header ``traceparent``.
        """

    def answered(
        self, request: RequestTrace, *, method: str, route: str, path: str, scheme: str, status: int
    ) -> None:
        """End the span of a request. ``route`` is the template of the path."""

    def taken_in(self, request: RequestTrace | None = None, *, is_single: bool = False) -> TakenIn | None:
        """Return what the trace of a record needs that is taken in now; None if there are no traces."""

    def commit(self, batch: Sequence[Tracked]) -> CommitTrace:
        """Follow the commit of a batch."""

    def embedding_begins(self) -> None:
        """Note that the vectors of the batch that this task commits begin to be made."""

    def rejected(self, item: Tracked) -> None:
        """Note that a record is kept among the rejected ones."""

    def step(self, step: Step, uid: str, generation: int, fields: Fields) -> AbstractContextManager[None]:
        """Make a span of a later step. An error that it raises is noted by its class."""

    def object_created(
        self, request: RequestTrace | None, uid: str, generation: int, fields: Fields, started_ns: int | None
    ) -> None:
        """Note that an object stands for a request, in which it was created or found since ``started_ns``.

        The trace of the request has the span, with a link to that of the object, where the record is stored.
        """

    def now_ns(self) -> int | None:
        """Return the time in nanoseconds since 1970; None if there are no traces."""

    def vector_settled(self, uid: str, generation: int, state: WriteState, started_ns: int | None) -> None:
        """Note what became of a pending vector. ``started_ns`` is by ``now_ns``."""

    def trace_id(self, uid: str) -> str | None:
        """Return the trace of the records with a uid, if it is recorded."""

    async def problem(self) -> str | None:
        """Return why the collector gets no spans at present, or None."""


_serving: Final[ContextVar[RequestTrace | None]] = ContextVar("request_trace", default=None)


@contextmanager
def serving(request: RequestTrace | None) -> Iterator[None]:
    """Mark a request as the one that the current task serves."""
    if request is None:
        yield
        return
    token = _serving.set(request)
    try:
        yield
    finally:
        _serving.reset(token)


def current_request() -> RequestTrace | None:
    """Return the trace of the request that the current task serves; None outside of one."""
    return _serving.get()


def current_exemplar() -> Exemplar | None:
    """Return the labels of the span of the request that the current task serves, if it is recorded."""
    request = current_request()
    return None if request is None else request.exemplar


_NOTHING: Final[AbstractContextManager[None]] = nullcontext()


class _NoCommit:
    """The commit of a batch that is not traced."""

    exemplar: Exemplar | None = None

    def attempt(self) -> AbstractContextManager[None]:
        return _NOTHING

    def stored(self, rows: Sequence[StoredRecord]) -> None:
        pass

    def exemplar_of(self, place: int) -> Exemplar | None:  # noqa: ARG002  # of the interface
        return None


NO_COMMIT: Final[CommitTrace] = _NoCommit()


class NoTraces:
    """Makes no traces: each call returns at once."""

    def request(self, trace_id: str | None, span_id: str | None, *, is_sampled: bool) -> RequestTrace | None:  # noqa: ARG002  # as in all of this class
        """As in Traces."""
        return None

    def answered(
        self, request: RequestTrace, *, method: str, route: str, path: str, scheme: str, status: int
    ) -> None:
        """As in Traces."""

    def taken_in(self, request: RequestTrace | None = None, *, is_single: bool = False) -> TakenIn | None:  # noqa: ARG002
        """As in Traces."""
        return None

    def commit(self, batch: Sequence[Tracked]) -> CommitTrace:  # noqa: ARG002
        """As in Traces."""
        return NO_COMMIT

    def embedding_begins(self) -> None:
        """As in Traces."""

    def rejected(self, item: Tracked) -> None:
        """As in Traces."""

    def step(self, step: Step, uid: str, generation: int, fields: Fields) -> AbstractContextManager[None]:  # noqa: ARG002
        """As in Traces."""
        return _NOTHING

    def object_created(
        self, request: RequestTrace | None, uid: str, generation: int, fields: Fields, started_ns: int | None
    ) -> None:
        """As in Traces."""

    def now_ns(self) -> int | None:
        """As in Traces."""
        return None

    def vector_settled(self, uid: str, generation: int, state: WriteState, started_ns: int | None) -> None:
        """As in Traces."""

    def trace_id(self, uid: str) -> str | None:  # noqa: ARG002
        """As in Traces."""
        return None

    async def problem(self) -> str | None:
        """As in Traces."""
        return None


NO_TRACES: Final[Traces] = NoTraces()
