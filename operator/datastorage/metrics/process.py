"""Metrics of the process itself."""

from typing import Final

from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from datastorage import __version__
from datastorage.metrics.declaring import REGISTRY, About, Chapter, known_later

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

PROCESS_START: Final = "process_start_time_seconds"
"""The library's gauge of when the process began, in seconds since 1970."""

PROCESS: Final = Chapter("The process")

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
