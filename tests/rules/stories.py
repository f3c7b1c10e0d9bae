"""For each alert, a story in which something breaks and is repaired, and another for each other cause.

``late`` steps after the first sample of the fault the expression holds, because a window has to fill, and
``lasts`` steps after the first sample of the repair it does not hold any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from harness.rules.model import seconds
from harness.rules.objectives import BURNS, OBJECTIVES, Burn, Objective
from tests.rules.series import OWN, STALE, Phases, Values, series


@dataclass(frozen=True)
class Story:
    """One alert from its fault to its end.

    ``value`` is what its texts say for $value. ``also`` are the labels of another alert of the same name that
    fires already, with the same value.
    """

    alert: str
    phases: Phases
    values: Values
    lasts: int
    labels: Mapping[str, str] = field(default_factory=lambda: OWN)
    step: str = "1m"
    late: int = 0
    value: str = ""
    also: Mapping[str, str] | None = None


def _operations(status: str, count: str) -> Values:
    return {series("datastorage_query_total", operation="list", status=status): count}


def _searches(phases: Phases) -> Values:
    """Searches that take between 100 and 250 ms during the fault, and less than 50 ms otherwise."""
    name = "datastorage_query_duration_seconds"
    counts = {"0.05": (20, 0), "0.1": (20, 0), "0.25": (20, 20), "+Inf": (20, 20)}
    return {
        **{
            series(f"{name}_bucket", operation="search_hybrid", le=le): phases.counter(*steps)
            for le, steps in counts.items()
        },
        series(f"{name}_count", operation="search_hybrid"): phases.counter(20, 20),
    }


_TEN: Final = Phases(31, 10, 30)
_THIRTY: Final = Phases(31, 30, 30)
_ONCE: Final = Phases(31, 1, 90)

_FAULTS: Final = (
    Story(
        "DataStorageHighWriteErrorRate",
        _TEN,
        {
            series("datastorage_write_total", table="audit_records", status="success"): _TEN.counter(100, 50),
            series("datastorage_write_total", table="audit_records", status="failure"): _TEN.counter(0, 50),
        },
        lasts=5,
        value="50%",
    ),
    Story(
        "DataStoragePostgreSQLFailure",
        _TEN,
        {
            series("datastorage_dependency_up", dependency="postgres"): _TEN.gauge(1, 0),
            series("datastorage_dependency_up", dependency="postgres", pod="b"): _TEN.gauge(1, 1),
        },
        lasts=0,
        labels={**OWN, "dependency": "postgres"},
    ),
    Story(
        "DataStoragePostgreSQLFailure",
        _TEN,
        {
            series("datastorage_dependency_up", dependency="postgres"): _TEN.gauge(1, 1),
            series("datastorage_dependency_up", dependency="action_traces"): _TEN.gauge(1, 0),
        },
        lasts=0,
        labels={**OWN, "dependency": "action_traces"},
    ),
    Story(
        "DataStorageArchivingStalled",
        _THIRTY,
        {
            series("datastorage_unstored_records", table="audit_records"): _THIRTY.gauge(0, 7),
            series("datastorage_write_total", table="audit_records", status="success"): _THIRTY.counter(
                10, 0
            ),
        },
        lasts=0,
        late=3,
        value="7",
    ),
    Story(
        "DataStorageUnstoredRecordTooOld",
        _TEN,
        {series("datastorage_unstored_oldest_seconds", table="action_traces"): _TEN.gauge(1, 400)},
        lasts=0,
        labels={**OWN, "table": "action_traces"},
        value="6m 40s",
    ),
    Story(
        "DataStorageRecordRejected",
        _ONCE,
        {series("datastorage_write_total", table="audit_records", status="rejected"): _ONCE.counter(0, 1)},
        lasts=60,
        labels={**OWN, "table": "audit_records"},
        value="1",
    ),
    Story(
        "DataStorageShardWithoutHolder",
        _TEN,
        {
            series("datastorage_lease_held", lease="datastorage-shard-1-of-2", pod="a"): _TEN.gauge(1, 0),
            series("datastorage_lease_held", lease="datastorage-shard-1-of-2", pod="b"): _TEN.gauge(0, 0),
            series("datastorage_lease_held", lease="datastorage-shard-0-of-2", pod="a"): _TEN.gauge(0, 0),
            series("datastorage_lease_held", lease="datastorage-shard-0-of-2", pod="b"): _TEN.gauge(1, 1),
        },
        lasts=0,
        labels={**OWN, "lease": "datastorage-shard-1-of-2"},
    ),
    Story(
        "DataStorageStatusRefused",
        _ONCE,
        {series("datastorage_status_writes_total", outcome="refused"): _ONCE.counter(0, 1)},
        lasts=10,
        value="1",
    ),
    Story(
        "DataStorageUnconfirmedDeletion",
        _ONCE,
        {
            series("datastorage_gc_total", outcome="unconfirmed"): _ONCE.counter(0, 1),
            series("datastorage_rows_missing_total", phase="Stored"): _ONCE.counter(0, 0),
        },
        lasts=60,
    ),
    Story(
        "DataStorageUnconfirmedDeletion",
        _ONCE,
        {
            series("datastorage_gc_total", outcome="unconfirmed"): _ONCE.counter(0, 0),
            series("datastorage_rows_missing_total", phase="Degraded"): _ONCE.counter(0, 1),
        },
        lasts=60,
    ),
    Story(
        "DataStorageGuardNotInForce",
        _TEN,
        {
            series("datastorage_guard_in_force", guard="deletion-guard", pod="a"): _TEN.gauge(1, 0),
            series("datastorage_guard_in_force", guard="deletion-guard", pod="b"): _TEN.gauge(1, 0),
            series("datastorage_guard_in_force", guard="status-guard", pod="a"): _TEN.gauge(1, 0),
            series("datastorage_guard_in_force", guard="status-guard", pod="b"): _TEN.gauge(1, 1),
        },
        lasts=0,
        labels={**OWN, "guard": "deletion-guard"},
    ),
    Story(
        "DataStorageAbsent",
        _TEN,
        {series("datastorage_build_info", version="1"): _TEN.gauge(1, STALE)},
        lasts=0,
        # absent() has no series to take a namespace from: its labels are those that the selector names.
        labels={"job": "datastorage"},
    ),
    Story(
        "DataStorageVectorDBDegraded",
        _TEN,
        {
            series("datastorage_fallback_mode_total"): _TEN.counter(0, 3),
            series("datastorage_dependency_up", dependency="embedder"): _TEN.gauge(1, 1),
        },
        lasts=5,
    ),
    Story(
        "DataStorageVectorDBDegraded",
        _TEN,
        # Nothing is stored meanwhile, or the vectors have a server of their own.
        {
            series("datastorage_fallback_mode_total"): _TEN.counter(0, 0),
            series("datastorage_dependency_up", dependency="vector_store"): _TEN.gauge(1, 0),
        },
        lasts=0,
    ),
    Story(
        "DataStorageOutboxGrowing",
        _TEN,
        {
            # The oldest one waits until the end, but the others become fewer.
            series("datastorage_outbox_oldest_seconds"): _TEN.gauge(10, 1000, 1000),
            series("datastorage_outbox_depth", state="pending"): _TEN.counter(0, 5, -10),
        },
        lasts=4,
        value="16m 40s",
    ),
    Story(
        "DataStorageLowCacheHitRate",
        _THIRTY,
        {
            series("datastorage_cache_hits_total", tier="memory"): _THIRTY.counter(80, 10),
            series("datastorage_cache_misses_total"): _THIRTY.counter(20, 90),
        },
        lasts=15,
        late=6,
        value="10%",
    ),
    Story(
        "DataStorageHighQueryErrorRate",
        _TEN,
        {
            **_operations("success", _TEN.counter(100, 50)),
            **_operations("error", _TEN.counter(0, 50)),
            **_operations("invalid", _TEN.counter(100, 1000)),
        },
        lasts=5,
        value="50%",
    ),
    Story("DataStorageSlowSemanticSearch", _THIRTY, _searches(_THIRTY), lasts=10, value="242.5ms"),
)


def _budget_story(objective: Objective, burn: Burn, failed: Values, phases: Phases) -> Story:
    step = _STEPS[burn.short]
    # A window with two samples in it counts, and so the next quicker burn is seen as well.
    quicker = [each for each in BURNS if seconds(step) < seconds(each.short) < seconds(burn.short)]
    return Story(
        f"{objective.alert} long={burn.long} short={burn.short}",
        phases,
        failed,
        lasts=seconds(burn.short) // seconds(step) + 1,
        labels=_burn_labels(burn),
        also=_burn_labels(quicker[-1]) if quicker else None,
        step=step,
        value="100%",
    )


def _burn_labels(burn: Burn) -> dict[str, str]:
    return {**OWN, "long": burn.long, "short": burn.short}


def _stored_late(phases: Phases) -> Values:
    name = "datastorage_created_to_stored_seconds"
    return {
        series(f"{name}_count"): phases.counter(0, 100),
        series(f"{name}_bucket", le="5.0"): phases.counter(0, 0, 100),
        series(f"{name}_bucket", le="+Inf"): phases.counter(0, 100),
    }


def _reads_failed(phases: Phases) -> Values:
    return {
        **_operations("error", phases.counter(0, 100)),
        **_operations("success", phases.counter(0, 0, 100)),
    }


_STEPS: Final = {"5m": "1m", "30m": "5m", "2h": "10m", "6h": "30m"}
_BROKEN: Final = {"datastorage_stored_late": _stored_late, "datastorage_reads_failed": _reads_failed}


def _budgets() -> tuple[Story, ...]:
    phases = Phases(2, 20, 20)
    return tuple(
        _budget_story(objective, burn, _BROKEN[objective.series](phases), phases)
        for objective in OBJECTIVES
        for burn in BURNS
    )


STORIES: Final = (*_FAULTS, *_budgets())
