"""The values that the dashboard is made of.

An expression is PromQL with two words in it: ``$own`` selects the series of the installation and the pods
that the reader has chosen, and ``$__rate_interval`` is the range that Grafana chooses, which depends on how
often Prometheus reads the metrics and on how much time the panel shows.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

INTERVAL: Final = "$__rate_interval"
CHOSEN: Final = 'job="$job",namespace=~"$namespace",pod=~"$pod"'
"""What ``$own`` stands for in Grafana; the names are those of the dashboard's variables."""


class Unit(Enum):
    """What the numbers of a panel are: Grafana's word, and ours for the documentation."""

    RECORDS = "suffix:records", "records"
    RECORDS_A_SECOND = "suffix:records/s", "records per second"
    QUESTIONS_A_SECOND = "suffix:questions/s", "questions per second"
    REQUESTS_A_SECOND = "suffix:requests/s", "requests per second"
    VALUES_A_SECOND = "suffix:values/s", "values per second"
    ERRORS_A_SECOND = "suffix:errors/s", "errors per second"
    LEASES = "suffix:Leases", "Leases"
    CORES = "suffix:cores", "cores"
    SECONDS = "s", "seconds"
    BYTES = "bytes", "bytes"
    SHARE = "percentunit", "percent"
    STATE = "none", "a state"

    def __init__(self, grafana: str, words: str) -> None:
        self.grafana = grafana
        self.words = words


@dataclass(frozen=True)
class Query:
    """An expression, and the name of its lines: ``{{label}}`` stands for the value of a label."""

    expression: str
    legend: str

    def of(self, own: str, interval: str) -> str:
        """Return the expression as PromQL: of the series of a selector without braces, over a range."""
        text = self.expression.replace("$own", own).replace(INTERVAL, interval)
        return text.replace("{,", "{").replace("{}", "")


@dataclass(frozen=True)
class Limit:
    """A value that a panel shows as a line; what is ``beyond`` it is wrong."""

    value: float
    severity: Literal["critical", "warning"]
    beyond: Literal["above", "below"] = "above"


@dataclass(frozen=True)
class States:
    """The words for 1 and 0, for a panel that shows states over time."""

    good: str
    bad: str


@dataclass(frozen=True)
class Panel:
    """A panel. ``meaning`` says what it shows, and ``normal`` what is normal and when to look.

    ``alerts`` are the names of the alerts that judge what it shows. ``empty`` is shown where no query has an
    answer, if that is good news.
    """

    title: str
    unit: Unit
    meaning: str
    normal: str
    queries: tuple[Query, ...]
    limits: tuple[Limit, ...] = ()
    states: States | None = None
    alerts: tuple[str, ...] = ()
    empty: str = ""


@dataclass(frozen=True)
class Row:
    """Panels about one subject, each of ``width`` columns of the 24 that Grafana divides the page into."""

    title: str
    panels: tuple[Panel, ...]
    width: int = 12

    @property
    def slug(self) -> str:
        """The title as a part of a file's name."""
        return self.title.lower().replace(" ", "-")


def rate(series: str) -> str:
    """Return how much a counter grows in a second; ``series`` is a name with its selector."""
    return f"rate({series}[{INTERVAL}])"


def quantile(share: float, histogram: str, *, of: str = "", by: str = "") -> str:
    """Return a quantile of a histogram; ``of`` are further matchers, ``by`` the labels that are kept."""
    labels = f"le, {by}" if by else "le"
    matchers = f"$own,{of}" if of else "$own"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(f'{histogram}_bucket{{{matchers}}}')}))"


def share(part: str, whole: str, by: str = "") -> str:
    """Return the share that one counter has of another; ``by`` are the labels that are kept."""
    total = f"sum by ({by}) " if by else "sum"
    return f"{total}({rate(part)})\n/ {total}({rate(whole)})"
