"""Judges what the panels of the dashboard have shown of a time that is over."""

import asyncio

from harness.dashboard.answers import Line, Span, lines
from harness.dashboard.model import Panel, Query
from harness.dashboard.table import PANELS
from harness.prometheus.client import PrometheusClient


async def empty_queries(prometheus: PrometheusClient, span: Span) -> list[str]:
    """Return the queries of the dashboard that had no answer."""
    return [
        f"{panel.title}: {query.legend}"
        for panel in PANELS
        for query in panel.queries
        if not any(each.values for each in await _asked(prometheus, query, span))
    ]


async def flat_panels(prometheus: PrometheusClient, span: Span) -> list[str]:
    """Return the panels that have shown nothing but 0."""
    return [panel.title for panel in PANELS if await _is_flat(prometheus, panel, span)]


async def _is_flat(prometheus: PrometheusClient, panel: Panel, span: Span) -> bool:
    found = [each for query in panel.queries for each in await _asked(prometheus, query, span)]
    return not any(value for each in found for _, value in each.values)


async def _asked(prometheus: PrometheusClient, query: Query, span: Span) -> list[Line]:
    return await asyncio.to_thread(lines, prometheus, query, span)
