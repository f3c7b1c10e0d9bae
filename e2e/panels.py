"""Asks a Prometheus what the panels of the dashboard would show of a time that is over."""

import asyncio
from dataclasses import dataclass
from math import isfinite
from typing import Final

from harness.dashboard.model import CHOSEN, Panel, Query
from harness.dashboard.table import PANELS
from harness.prometheus.servers import Prometheus

_ANY: Final = ".*"
_CHOICES: Final = {"$job": "datastorage", "$namespace": _ANY, "$pod": _ANY, "$lease": _ANY}


@dataclass(frozen=True)
class Line:
    """A line of a panel, with its labels and its values; where there is nothing to divide by, it has gaps."""

    labels: dict[str, str]
    values: tuple[tuple[float, float], ...]
    """Times, in seconds since 1970, with what is shown at them."""


def promql(query: Query, interval: str) -> str:
    """Return the expression that Grafana would send, with everything chosen."""
    text = query.of(CHOSEN, interval)
    for variable, value in _CHOICES.items():
        text = text.replace(variable, value)
    return text


def lines(prometheus: Prometheus, query: Query, since: float, *, interval: str) -> list[Line]:
    """Return the lines of a query from a time until now; ``interval`` is the range of its rates."""
    found = prometheus.api.query_range(promql(query, interval), since=since)
    return [
        Line(
            each["metric"],
            tuple((at, float(text)) for at, text in each["values"] if isfinite(float(text))),
        )
        for each in found
    ]


async def empty_queries(prometheus: Prometheus, since: float, *, interval: str) -> list[str]:
    """Return the queries of the dashboard that had no answer."""
    return [
        f"{panel.title}: {query.legend}"
        for panel in PANELS
        for query in panel.queries
        if not any(each.values for each in await _asked(prometheus, query, since, interval))
    ]


async def flat_panels(prometheus: Prometheus, since: float, *, interval: str) -> list[str]:
    """Return the panels that have shown nothing but 0."""
    return [panel.title for panel in PANELS if await _is_flat(prometheus, panel, since, interval)]


async def _is_flat(prometheus: Prometheus, panel: Panel, since: float, interval: str) -> bool:
    found = [each for query in panel.queries for each in await _asked(prometheus, query, since, interval)]
    return not any(value for each in found for _, value in each.values)


async def _asked(prometheus: Prometheus, query: Query, since: float, interval: str) -> list[Line]:
    return await asyncio.to_thread(lines, prometheus, query, since, interval=interval)
