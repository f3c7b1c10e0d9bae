"""Asks a Prometheus what the panels of the dashboard show of a time that is over."""

import re
from dataclasses import dataclass
from math import isfinite
from typing import Final

from harness.dashboard.model import CHOSEN, Query
from harness.prometheus.client import PrometheusClient

_ANY: Final = ".*"
_CHOICES: Final = {"$job": "datastorage", "$namespace": _ANY, "$pod": _ANY, "$lease": _ANY}
_LABEL: Final = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Line:
    """A line of a panel, with its name and its values; where there is nothing to divide by, it has gaps."""

    name: str
    values: tuple[tuple[float, float], ...]
    """Times, in seconds since 1970, with what is shown at them."""


@dataclass(frozen=True)
class Span:
    """A time, in seconds since 1970, and how panels ask about it: a value every ``step`` seconds.

    ``interval`` is the range of their rates, as PromQL writes it.
    """

    since: float
    until: float
    interval: str
    step: float = 1.0


def promql(query: Query, interval: str) -> str:
    """Return the expression that Grafana would send, with everything chosen."""
    text = query.of(CHOSEN, interval)
    for variable, value in _CHOICES.items():
        text = text.replace(variable, value)
    return text


def lines(prometheus: PrometheusClient, query: Query, span: Span) -> list[Line]:
    """Return the lines of a query."""
    found = prometheus.query_range(
        promql(query, span.interval), since=span.since, until=span.until, step=span.step
    )
    return [
        Line(
            legend(query, each["metric"]),
            tuple((at, float(text)) for at, text in each["values"] if isfinite(float(text))),
        )
        for each in found
    ]


def legend(query: Query, labels: dict[str, str]) -> str:
    """Return the name of a line, as Grafana makes it of the labels."""
    return _LABEL.sub(lambda match: labels.get(match[1], ""), query.legend).strip()
