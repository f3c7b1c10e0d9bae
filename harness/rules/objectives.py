"""The objectives of the service, their recording rules, and the alerts about budgets that burn too fast.

An objective allows a share of failures: its budget of 30 days. A burn rate of 1 uses it up in 30 days. An
alert needs the rate in a long window and in a short one, so that it is about more than a moment, and ends
soon after the cure (the multiwindow, multi-burn-rate alerts of Google's SRE workbook).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.rules.model import Alert, Group, Recording, Severity

_FEWEST_FAILURES: Final = 10
"""In the long window. With little traffic, a failure or two would be a large share of it."""


@dataclass(frozen=True)
class Objective:
    """What share of events may fail. ``failed`` and ``all`` are PromQL with $window in place of the range."""

    series: str
    alert: str
    allowed: float
    failed: str
    all: str
    what: str
    meaning: str

    def name(self, of: str, window: str) -> str:
        """Return the name of a recorded series, as Prometheus' documentation advises to build it."""
        return f"namespace_job:{self.series}:{of}{window}"


@dataclass(frozen=True)
class Burn:
    """A burn rate, the windows in which it is too high, and how long that has to last."""

    rate: str
    long: str
    short: str
    lasting: str
    severity: Severity
    exhausted: str
    """The time in which a whole budget burns at this rate."""


BURNS: Final = (
    Burn("14.4", "1h", "5m", "2m", "critical", "2 days"),
    Burn("6", "6h", "30m", "15m", "critical", "5 days"),
    Burn("3", "1d", "2h", "1h", "warning", "10 days"),
    Burn("1", "3d", "6h", "3h", "warning", "30 days"),
)

_STORED: Final = "datastorage_created_to_stored_seconds"
_ANSWERED: Final = "datastorage_query_total"
OBJECTIVES: Final = (
    Objective(
        series="datastorage_stored_late",
        alert="DataStorageStoredLateBudgetBurn",
        allowed=0.01,
        failed=f"sum by ($each) (rate({_STORED}_count{{$own}}[$window]))\n"
        f'- sum by ($each) (rate({_STORED}_bucket{{$own,le="5.0"}}[$window]))',
        all=f"sum by ($each) (rate({_STORED}_count{{$own}}[$window]))",
        what="records stored later than 5 seconds after their creation",
        meaning="Records are found in the archive late. None is lost: what is not stored is in the cluster.",
    ),
    Objective(
        series="datastorage_reads_failed",
        alert="DataStorageReadErrorBudgetBurn",
        allowed=0.005,
        failed=f'sum by ($each) (rate({_ANSWERED}{{$own,status="error"}}[$window]))',
        all=f'sum by ($each) (rate({_ANSWERED}{{$own,status!="invalid"}}[$window]))',
        what="questions to the archive that failed",
        meaning="People and programs that ask the archive get errors. Storing may go on all the same.",
    ),
)


def recordings() -> Group:
    """Return the recording rules: the share of failures in each window, and the failures in the long ones."""
    return Group("datastorage.objectives", tuple(_recorded()))


def budget_alerts() -> Group:
    """Return the alerts about burning budgets."""
    return Group("datastorage.budgets", tuple(_alert(each, burn) for each in OBJECTIVES for burn in BURNS))


def _recorded() -> Iterator[Recording]:
    windows = dict.fromkeys(window for burn in BURNS for window in (burn.short, burn.long))
    for each in OBJECTIVES:
        for window in windows:
            failed, total = (text.replace("$window", window) for text in (each.failed, each.all))
            yield Recording(each.name("ratio_rate", window), f"(\n{failed}\n) / {total}")
        for window in (burn.long for burn in BURNS):
            increase = each.failed.replace("rate(", "increase(").replace("$window", window)
            yield Recording(each.name("increase", window), increase)


def _alert(objective: Objective, burn: Burn) -> Alert:
    def burns(window: str) -> str:
        return f"{objective.name('ratio_rate', window)} > {burn.rate} * {objective.allowed}"

    enough = f"{objective.name('increase', burn.long)} > $events({_FEWEST_FAILURES})"
    return Alert(
        name=objective.alert,
        severity=burn.severity,
        lasting=burn.lasting,
        expression=f"{burns(burn.long)}\nand {burns(burn.short)}\nand {enough}",
        summary=f"Too many {objective.what}",
        description=f"In the last {burn.long}, {{{{ $value | humanizePercentage }}}} were {objective.what}; "
        f"{objective.allowed:.1%} are allowed. At this rate the budget of 30 days is used up in "
        f"{burn.exhausted}.",
        meaning=objective.meaning,
        labels=(("long", burn.long), ("short", burn.short)),
    )
