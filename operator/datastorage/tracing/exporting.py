"""Sends the spans to the collector of the environment, from a thread of its own, and says when that fails.

The SDK keeps a bounded queue (2,048 spans, or ``OTEL_BSP_MAX_QUEUE_SIZE``). If the collector is slow or away,
the queue drops spans; whoever makes spans never waits. OpenTelemetry's own loggers are silent, because they
repeat themselves at each failure and quote settings that may hold a secret.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes.service_attributes import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
)

from datastorage import __version__, metrics

_log = logging.getLogger(__name__)

_SERVICE: Final = "kubernaut-datastorage"
# A request of the exporter goes through these.
_LIBRARIES: Final = ("opentelemetry", "urllib3", "requests")
_NEVER: Final = logging.CRITICAL + 1


@dataclass(frozen=True)
class Pace:
    """How long the end may take."""

    close_seconds: float = 2.0
    """For the last spans. A collector that works takes some milliseconds."""


class Collector:
    """The collector, as far as the exports show its state."""

    def __init__(self) -> None:
        self._problem: str | None = None

    async def problem(self) -> str | None:
        """Return why the last export has failed, or None."""
        return self._problem

    def note(self, problem: str | None) -> None:
        """Note how an export has ended; log the change of it, and nothing else."""
        known, self._problem = self._problem, problem
        if problem is not None and known is None:
            _log.warning("Traces can't be sent; until they can, spans are dropped", extra={"error": problem})
        elif problem is None and known is not None:
            _log.info("Traces are sent again")


class WatchedExporter(SpanExporter):
    """Counts what another exporter sends, and notes how that ends."""

    def __init__(self, exporter: SpanExporter, collector: Collector, answers: "Answers") -> None:
        self._exporter = exporter
        self._collector = collector
        self._answers = answers

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; called in the thread of the processor."""
        self._answers.forget()
        result = self._exporter.export(spans)
        is_sent = result is SpanExportResult.SUCCESS
        outcome = metrics.SpanOutcome.SENT if is_sent else metrics.SpanOutcome.FAILED
        metrics.SPANS.labels(outcome).inc(len(spans))
        status = self._answers.status
        why = "the collector gives no answer" if status is None else f"the collector answers with {status}"
        self._collector.note(None if is_sent else why)
        return result

    def shutdown(self) -> None:
        """End the other exporter."""
        self._exporter.shutdown()


class Answers(requests.Session):
    """A session that keeps the status of the last answer: the exporter itself only says that it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.status: int | None = None
        self.hooks["response"].append(self._note)

    def forget(self) -> None:
        """Forget the last answer."""
        self.status = None

    def _note(self, answer: requests.Response, **_: Any) -> None:
        self.status = answer.status_code


class CountedProcessor(BatchSpanProcessor):
    """Counts the spans that come into the queue."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span."""
        metrics.SPANS.labels(metrics.SpanOutcome.MADE).inc()
        super().on_end(span)


def build_processor(collector: Collector) -> BatchSpanProcessor:
    """Return what takes spans and sends them. Raises ValueError for a variable that the SDK can't use."""
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(_NEVER)
    answers = Answers()
    return CountedProcessor(WatchedExporter(OTLPSpanExporter(session=answers), collector, answers))


def build_resource() -> Resource:
    """Return what all spans say of this process; the environment goes before our own words."""
    own = {SERVICE_NAME: _SERVICE, SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: socket.gethostname()}
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


async def close(processor: BatchSpanProcessor, pace: Pace = Pace()) -> None:
    """Send the last spans, if the collector takes them in time; those that are left are lost."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it out
        loop.call_soon_threadsafe(ended.set)

    # A thread of its own: one of the loop's may be waiting for a host lookup that hangs.
    threading.Thread(target=end, name="traces-close", daemon=True).start()
    try:
        async with asyncio.timeout(pace.close_seconds):
            await ended.wait()
    except TimeoutError:
        _log.warning("The last spans are dropped: the collector does not take them in time")
