"""Decides which spans are recorded, and begins those of records."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind

from datastorage import __version__
from datastorage.records.record import Record
from datastorage.resources.reading.registry import kind_of
from datastorage.tracing.attributes import REPEATED, STORE, of_record
from datastorage.tracing.identity import first_span_of, trace_id_of
from datastorage.tracing.interface import Tracked
from datastorage.tracing.parents import NO_PARENT, ChosenIds, context_of, place_of, within

_log = logging.getLogger(__name__)

_SCOPE: Final = "datastorage"


class Recorder:
    """Begins spans, which go to a processor when they end."""

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        """The sampler is that of the environment. Raises ValueError for a variable that the SDK can't use."""
        self.ids = ChosenIds()
        provider = TracerProvider(resource=resource, id_generator=self.ids, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._sampler = provider.sampler
        self.tracer = provider.get_tracer(_SCOPE, __version__)
        """Of the spans that the sampler decides about."""
        batches = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        batches.add_span_processor(processor)
        self.batches = batches.get_tracer(_SCOPE, __version__)
        """Of the batches: each is recorded if one of its records is, whatever its own trace would be."""
        self._has_failed = False

    @property
    def sampler(self) -> str:
        """The sampler in words."""
        return self._sampler.get_description()

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

    def is_recorded(self, trace_id: int, parent: Context = NO_PARENT, name: str = STORE) -> bool:
        """Whether the sampler of the environment records a span of this trace; by default its first one."""
        decision = self._sampler.should_sample(parent, trace_id, name).decision
        return bool(decision.is_sampled())  # type: ignore[no-untyped-call]

    def is_tracked(self, item: Tracked) -> bool:
        """Whether the spans of a record's commit are recorded."""
        if item.taken_in is None:
            return False
        request = item.taken_in.request
        if request is not None and (item.taken_in.is_single or not request.is_sampled):
            return request.is_sampled
        return self.is_recorded(trace_id_of(item.record.key.uid))

    def stored_span(self, item: Tracked, *, is_new: bool) -> Span | None:
        """Begin the span of a record from its taking in to its commit; None if it is not recorded.

        ``is_new``: whether it is the first span of this record in the trace of its uid. A repetition, as
        after a crash between commit and status, is a child of the first one.
        """
        taken_in, record = item.taken_in, item.record
        if taken_in is None or not self.is_tracked(item):
            return None
        request = None if taken_in.request is None else context_of(place_of(taken_in.request))
        if request is not None and taken_in.is_single:
            return self._store_span(record, taken_in.at_ns, within(request))
        links = [] if request is None else [Link(request)]
        if is_new:
            return self._first_span(record, taken_in.at_ns, links)
        first = context_of(first_span_of(record.key.uid, record.key.generation))
        span = self._store_span(record, taken_in.at_ns, within(first), links)
        span.set_attribute(REPEATED, True)  # noqa: FBT003  # the library's own signature
        return span

    def begin_own_trace(self, record: Record, at_ns: int, origin: SpanContext) -> SpanContext | None:
        """Begin the trace of the uid of a record whose other steps are in its request's trace.

        Its vector is still to be written, and then nothing is left to say of which request it was.
        """
        if not self.is_recorded(trace_id_of(record.key.uid)):
            return None
        span = self._first_span(record, at_ns, [Link(origin)])
        span.end()
        return span.get_span_context()

    def _first_span(self, record: Record, at_ns: int, links: Sequence[Link]) -> Span:
        with self.ids.chosen(first_span_of(record.key.uid, record.key.generation)):
            return self._store_span(record, at_ns, NO_PARENT, links)

    def _store_span(self, record: Record, at_ns: int, context: Context, links: Sequence[Link] = ()) -> Span:
        name = f"{STORE} {kind_of(record.table).kind}"
        return self.tracer.start_span(
            name, context, SpanKind.CONSUMER, of_record(record), links, start_time=at_ns
        )
