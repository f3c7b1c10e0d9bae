"""Makes the spans with OpenTelemetry's SDK. Importing this loads it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_SCHEME
from opentelemetry.trace import Link, Span, SpanKind

from datastorage import metrics
from datastorage.records.vectorwrite import WriteState
from datastorage.tracing.attributes import (
    CREATION,
    FAILED,
    GENERATION,
    UID,
    VECTOR,
    VECTOR_STATE,
    Attributes,
    fail,
    of_fields,
)
from datastorage.tracing.commits import Commit, current_commit
from datastorage.tracing.identity import Place, first_span_of, trace_id_of
from datastorage.tracing.interface import CommitTrace, Fields, RequestTrace, Step, TakenIn, Tracked
from datastorage.tracing.parents import NO_PARENT, context_of, place_of, within
from datastorage.tracing.recorder import Recorder

_METHODS: Final = {Step.STATUS: "PATCH", Step.DELETION: "DELETE"}
_REQUEST: Final = "HTTP"  # the name of a request's span, as far as nothing else is known
_SERVER_FAULT: Final = 500  # from this status on, the fault is ours


class Collector(Protocol):
    """What is known of the collector (exporting.py)."""

    async def problem(self) -> str | None: ...


class SdkTraces:
    """Makes spans and hands them to a processor. All calls come from the thread of the event loop."""

    def __init__(self, processor: SpanProcessor, resource: Resource, collector: Collector) -> None:
        """The sampler is that of the environment; ``processor`` must not wait.

        Raises ValueError for a variable that the SDK can't use.
        """
        self._recorder = Recorder(processor, resource)
        self._collector = collector

    @property
    def sampler(self) -> str:
        """The sampler in words."""
        return self._recorder.sampler

    async def problem(self) -> str | None:
        """As in Traces."""
        return await self._collector.problem()

    def request(self, trace_id: str | None, span_id: str | None, *, is_sampled: bool) -> RequestTrace | None:
        """As in Traces."""
        with self._recorder.harmless():
            if trace_id is not None and span_id is not None:
                caller = Place(int(trace_id, 16), int(span_id, 16))
                own_trace, parent = caller.trace_id, within(context_of(caller, is_sampled=is_sampled))
            else:
                own_trace, parent = self._recorder.ids.generate_trace_id(), NO_PARENT
            return RequestTrace(
                trace_id=f"{own_trace:032x}",
                span_id=f"{self._recorder.ids.generate_span_id():016x}",
                parent_span_id=span_id if trace_id is not None else None,
                is_sampled=self._recorder.is_recorded(own_trace, parent, _REQUEST),
                started_ns=time.time_ns(),
            )
        return None

    def answered(
        self, request: RequestTrace, *, method: str, route: str, path: str, scheme: str, status: int
    ) -> None:
        """As in Traces."""
        if not request.is_sampled:
            return
        with self._recorder.harmless():
            attributes: Attributes = {
                HTTP_REQUEST_METHOD: method,
                HTTP_RESPONSE_STATUS_CODE: status,
                URL_PATH: path,
                URL_SCHEME: scheme,
            }
            name = _REQUEST if method == metrics.OTHER else method
            if route != metrics.OTHER:
                attributes[HTTP_ROUTE] = route
                name = f"{name} {route}"
            if status >= _SERVER_FAULT:
                attributes[ERROR_TYPE] = str(status)
            own, parent = place_of(request), NO_PARENT
            if request.parent_span_id is not None:
                parent = within(context_of(Place(own.trace_id, int(request.parent_span_id, 16))))
            with self._recorder.ids.chosen(own):
                span = self._recorder.tracer.start_span(
                    name, parent, SpanKind.SERVER, attributes, start_time=request.started_ns
                )
            if status >= _SERVER_FAULT:
                span.set_status(FAILED)
            span.end()

    def taken_in(self, request: RequestTrace | None = None, *, is_single: bool = False) -> TakenIn:
        """As in Traces."""
        return TakenIn(time.time_ns(), request, is_single)

    def commit(self, batch: Sequence[Tracked]) -> CommitTrace:
        """As in Traces."""
        return Commit(self._recorder, batch)

    def embedding_begins(self) -> None:
        """As in Traces."""
        if (commit := current_commit()) is not None:
            commit.embedding_begins()

    def rejected(self, item: Tracked) -> None:
        """As in Traces."""
        with self._recorder.harmless():
            span = self._recorder.stored_span(item, is_new=False)
            if span is not None:
                span.set_attribute(ERROR_TYPE, "RecordRejected")
                span.set_status(FAILED)
                span.end()

    @contextmanager
    def step(self, step: Step, uid: str, generation: int, fields: Fields) -> Iterator[None]:
        """As in Traces."""
        span: Span | None = None
        with self._recorder.harmless():
            if self._recorder.is_recorded(trace_id_of(uid)):
                parent = within(context_of(first_span_of(uid, generation)))
                attributes: Attributes = {
                    HTTP_REQUEST_METHOD: _METHODS[step],
                    GENERATION: generation,
                    **of_fields(fields()),
                }
                span = self._recorder.tracer.start_span(step.value, parent, SpanKind.CLIENT, attributes)
        if span is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            with self._recorder.harmless():
                fail(span, error)
            raise
        finally:
            with self._recorder.harmless():
                span.end()

    def object_created(
        self, request: RequestTrace | None, uid: str, generation: int, fields: Fields, started_ns: int | None
    ) -> None:
        """As in Traces."""
        if request is None or not request.is_sampled:
            return
        with self._recorder.harmless():
            is_recorded = self._recorder.is_recorded(trace_id_of(uid))
            links = [Link(context_of(first_span_of(uid, generation)))] if is_recorded else []
            attributes: Attributes = {
                HTTP_REQUEST_METHOD: "POST",
                GENERATION: generation,
                **of_fields(fields()),
            }
            inside = within(context_of(place_of(request)))
            self._recorder.tracer.start_span(
                CREATION, inside, SpanKind.CLIENT, attributes, links, start_time=started_ns
            ).end()

    def now_ns(self) -> int:
        """As in Traces."""
        return time.time_ns()

    def vector_settled(self, uid: str, generation: int, state: WriteState, started_ns: int | None) -> None:
        """As in Traces."""
        with self._recorder.harmless():
            if not self._recorder.is_recorded(trace_id_of(uid)):
                return
            attributes: Attributes = {UID: uid, GENERATION: generation, VECTOR_STATE: state.value}
            parent = within(context_of(first_span_of(uid, generation)))
            span = self._recorder.tracer.start_span(
                VECTOR, parent, attributes=attributes, start_time=started_ns
            )
            if state is WriteState.FAILED:
                span.set_status(FAILED)
            span.end()

    def trace_id(self, uid: str) -> str | None:
        """As in Traces."""
        trace_id = trace_id_of(uid)
        with self._recorder.harmless():
            return f"{trace_id:032x}" if self._recorder.is_recorded(trace_id) else None
        return None
