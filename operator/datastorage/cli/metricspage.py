"""The part of the reference of metrics that is made from their declarations."""

import textwrap
from collections.abc import Iterator
from typing import Any, Final

from datastorage.api.app import api_app, served
from datastorage.api.document import described_app
from datastorage.api.health import health_routes
from datastorage.api.observed import BODILESS, Served, counted
from datastorage.metrics import CHAPTERS, Declared
from datastorage.metrics.declaring import Label

_COLUMNS: Final = 120  # of prose in the documentation


def metrics_page() -> str:
    """Return the table of all metrics, and a section for each, in the order of their declarations."""
    lines = [*_overview()]
    for chapter in CHAPTERS:
        lines += ["", f"## {chapter.title}"]
        for metric in chapter.metrics:
            lines += ["", *_section(metric)]
    return "\n".join(lines) + "\n"


def series_at_most() -> dict[str, int]:
    """Return for each metric how many series it has, with all labels at their maximum."""
    combinations = _of_routes()
    return {
        metric.name: metric.lines * combinations[metric.name] if metric.name in combinations else metric.most
        for chapter in CHAPTERS
        for metric in chapter.metrics
    }


def served_by_all() -> list[Served]:
    """Return the routes that a running operator serves on the port of the API."""
    probes = api_app([], health_routes(health={}, ready={}, notes={}))
    return list(dict.fromkeys((*served(described_app()), *served(probes))))


def _of_routes() -> dict[str, int]:
    each = list(counted(served_by_all()))
    return {
        "http_server_requests_total": sum(len(one.statuses) + 1 for one in each),
        "http_server_request_duration_seconds": len(each),
        "http_server_request_body_size_bytes": sum(one.method not in BODILESS for one in each),
        "http_server_response_body_size_bytes": len(each),
    }


def _overview() -> Iterator[str]:
    most = series_at_most()
    yield from _wrapped(
        f"With everything on, a replica has at most {sum(most.values()):,} series of the metrics below. A "
        "histogram counts with its buckets, its sum and its count."
    )
    yield ""
    yield "| Metric | Type | Labels | Series at most |"
    yield "| --- | --- | --- | --- |"
    for chapter in CHAPTERS:
        for metric in chapter.metrics:
            labels = ", ".join(f"`{label.name}`" for label in metric.labels)
            yield f"| [`{metric.name}`](#{metric.name}) | {metric.type} | {labels} | {most[metric.name]:,} |"


def _section(metric: Declared) -> Iterator[str]:
    about = metric.about
    yield f"### `{metric.name}`"
    yield ""
    yield from _wrapped(f"{about.meaning}.")
    yield ""
    yield from _wrapped(f"**Normal:** {about.normal}")
    if about.appears:
        yield ""
        yield from _wrapped(f"**Appears:** {about.appears}")
    if metric.labels:
        yield ""
        yield "| Label | Value | Meaning |"
        yield "| --- | --- | --- |"
        for label in metric.labels:
            yield from _label_rows(label)
    yield ""
    yield "```promql"
    yield about.query
    yield "```"


def _label_rows(label: Label[Any]) -> Iterator[str]:
    if label.meaning:
        values = ", ".join(f"`{value}`" for value in label.values)
        yield f"| `{label.name}` | {values} | {label.meaning} |"
    for value in () if label.meaning else label.values:
        yield f"| `{label.name}` | `{value}` | {value.meaning} |"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)
