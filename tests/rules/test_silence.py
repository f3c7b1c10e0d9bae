"""No alert is even pending in health, with little traffic, or because of another installation."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from harness.rules.alerts import alerts
from harness.rules.files import INSTALLED
from tests.rules.promtool import Expected, played
from tests.rules.series import OWN, STALE, Phases, Values, merged, series
from tests.rules.stories import STORIES

_PODS = ("a", "b", "c")
_ANY = "count by (namespace, alertname) (last_over_time(ALERTS[{range}])) > bool 0"
_ALL = Phases(76, 0, 0)
_OTHER = {"namespace": "another-system", "job": "datastorage"}


def _pod(phases: Phases, pod: str, own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the series of a healthy replica, of which one stores and all answer."""
    first = pod == "a"
    stored = 100.0 if first else 0.0

    def one(name: str, values: str, **labels: str) -> tuple[str, str]:
        return series(name, pod=pod, own=own, **labels), values

    def counter(step: float) -> str:
        return phases.counter(step, step)

    def level(value: float) -> str:
        return phases.gauge(value, value)

    yield one("datastorage_build_info", level(1), version="1")
    for table in ("audit_records", "action_traces"):
        for status, step in {"success": stored, "duplicate": 1, "failure": 0, "rejected": 0}.items():
            yield one("datastorage_write_total", counter(step), table=table, status=status)
        yield one("datastorage_unstored_records", level(5 if first else 0), table=table)
        yield one("datastorage_unstored_oldest_seconds", level(2 if first else 0), table=table)
    for dependency in ("postgres", "audit_records", "action_traces", "embedder", "vector_store", "redis"):
        yield one("datastorage_dependency_up", level(1), dependency=dependency)
    yield one("datastorage_lease_held", level(float(first)), lease="datastorage-shard-0-of-2")
    yield one("datastorage_lease_held", level(float(pod == "b")), lease="datastorage-shard-1-of-2")
    yield one("datastorage_status_writes_total", counter(0), outcome="refused")
    yield one("datastorage_gc_total", counter(0), outcome="unconfirmed")
    yield one("datastorage_rows_missing_total", counter(0), phase="Stored")
    for guard in ("deletion-guard", "status-guard"):
        # A replica that has just started has not looked yet.
        yield one("datastorage_guard_in_force", level(float(pod != "c")), guard=guard)
    yield one("datastorage_fallback_mode_total", counter(0))
    yield one("datastorage_outbox_oldest_seconds", level(20))
    yield one("datastorage_outbox_depth", level(50), state="pending")
    yield one("datastorage_cache_hits_total", counter(60), tier="memory")
    yield one("datastorage_cache_misses_total", counter(40))
    # 0.4 % of the questions fail, and 0.2 % of the records come late: less than the objectives allow.
    for status, step in {"success": 1000, "error": 4, "invalid": 500}.items():
        yield one("datastorage_query_total", counter(step), operation="list", status=status)
    for le, step in {"0.05": 0.0, "0.1": 98, "0.25": 100, "+Inf": 100}.items():
        name = "datastorage_query_duration_seconds_bucket"
        yield one(name, counter(step), operation="search_vector", le=le)
    yield one("datastorage_query_duration_seconds_count", counter(100), operation="search_vector")
    yield one("datastorage_created_to_stored_seconds_bucket", counter(stored * 0.998), le="5.0")
    yield one("datastorage_created_to_stored_seconds_count", counter(stored))


def healthy(phases: Phases, own: Mapping[str, str] = OWN) -> dict[str, str]:
    return dict(pair for pod in _PODS for pair in _pod(phases, pod, own))


def some_of_few(phases: Phases) -> Values:
    """Nothing happens for hours; then, of a handful of events, most go wrong, within one step."""
    quiet = {name: _constant(values) for name, values in healthy(phases).items()}
    late = "datastorage_created_to_stored_seconds"
    search = "datastorage_query_duration_seconds"
    return quiet | {
        series("datastorage_unstored_records", table="audit_records"): phases.gauge(0, 0),
        series("datastorage_unstored_records", table="action_traces"): phases.gauge(0, 0),
        series("datastorage_write_total", table="audit_records", status="success"): phases.counter(0, 2),
        series("datastorage_write_total", table="audit_records", status="failure"): phases.counter(0, 3),
        series("datastorage_query_total", operation="list", status="success"): phases.counter(0, 1),
        series("datastorage_query_total", operation="list", status="error"): phases.counter(0, 3),
        series(f"{search}_bucket", operation="search_vector", le="0.25"): phases.counter(0, 5),
        series(f"{search}_bucket", operation="search_vector", le="+Inf"): phases.counter(0, 5),
        series(f"{search}_count", operation="search_vector"): phases.counter(0, 5),
        series("datastorage_cache_misses_total"): phases.counter(0, 12),
        series(f"{late}_count"): phases.counter(0, 6),
        series(f"{late}_bucket", le="5.0"): phases.counter(0, 2),
    }


def a_backlog_that_shrinks(phases: Phases) -> Values:
    """Vectors of another model are made: the oldest waits for hours, and they become fewer."""
    depth = " ".join(str(100_000 - 100 * n) for n in range(phases.before))
    return healthy(phases) | {
        series("datastorage_outbox_oldest_seconds"): phases.gauge(9000, 0),
        series("datastorage_outbox_depth", state="pending"): depth,
        series("datastorage_outbox_depth", state="pending", pod="b"): depth,
        series("datastorage_outbox_depth", state="pending", pod="c"): depth,
    }


def replicas_that_are_replaced(phases: Phases) -> Values:
    """An update takes two of three replicas away, and the third takes over the Lease of one of them."""
    found = dict(healthy(phases))
    for name, values in found.items():
        if 'pod="a"' not in name:
            found[name] = " ".join([*values.split()[:40], STALE])
    taken = Phases(40, phases.before - 40, 0).gauge(0, 1)
    return found | {series("datastorage_lease_held", lease="datastorage-shard-1-of-2"): taken}


def _constant(values: str) -> str:
    first, *rest = values.split()
    return " ".join([first] * (1 + len(rest)))


@pytest.mark.parametrize(
    ("make", "phases"),
    [
        (healthy, _ALL),
        (some_of_few, Phases(40, 1, 35)),
        (a_backlog_that_shrinks, _ALL),
        (replicas_that_are_replaced, Phases(76, 0, 0)),
    ],
)
def test_nothing_fires(make: Callable[[Phases], Values], phases: Phases, tmp_path: Path) -> None:
    minutes = phases.before + phases.during + phases.after
    silent = Expected(f"{minutes}m", _ANY.format(range=f"{minutes}m"))
    assert played(tmp_path, make(phases), "1m", [silent]) == ""


def test_nothing_fires_in_days_of_health(tmp_path: Path) -> None:
    silent = Expected("4d", _ANY.format(range="4d"))
    values = healthy(Phases(193, 0, 0))
    assert played(tmp_path, values, "30m", [silent], without={alerts().name}) == ""


def in_another_namespace(*alerts: str) -> Values:
    """Return the series of the first story of some alerts, as they are in another installation."""
    firsts = {story.alert: story.values for story in reversed(STORIES)}
    values = merged(firsts[alert] for alert in alerts)
    return {name.replace(OWN["namespace"], _OTHER["namespace"]): text for name, text in values.items()}


def test_an_alert_names_the_installation_that_it_is_about(tmp_path: Path) -> None:
    faulty = in_another_namespace("DataStorageHighWriteErrorRate", "DataStoragePostgreSQLFailure")
    values = merged([healthy(_ALL), faulty])
    names = ("DataStorageHighWriteErrorRate", "DataStoragePostgreSQLFailure")
    found = [{"namespace": _OTHER["namespace"], "alertname": name} for name in names]
    assert played(tmp_path, values, "1m", [Expected("40m", _ANY.format(range="40m"), found)]) == ""


def test_rules_for_one_namespace_leave_the_others_alone(tmp_path: Path) -> None:
    faulty = in_another_namespace("DataStorageHighWriteErrorRate", "DataStoragePostgreSQLFailure")
    silent = Expected("40m", _ANY.format(range="40m"))
    assert played(tmp_path, merged([healthy(_ALL), faulty]), "1m", [silent], rendering=INSTALLED) == ""
