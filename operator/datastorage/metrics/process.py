"""Metrics of the process itself."""

from typing import Final

from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from datastorage import __version__
from datastorage.metrics.declaring import REGISTRY, About, Chapter, Word, by, known_later, words

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

PROCESS_START: Final = "process_start_time_seconds"
"""The library's gauge of when the process began, in seconds since 1970."""

PROCESS: Final = Chapter("The process")


class SpanOutcome(Word):
    """What became of a span of a trace."""

    MADE = "made", "all of them: those that were not sent wait, have failed or were dropped"
    SENT = "sent", "the collector has taken it"
    FAILED = "failed", "the collector did not take it, and it is lost"


BUILD_INFO = PROCESS.info(
    "datastorage_build_info",
    known_later("version", "as `datastorage version` says it"),
    __version__,
    About(
        "Version of the running program",
        "One version, except during an update. It is missing where no replica runs, or Prometheus reaches "
        "none.",
        "count by (version) (datastorage_build_info)",
    ),
)
LOOP_HELD = PROCESS.histogram(
    "datastorage_event_loop_held_seconds",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    About(
        "Delays of the event loop, measured 40 times a second: for so long, a piece of work has held it",
        "Below 0.1 seconds at the 99th percentile. More means that the process has less than a core, or that "
        "a piece of work is too large: every answer waits for so long.",
        "histogram_quantile(0.99,"
        " sum by (le, instance) (rate(datastorage_event_loop_held_seconds_bucket[5m])))",
    ),
)
SPANS = PROCESS.counters(
    "datastorage_trace_spans_total",
    by(words("outcome", SpanOutcome)),
    About(
        "Spans of traces, by outcome",
        "0 unless a collector is named. `sent` follows `made`. If it stays behind, the collector is away, or "
        "slower than spans come: the queue is bounded, and drops them.",
        'sum(rate(datastorage_trace_spans_total{outcome="made"}[5m]))'
        ' - sum(rate(datastorage_trace_spans_total{outcome="sent"}[5m])) > 0',
    ),
)
