"""Writes the part of the documentation that lists the panels."""

import textwrap
from collections.abc import Iterator
from typing import Final

from harness.dashboard.model import Limit, Panel, Row, Unit
from harness.dashboard.selectors import metrics_of
from harness.dashboard.table import ROWS
from harness.generated import with_section

BEGIN: Final = "<!-- panels: made by `make dashboard`; `make lint` holds it -->"
END: Final = "<!-- end of panels -->"
_COLUMNS: Final = 120  # of prose in the documentation
_RANGE: Final = "5m"


def panels_page(page: str) -> str:
    """Return the page with a section for each panel. Raises ValueError: it has no place for them."""
    lines = []
    for row in ROWS:
        lines += ["", f"## {row.title}", "", f"![The panels of this row in an incident]({picture(row)})"]
        for panel in row.panels:
            lines += ["", *_section(panel)]
    return with_section(page, BEGIN, "\n".join(lines) + "\n\n", END)


def picture(row: Row) -> str:
    """Return the path of the picture of a row, from the page."""
    return f"images/dashboard-{row.slug}.png"


def _section(panel: Panel) -> Iterator[str]:
    yield f"### {panel.title}"
    yield ""
    yield from _wrapped(f"{panel.meaning} {_unit(panel)}")
    yield ""
    yield from _wrapped(f"**Normal:** {panel.normal}")
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    if panel.limits:
        yield f"| Line | {'; '.join(_line(limit, panel.unit) for limit in panel.limits)} |"
    if panel.alerts:
        yield f"| Alerts | {', '.join(_alert(name) for name in panel.alerts)} |"
    yield f"| Metrics | {', '.join(_metric(name) for name in _metrics(panel))} |"
    yield ""
    yield "```promql"
    for query in panel.queries:
        yield f"# {query.legend}"
        yield query.of("", _RANGE)
    yield "```"


def _unit(panel: Panel) -> str:
    if panel.states is not None:
        return f"It is shown in green ({panel.states.good}) or red ({panel.states.bad})."
    return f"In {panel.unit.words}."


def _line(limit: Limit, unit: Unit) -> str:
    value = f"{limit.value:.0%}" if unit is Unit.SHARE else f"{limit.value:g} {unit.words}"
    return f"{value}; {limit.beyond} it is {limit.severity}"


def _metrics(panel: Panel) -> list[str]:
    return metrics_of([query.of("", _RANGE) for query in panel.queries])


def _metric(name: str) -> str:
    # Those that every process has have no section of their own.
    anchor = "" if name.startswith("process_") else f"#{name}"
    return f"[`{name}`](../reference/metrics.md{anchor})"


def _alert(name: str) -> str:
    return f"[{name}](runbook.md#{name.lower()})"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)
