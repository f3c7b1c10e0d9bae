"""What the panels have shown of a time, with what was away and which alerts fired meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.dashboard.answers import Line, Span, lines
from harness.dashboard.model import Panel, Query
from harness.dashboard.scales import Stretch, stretches
from harness.dashboard.table import PANELS
from harness.prometheus.client import PrometheusClient
from harness.prometheus.episodes import Episode, episodes_of

_REPLICA: Final = "replica"
_SERVERS: Final = {
    "postgres": "PostgreSQL", "redis": "Redis", "embedder": "embedder", _REPLICA: _REPLICA,
}  # fmt: skip
"""What can be away, and what people call it. The other dependencies are tables on the first one."""
_LEAST_SECONDS: Final = 20.0
"""What is shorter is one request that came too late, and no outage."""
_SERVING: Final = Query("min by (dependency) (datastorage_dependency_up{$own})", "{{dependency}}")
_READ: Final = Query("min(up{$own})", _REPLICA)


@dataclass(frozen=True)
class Outage:
    """A time in which a server or a replica was away; times in seconds since 1970."""

    server: str
    begin: float
    end: float


@dataclass(frozen=True)
class Shown:
    """Everything that a picture of the dashboard needs."""

    span: Span
    lines: Mapping[str, list[Line]]
    """By the titles of the panels."""
    outages: tuple[Outage, ...]
    episodes: tuple[Episode, ...]

    def minutes(self, moment: float) -> float:
        """Return how many minutes after the begin a moment is."""
        return (moment - self.span.since) / 60

    def firing(self, panel: Panel) -> list[Stretch]:
        """Return when one of the alerts about a panel fired."""
        return [
            Stretch(each.firing, each.ended or self.span.until, 1)
            for each in self.episodes
            if each.alert in panel.alerts and each.firing is not None
        ]


def shown(prometheus: PrometheusClient, span: Span) -> Shown:
    """Ask a Prometheus for everything that the panels have shown of a time."""
    found = {
        panel.title: [line for query in panel.queries for line in lines(prometheus, query, span)]
        for panel in PANELS
    }
    serving = [line for query in (_SERVING, _READ) for line in lines(prometheus, query, span)]
    outages = outages_of(serving, span.step)
    alerts = episodes_of(prometheus, since=span.since, until=span.until, step=span.step)
    return Shown(span, found, tuple(outages), tuple(alerts))


def outages_of(serving: list[Line], step: float) -> list[Outage]:
    """Return when servers or replicas were away, from lines that are 0 then."""
    return [
        Outage(_SERVERS[line.name], each.begin, each.end)
        for line in serving
        if line.name in _SERVERS
        for each in stretches(line.values, step)
        if each.value == 0 and each.end - each.begin >= _LEAST_SECONDS
    ]
