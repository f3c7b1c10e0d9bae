"""Where a span stands: its own ids, which may be chosen, and those of its parent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context

from datastorage.tracing.identity import Place
from datastorage.tracing.interface import Exemplar, RequestTrace

NO_PARENT: Final = Context()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class ChosenIds(IdGenerator):
    """Gives a span the ids that were chosen for it, and otherwise random ones."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._chosen: Place | None = None

    @contextmanager
    def chosen(self, place: Place) -> Iterator[None]:
        """Meanwhile, begin a trace and its span with these ids."""
        self._chosen = place
        try:
            yield
        finally:
            self._chosen = None

    def generate_trace_id(self) -> int:
        return self._random.generate_trace_id() if self._chosen is None else self._chosen.trace_id

    def generate_span_id(self) -> int:
        return self._random.generate_span_id() if self._chosen is None else self._chosen.span_id

    def is_trace_id_random(self) -> bool:
        return True  # also those that are made of a hash


def context_of(place: Place, *, is_sampled: bool = True) -> SpanContext:
    """Return what links and children need to know of a span that was begun elsewhere or earlier."""
    flags = _SAMPLED if is_sampled else TraceFlags()
    return SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=flags)


def within(parent: SpanContext) -> Context:
    """Return the context in which a span becomes a child of another one."""
    return set_span_in_context(NonRecordingSpan(parent), NO_PARENT)


def place_of(request: RequestTrace) -> Place:
    """Return the span of a request."""
    return Place(int(request.trace_id, 16), int(request.span_id, 16))


def exemplar_of(span: Span) -> Exemplar:
    """Return the labels by which a sample names a span."""
    context = span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
