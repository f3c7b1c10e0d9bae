"""Sends the spans to the collector of the environment, from a thread of its own, and says when that fails.

The SDK keeps a bounded queue (2,048 spans, or ``OTEL_BSP_MAX_QUEUE_SIZE``). If the collector is slow or away,
the queue drops spans; whoever makes spans never waits. OpenTelemetry's own loggers are silent, because they
repeat themselves at each failure and quote settings that may hold a secret.
"""

import asyncio
import logging
import math
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests
import urllib3
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # the library has no types
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes.service_attributes import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
)

from datastorage import __version__, metrics
from datastorage.resilience.causes import connection_trouble

_log = logging.getLogger(__name__)

_SERVICE: Final = "kubernaut-datastorage"
# A request of the exporter goes through these.
_LIBRARIES: Final = ("opentelemetry", "urllib3", "requests")
_NEVER: Final = logging.CRITICAL + 1
# It warns once, as it is made, if OTEL_TRACES_SAMPLER can't be used and all traces are recorded in its place.
_SAMPLER: Final = "opentelemetry.sdk.trace.sampling"
_REDIRECTION: Final = 300
# An answer of a collector has some bytes, or a sentence about the spans that it refuses.
_MOST_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 8 * 1024
_READ_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Pace:
    """How long the end may take."""

    close_seconds: float = 2.0
    """For the last spans. A collector that works takes some milliseconds."""


@dataclass(frozen=True)
class Patience:
    """How long it takes until the state of the collector is told."""

    log_seconds: float = 60.0
    """Between two lines of the log that it takes no spans, at least. It may take every second export, of
    several in a second."""
    export_seconds: float = 60.0
    """For one export, which takes milliseconds. An answer that never ends may come in pieces, and then no
    time-out ends it."""


class Collector:
    """The collector, as far as the exports show its state."""

    def __init__(self, patience: Patience = Patience()) -> None:
        self._patience = patience
        self._problem: str | None = None
        self._exporting_since: float | None = None
        self._logged_at = -math.inf
        self._is_logged = False

    async def problem(self) -> str | None:
        """Return why the last export has failed, or does not end, or None."""
        since = self._exporting_since
        if since is not None and time.monotonic() - since > self._patience.export_seconds:
            return "the collector leaves an export without an end"
        return self._problem

    def begin(self) -> None:
        """Note that an export begins."""
        self._exporting_since = time.monotonic()

    def note(self, problem: str | None) -> None:
        """Note how an export has ended; log the change of it, and nothing else."""
        self._exporting_since, self._problem = None, problem
        if (problem is not None) == self._is_logged:
            return
        if problem is not None:
            if time.monotonic() - self._logged_at < self._patience.log_seconds:
                return
            self._logged_at = time.monotonic()
            _log.warning("Traces can't be sent; until they can, spans are dropped", extra={"error": problem})
        else:
            _log.info("Traces are sent again")
        self._is_logged = problem is not None


class WatchedExporter(SpanExporter):
    """Counts what another exporter sends, and notes how that ends."""

    def __init__(self, exporter: SpanExporter, collector: Collector, answers: "Answers") -> None:
        self._exporter = exporter
        self._collector = collector
        self._answers = answers

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; called in the thread of the processor."""
        answers = self._answers
        answers.forget()
        self._collector.begin()
        result = self._exporter.export(spans)
        if not answers.is_success:
            # The exporter counts a redirection, which it does not follow, as a success.
            result = SpanExportResult.FAILURE
        failed = min(answers.refused, len(spans)) if result is SpanExportResult.SUCCESS else len(spans)
        metrics.SPANS.labels(metrics.SpanOutcome.SENT).inc(len(spans) - failed)
        metrics.SPANS.labels(metrics.SpanOutcome.FAILED).inc(failed)
        self._collector.note(answers.problem if failed == len(spans) else None)
        return result

    def shutdown(self) -> None:
        """End the other exporter."""
        self._exporter.shutdown()


class Answers(requests.Session):
    """A session that knows what came of the last request: the exporter itself only says that it failed.

    It reads a bounded part of an answer, in a bounded time. The library would read an answer that never ends
    into memory, and unpack one that is packed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.headers["Accept-Encoding"] = "identity"
        self.forget()

    def forget(self) -> None:
        """Forget the last request."""
        self._status: int | None = None
        self._trouble = "the spans can't be encoded"
        self.refused = 0
        """How many spans the collector has refused of those that it was sent."""

    @property
    def is_success(self) -> bool:
        """Whether the collector says that it has taken what it was sent, or a part of it."""
        return self._status is not None and self._status < _REDIRECTION

    @property
    def problem(self) -> str:
        """Why the spans of the last request were not taken."""
        if self._status is None:
            return self._trouble
        if self.refused:
            return "the collector refuses the spans"
        return f"the collector answers with {self._status}"

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Make a request, and read what is needed of its answer. The answer itself has no content."""
        self.forget()
        # For the library, REQUESTS_CA_BUNDLE goes before the authority that is named for the collector.
        options = kwargs if self.verify is True else {**kwargs, "verify": self.verify}
        try:
            answer = super().request(*args, **{**options, "stream": True})
        except Exception as error:
            authorities = Path(self.verify) if isinstance(self.verify, str) else None
            self._trouble = (authorities and _unreadable(authorities)) or _unanswered(error)
            raise
        self._status = answer.status_code
        with closing(answer):
            body = _beginning(answer)
        self.refused = _refused(body) if self.is_success else 0
        return answer


def _unreadable(authorities: Path) -> str | None:
    """Return what is wrong with the file of certificate authorities, or None: the library does not say it.

    They may also be in a directory.
    """
    try:
        if not authorities.is_dir():
            authorities.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError for an invalid path
        return f"the file of its authorities, {authorities}, can't be read ({connection_trouble(error)})"
    return None


def _unanswered(error: Exception) -> str:
    """Return why there is no answer, not in the words of the library, which quote the URL or a header."""
    why = "in time" if isinstance(error, requests.Timeout) else f"({connection_trouble(error)})"
    return f"the collector gives no answer {why}"


def _beginning(answer: requests.Response) -> bytes:
    """Return the first part of a body, also if the rest is missing."""
    body, deadline = bytearray(), time.monotonic() + _READ_SECONDS
    with suppress(urllib3.exceptions.HTTPError, OSError):
        while len(body) < _MOST_BYTES and time.monotonic() < deadline:
            chunk = answer.raw.read1(_CHUNK_BYTES, decode_content=False)
            if not chunk:
                break
            body += chunk
    return bytes(body)


def _refused(body: bytes) -> int:
    """Return how many spans were refused, as a successful answer says it; 0 for what is no such answer."""
    try:
        answer = ExportTraceServiceResponse.FromString(body)
    except DecodeError:
        return 0
    return max(0, int(answer.partial_success.rejected_spans))


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
    logging.getLogger(_SAMPLER).setLevel(logging.WARNING)
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
        processor.shutdown()  # type: ignore[no-untyped-call]  # the library has no type here
        with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(ended.set)

    # A thread of its own: one of the loop's may be waiting for a host lookup that hangs.
    threading.Thread(target=end, name="traces-close", daemon=True).start()
    try:
        async with asyncio.timeout(pace.close_seconds):
            await ended.wait()
    except TimeoutError:
        _log.warning("The last spans are dropped: the collector does not take them in time")
