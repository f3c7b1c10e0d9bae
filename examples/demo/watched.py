"""What Prometheus saw: the alert of the outage while it happens, and in the end the whole demo."""

from dataclasses import dataclass
from typing import Final

from examples.demo.checks import Seen
from examples.demo.monitoring import SHORTENED, Monitoring, clock
from examples.demo.narrator import Narrator
from examples.demo.scene import Demo

ALERT: Final = "DataStorageVectorDBDegraded"


@dataclass(frozen=True)
class Measure:
    """What an expression says. A range of an hour has the whole demo, and some time after it, in it."""

    what: str
    expression: str
    format: str


MEASURES: Final = (
    Measure(
        "Write rate at its highest",
        'max_over_time(sum(rate(datastorage_write_total{status="success"}[5s]))[1h:1s])',
        "{:.1f} records/s",
    ),
    Measure(
        "Vectors that a cache had",
        "sum(datastorage_cache_hits_total)"
        " / (sum(datastorage_cache_hits_total) + sum(datastorage_cache_misses_total))",
        "{:.0%}",
    ),
    Measure(
        "Time without vectors (fallback)",
        'sum_over_time((min(datastorage_dependency_up{dependency=~"embedder|vector_store"}) == bool 0)'
        "[1h:1s])",
        "{:.0f} s",
    ),
    Measure(
        "Records stored without a vector",
        "sum(datastorage_fallback_mode_total)",
        "{:.0f}",
    ),
    Measure(
        "Created to stored, 95 of 100 below (the operator was frozen once)",
        "histogram_quantile(0.95, sum by (le) (datastorage_created_to_stored_seconds_bucket))",
        "{:.1f} s",
    ),
)
NEVER: Final = "-"
EXPLANATION: Final = (
    "DataStorageAbsent fires while the operator is frozen, and DataStorageVectorDBDegraded while vectors"
    " can't be made. An alert without a time under FIRING was over before its rule's time had passed"
)


def check_alert_fires(demo: Demo) -> None:
    """Check that the outage is an alert, which has waited for its time before it fired."""
    if (monitoring := demo.monitoring) is None:
        return

    def look() -> Seen:
        seen = monitoring.latest(ALERT)
        times = f"pending at {clock(seen.pending) or NEVER}, firing at {clock(seen.firing) or NEVER}"
        return Seen(None not in (seen.pending, seen.firing), times)

    demo.checks.that(f"{ALERT} fires", "pending, then firing", look)


def check_alert_ends(demo: Demo) -> None:
    """Check that the alert has ended by itself."""
    if (monitoring := demo.monitoring) is None:
        return

    def look() -> Seen:
        seen = monitoring.latest(ALERT)
        return Seen(seen.ended is not None, f"at {clock(seen.ended)}" if seen.ended else "still firing")

    demo.checks.that(f"{ALERT} is resolved", "no longer firing", look)


def show_what_prometheus_saw(demo: Demo) -> None:
    """Show what Prometheus says about the demo, and when which alerts were active."""
    if (monitoring := demo.monitoring) is None:
        return
    demo.narrator.heading("What Prometheus saw")
    demo.narrator.table(("MEASURE", "VALUE"), [(each.what, value_of(monitoring, each)) for each in MEASURES])
    demo.narrator.say(f"The alerts, whose rules have times {SHORTENED} times shorter than the shipped ones")
    demo.narrator.table(
        ("ALERT", "PENDING", "FIRING", "RESOLVED"),
        [
            (each.name, *(clock(moment) or NEVER for moment in (each.pending, each.firing, each.ended)))
            for each in monitoring.episodes()
        ],
    )
    demo.narrator.say(EXPLANATION)


def show_queries(narrator: Narrator, monitoring: Monitoring) -> None:
    """Show how to ask Prometheus from another terminal, and from a browser."""
    narrator.quote("")
    narrator.quote(f"export PROMETHEUS={monitoring.prometheus.url}")
    for measure in MEASURES[:3]:
        narrator.quote(f"# {measure.what}")
        query = f"'query={measure.expression}'"
        narrator.quote(f"curl -sG $PROMETHEUS/api/v1/query --data-urlencode {query}")
    narrator.say(f"The alerts, for a browser: {monitoring.prometheus.alerts_page}")


def value_of(monitoring: Monitoring, measure: Measure) -> str:
    """Return what Prometheus says now, with its unit."""
    found = monitoring.prometheus.client.query(measure.expression)
    return measure.format.format(float(found[0]["value"][1])) if found else NEVER
