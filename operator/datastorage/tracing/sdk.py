"""Makes the spans with OpenTelemetry's SDK. Importing this loads it.

The spans of a commit are made when the commit is over, with the times that were noted before: a record that
waits holds two numbers and no span, and one that is never committed leaves none. The ids and attributes are
those of OpenTelemetry's semantic conventions, and what these have no name for begins with ``datastorage.``.

A batch has a span of its own in a trace of its own, and each record has a span ``commit`` in its trace. Each
has a link to the other, as the conventions want it where one operation is about several messages
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/): a span has one parent, so a batch
can't be the child of each record.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.semconv.attributes.db_attributes import (
    DB_COLLECTION_NAME,
    DB_OPERATION_BATCH_SIZE,
    DB_OPERATION_NAME,
    DB_SYSTEM_NAME,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.k8s_attributes import K8S_NAMESPACE_NAME
from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_SCHEME
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from datastorage import __version__, metrics
from datastorage.logs import object_fields
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import WriteState
from datastorage.resources.reading.registry import correlation_id_of, kind_of
from datastorage.tracing.identity import Place, first_span_of, trace_id_of
from datastorage.tracing.interface import (
    CommitTrace,
    Exemplar,
    Fields,
    RequestTrace,
    Step,
    TakenIn,
    Tracked,
)

_log = logging.getLogger(__name__)

_SCOPE: Final = "datastorage"
_STORE: Final = "store"
_WAIT: Final = "wait"
_COMMIT: Final = "commit"
_BATCH: Final = "commit batch"
_VECTOR: Final = "write vector"
_CREATION: Final = "create object"
_OTHER: Final = metrics.OTHER
_UID: Final = "datastorage.record.uid"
_GENERATION: Final = "datastorage.record.generation"
_VIA: Final = "datastorage.record.via"
_VECTOR_STATE: Final = "datastorage.vector.state"
_DIVERGED: Final = "datastorage.record.diverged"
_REPEATED: Final = "datastorage.record.repeated"
# The fields of a log entry about an object, and the attributes of a span about it.
_ATTRIBUTES: Final = {
    "object_kind": "datastorage.record.kind",
    "object_namespace": K8S_NAMESPACE_NAME,
    "object_name": "datastorage.record.name",
    "object_uid": _UID,
    "correlation_id": "datastorage.record.correlation_id",
}
_TRANSACTION: Final = {DB_SYSTEM_NAME: "postgresql", DB_OPERATION_NAME: "INSERT"}
_METHODS: Final = {Step.STATUS: "PATCH", Step.DELETION: "DELETE"}
_FAILED: Final = Status(StatusCode.ERROR)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NO_PARENT: Final = Context()

Attributes = dict[str, str | int | bool]


class Collector(Protocol):
    """What is known of the collector (exporting.py)."""

    async def problem(self) -> str | None: ...


class _ChosenIds(IdGenerator):
    """Gives the next span the ids that were chosen for it, and otherwise random ones."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._trace_id: int | None = None
        self._span_id: int | None = None

    @contextmanager
    def chosen(self, trace_id: int, span_id: int | None = None) -> Iterator[None]:
        """Meanwhile, begin a trace with this id, and its span with the other."""
        self._trace_id, self._span_id = trace_id, span_id
        try:
            yield
        finally:
            self._trace_id = self._span_id = None

    def generate_trace_id(self) -> int:
        return self._random.generate_trace_id() if self._trace_id is None else self._trace_id

    def generate_span_id(self) -> int:
        return self._random.generate_span_id() if self._span_id is None else self._span_id

    def is_trace_id_random(self) -> bool:
        return True  # also those that are made of a hash


class SdkTraces:
    """Makes spans and hands them to a processor. All calls come from the thread of the event loop."""

    def __init__(self, processor: SpanProcessor, resource: Resource, collector: Collector) -> None:
        """The sampler is that of the environment; ``processor`` must not wait."""
        self._ids = _ChosenIds()
        provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._sampler = provider.sampler
        self._tracer = provider.get_tracer(_SCOPE, __version__)
        # A batch is recorded if one of its records is, whatever its own trace would be.
        batches = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        batches.add_span_processor(processor)
        self._batches = batches.get_tracer(_SCOPE, __version__)
        self._collector = collector
        self._has_failed = False

    @contextmanager
    def harmless(self) -> Iterator[None]:
        """Go on after an error in making spans, such as one of a sampler that somebody has installed.

        A record is committed when its spans are made: the error would be taken for one of the commit.
        """
        try:
            yield
        except Exception:  # noqa: BLE001  # any error of a library that anybody may extend
            if not self._has_failed:
                _log.exception("Spans can't be made; nothing else is affected, and this is logged once")
            self._has_failed = True

    @property
    def sampler(self) -> str:
        """The sampler in words."""
        return self._sampler.get_description()

    async def problem(self) -> str | None:
        """Return why the collector gets no spans at present, or None."""
        return await self._collector.problem()

    def request(self, trace_id: str | None, span_id: str | None, *, is_sampled: bool) -> RequestTrace | None:
        """As in Traces."""
        with self.harmless():
            parent = _NO_PARENT
            if trace_id is not None and span_id is not None:
                parent = _within(_remote(int(trace_id, 16), int(span_id, 16), is_sampled=is_sampled))
                own_trace = int(trace_id, 16)
            else:
                own_trace = self._ids.generate_trace_id()
            decision = self._sampler.should_sample(parent, own_trace, "HTTP").decision
            return RequestTrace(
                trace_id=f"{own_trace:032x}",
                span_id=f"{self._ids.generate_span_id():016x}",
                parent_span_id=span_id if trace_id is not None else None,
                is_sampled=bool(decision.is_sampled()),  # type: ignore[no-untyped-call]
                started_ns=time.time_ns(),
            )
        return None

    def answered(
        self, request: RequestTrace, *, method: str, route: str, path: str, scheme: str, status: int
    ) -> None:
        """As in Traces."""
        if not request.is_sampled:
            return
        with self.harmless():
            attributes: Attributes = {
                HTTP_REQUEST_METHOD: method,
                HTTP_RESPONSE_STATUS_CODE: status,
                URL_PATH: path,
                URL_SCHEME: scheme,
            }
            name = "HTTP" if method == _OTHER else method
            if route != _OTHER:
                attributes[HTTP_ROUTE] = route
                name = f"{name} {route}"
            if status >= 500:
                attributes[ERROR_TYPE] = str(status)
            own = _place_of(request)
            context = _NO_PARENT
            if request.parent_span_id is not None:
                context = _within(_remote(own.trace_id, int(request.parent_span_id, 16)))
            with self._ids.chosen(own.trace_id, own.span_id):
                span = self._tracer.start_span(
                    name, context, SpanKind.SERVER, attributes, start_time=request.started_ns
                )
            if status >= 500:
                span.set_status(_FAILED)
            span.end()

    def taken_in(self, request: RequestTrace | None = None, *, is_single: bool = False) -> TakenIn:
        """As in Traces."""
        return TakenIn(time.time_ns(), request, is_single)

    def commit(self, batch: Sequence[Tracked]) -> CommitTrace:
        """As in Traces."""
        return _Commit(self, batch)

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """As in Traces."""
        commit = _committing.get()
        if commit is not None:
            commit.embedding_ns = time.time_ns()
        yield

    def rejected(self, item: Tracked) -> None:
        """As in Traces."""
        with self.harmless():
            span = self.stored_span(item, is_new=False)
            if span is not None:
                span.set_attribute(ERROR_TYPE, "RecordRejected")
                span.set_status(_FAILED)
                span.end()

    @contextmanager
    def step(self, step: Step, uid: str, generation: int, fields: Fields) -> Iterator[None]:
        """As in Traces."""
        span: Span | None = None
        with self.harmless():
            if self._is_recorded(trace_id_of(uid)):
                parent = _within(_context(first_span_of(uid, generation)))
                attributes: Attributes = {
                    HTTP_REQUEST_METHOD: _METHODS[step],
                    _GENERATION: generation,
                    **_named(fields()),
                }
                span = self._tracer.start_span(step.value, parent, SpanKind.CLIENT, attributes)
        if span is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            with self.harmless():
                _fail(span, error)
            raise
        finally:
            with self.harmless():
                span.end()

    def object_created(
        self, request: RequestTrace | None, uid: str, generation: int, fields: Fields, started_ns: int | None
    ) -> None:
        """As in Traces."""
        if request is None or not request.is_sampled:
            return
        with self.harmless():
            is_recorded = self._is_recorded(trace_id_of(uid))
            links = [Link(_context(first_span_of(uid, generation)))] if is_recorded else []
            attributes: Attributes = {
                HTTP_REQUEST_METHOD: "POST",
                _GENERATION: generation,
                **_named(fields()),
            }
            within = _within(_context(_place_of(request)))
            self._tracer.start_span(
                _CREATION, within, SpanKind.CLIENT, attributes, links, start_time=started_ns
            ).end()

    def now_ns(self) -> int:
        """As in Traces."""
        return time.time_ns()

    def vector_settled(self, uid: str, generation: int, state: WriteState, started_ns: int | None) -> None:
        """As in Traces."""
        with self.harmless():
            if not self._is_recorded(trace_id_of(uid)):
                return
            attributes: Attributes = {_UID: uid, _GENERATION: generation, _VECTOR_STATE: state.value}
            parent = _within(_context(first_span_of(uid, generation)))
            span = self._tracer.start_span(_VECTOR, parent, attributes=attributes, start_time=started_ns)
            if state is WriteState.FAILED:
                span.set_status(_FAILED)
            span.end()

    def trace_id(self, uid: str) -> str | None:
        """As in Traces."""
        trace_id = trace_id_of(uid)
        with self.harmless():
            return f"{trace_id:032x}" if self._is_recorded(trace_id) else None
        return None

    @property
    def tracer(self) -> Tracer:
        """The tracer of the spans that the sampler decides about."""
        return self._tracer

    @property
    def batches(self) -> Tracer:
        """The tracer of the batches, whose spans are all recorded."""
        return self._batches

    def is_tracked(self, item: Tracked) -> bool:
        """Whether the spans of a record's commit are recorded."""
        if item.taken_in is None:
            return False
        request = item.taken_in.request
        if request is not None and (item.taken_in.is_single or not request.is_sampled):
            return request.is_sampled
        return self._is_recorded(trace_id_of(item.record.key.uid))

    def stored_span(self, item: Tracked, *, is_new: bool) -> Span | None:
        """Begin the span of a record from its taking in to its commit; None if it is not recorded.

        ``is_new``: whether it is the first span of this record in the trace of its uid. A repetition, as
        after a crash between commit and status, is a child of the first one.
        """
        taken_in, record = item.taken_in, item.record
        if taken_in is None or not self.is_tracked(item):
            return None
        name, kind = f"{_STORE} {kind_of(record.table).kind}", SpanKind.CONSUMER
        attributes = _of_record(record)
        request = taken_in.request
        if request is not None and taken_in.is_single:
            context = _within(_context(_place_of(request)))
            return self._tracer.start_span(name, context, kind, attributes, start_time=taken_in.at_ns)
        links = [] if request is None else [Link(_context(_place_of(request)))]
        if is_new:
            return self._first_span(record, taken_in.at_ns, links)
        context = _within(_context(first_span_of(record.key.uid, record.key.generation)))
        attributes[_REPEATED] = True
        return self._tracer.start_span(name, context, kind, attributes, links, start_time=taken_in.at_ns)

    def begin_own_trace(self, record: Record, at_ns: int, origin: SpanContext) -> SpanContext | None:
        """Begin the trace of the uid of a record whose other steps are in its request's trace.

        Its vector is still to be written, and then nothing is left to say of which request it was.
        """
        if not self._is_recorded(trace_id_of(record.key.uid)):
            return None
        span = self._first_span(record, at_ns, [Link(origin)])
        span.end()
        return span.get_span_context()

    def _first_span(self, record: Record, at_ns: int, links: Sequence[Link]) -> Span:
        own = first_span_of(record.key.uid, record.key.generation)
        with self._ids.chosen(own.trace_id, own.span_id):
            return self._tracer.start_span(
                f"{_STORE} {kind_of(record.table).kind}",
                _NO_PARENT,
                SpanKind.CONSUMER,
                _of_record(record),
                links,
                start_time=at_ns,
            )

    def _is_recorded(self, trace_id: int) -> bool:
        """Whether the sampler of the environment records a trace that begins here."""
        decision = self._sampler.should_sample(_NO_PARENT, trace_id, _STORE).decision
        return bool(decision.is_sampled())  # type: ignore[no-untyped-call]


class _Commit:
    """The commit of a batch: what was noted while it lasted, and the spans that are made of it."""

    def __init__(self, traces: SdkTraces, batch: Sequence[Tracked]) -> None:
        self._traces = traces
        self._batch = batch
        self._started_ns = self._ended_ns = 0
        self.embedding_ns: int | None = None
        """When the vectors of the last attempt began to be made."""
        self.exemplar: Exemplar | None = None
        self._exemplars: dict[int, Exemplar] = {}

    @contextmanager
    def attempt(self) -> Iterator[None]:
        self.embedding_ns, self._started_ns = None, time.time_ns()
        token = _committing.set(self)
        try:
            yield
        except Exception as error:
            with self._traces.harmless():
                if any(map(self._traces.is_tracked, self._batch)):
                    span = self._batch_span(())
                    _fail(span, error)
                    span.end()
            raise
        finally:
            self._ended_ns = time.time_ns()
            _committing.reset(token)

    def stored(self, rows: Sequence[StoredRecord]) -> None:
        with self._traces.harmless():
            self._make_spans(rows)

    def _make_spans(self, rows: Sequence[StoredRecord]) -> None:
        spans = [
            _Stored(place, item, row, span)
            for place, (item, row) in enumerate(zip(self._batch, rows, strict=True))
            if (span := self._traces.stored_span(item, is_new=row.is_new)) is not None
        ]
        if not spans:
            return
        batch = self._batch_span([Link(each.span.get_span_context()) for each in spans])
        batch.end(self._ended_ns)
        self.exemplar = _exemplar(batch)
        link = [Link(batch.get_span_context())]
        for each in spans:
            self._exemplars[each.place] = _exemplar(each.span)
            self._make_steps(each, link)

    def exemplar_of(self, place: int) -> Exemplar | None:
        return self._exemplars.get(place)

    def _batch_span(self, links: Sequence[Link]) -> Span:
        attributes: Attributes = {**_TRANSACTION, DB_OPERATION_BATCH_SIZE: len(self._batch)}
        return self._traces.batches.start_span(
            _BATCH, _NO_PARENT, SpanKind.CLIENT, attributes, links, start_time=self._started_ns
        )

    def _make_steps(self, stored: "_Stored", batch: Sequence[Link]) -> None:
        """Make the spans within that of a stored record, and end it."""
        traces, item, span, row = self._traces, stored.item, stored.span, stored.row
        taken_in, record = item.taken_in, item.record
        assert taken_in is not None
        tracer, within = traces.tracer, _within(span.get_span_context())
        uid: Attributes = {_UID: record.key.uid}
        wait = tracer.start_span(_WAIT, within, attributes=uid, start_time=taken_in.at_ns)
        wait.end(self._started_ns)
        attributes: Attributes = {
            **uid, **_TRANSACTION, DB_COLLECTION_NAME: f"datastorage.{record.table}",
        }  # fmt: skip
        pending = row.vector.state is WriteState.PENDING
        links = list(batch)
        if pending and taken_in.request is not None and taken_in.is_single and row.is_new:
            own = traces.begin_own_trace(record, taken_in.at_ns, span.get_span_context())
            links += [] if own is None else [Link(own)]
        commit = tracer.start_span(
            _COMMIT, within, SpanKind.CLIENT, attributes, links, start_time=self._started_ns
        )
        commit.end(self._ended_ns)
        if row.vector.state is not WriteState.SKIPPED:
            begun = self.embedding_ns or self._started_ns
            state: Attributes = {**uid, _VECTOR_STATE: row.vector.state.value}
            tracer.start_span(_VECTOR, within, attributes=state, start_time=begun).end(self._ended_ns)
        if row.diverged:
            span.set_attributes({_DIVERGED: True})
        span.end(self._ended_ns)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A stored record whose spans are recorded; ``place`` is that in its batch."""

    place: int
    item: Tracked
    row: StoredRecord
    span: Span


_committing: Final[ContextVar[_Commit | None]] = ContextVar("committing", default=None)


def _remote(trace_id: int, span_id: int, *, is_sampled: bool = True) -> SpanContext:
    flags = _SAMPLED if is_sampled else TraceFlags()
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def _context(place: Place) -> SpanContext:
    return _remote(place.trace_id, place.span_id)


def _within(parent: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(parent), _NO_PARENT)


def _place_of(request: RequestTrace) -> Place:
    return Place(int(request.trace_id, 16), int(request.span_id, 16))


def _exemplar(span: Span) -> Exemplar:
    context = span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _named(fields: Mapping[str, str]) -> dict[str, str]:
    return {_ATTRIBUTES[name]: value for name, value in fields.items() if name in _ATTRIBUTES}


def _of_record(record: Record) -> Attributes:
    fields = object_fields(
        kind=kind_of(record.table).kind,
        namespace=record.namespace,
        name=record.name,
        uid=record.key.uid,
        correlation_id=correlation_id_of(record),
    )
    return {**_named(fields), _GENERATION: record.key.generation, _VIA: record.via.value}


def _fail(span: Span, error: BaseException) -> None:
    """Note the class of an error. Its text may quote a row, a URL or a header."""
    span.set_attribute(ERROR_TYPE, type(error).__name__)
    span.set_status(_FAILED)
