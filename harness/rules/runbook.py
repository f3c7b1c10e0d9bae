"""Keeps the pages about the alerts complete: each has a section, which begins with what the rule says.

What stands in a section after the generated lines is written by hand and kept.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from harness.generated import with_section
from harness.rules.model import Alert
from harness.rules.rendering import Rendering, all_alerts

_SHOWN: Final = Rendering(own="", each="namespace, job")
_HEADING: Final = re.compile(r"^## (DataStorage\w+)\n", re.MULTILINE)
_SECTION_END: Final = "<!-- end of what the rule says -->"
_SECTION_BEGIN: Final = "<!-- made from the rule by `make rules` -->"
_TABLE_BEGIN: Final = "<!-- alerts: made by `make rules`; `make lint` holds it -->"
_TABLE_END: Final = "<!-- end of alerts -->"


def _by_name() -> dict[str, Sequence[Alert]]:
    """Return the alerts of each name, in the order of the rules."""
    return {name: list(same) for name, same in groupby(all_alerts(), key=lambda alert: alert.name)}


def runbook_page(page: str) -> str:
    """Return the page with a section for each alert, in the order of the rules, and for no other."""
    parts = _HEADING.split(page)
    introduction, own_words = parts[0], {}
    for name, section in zip(parts[1::2], parts[2::2], strict=True):
        own_words[name] = section.partition(_SECTION_END)[2].strip("\n")
    sections = []
    for name, same in _by_name().items():
        words = own_words.get(name, "")
        sections.append(f"## {name}\n\n{_said(same)}\n" + (f"\n{words}\n" if words else ""))
    return introduction + "\n".join(sections)


def alerts_table(page: str) -> str:
    """Return the page with its table of the alerts."""
    rows = [
        f"| [{name}](runbook.md#{name.lower()}) | {_severities(same)} | {same[0].meaning} |"
        for name, same in _by_name().items()
    ]
    table = "\n".join(["| Alert | Severity | What users notice |", "| --- | --- | --- |", *rows])
    return with_section(page, _TABLE_BEGIN, f"{table}\n", _TABLE_END)


def _said(same: Sequence[Alert]) -> str:
    first = same[0]
    return "\n".join(
        [
            _SECTION_BEGIN,
            "| | |",
            "| --- | --- |",
            f"| Severity | {_severities(same)} |",
            f"| It fires | {'; '.join(_fires(alert) for alert in same)} |",
            f"| What users notice | {first.meaning} |",
            "",
            "```promql",
            _shown(first),
            "```",
            _SECTION_END,
        ]
    )


def _severities(same: Sequence[Alert]) -> str:
    return ", ".join(dict.fromkeys(alert.severity for alert in same))


def _fires(alert: Alert) -> str:
    labels = " and ".join(f"{name} = {value}" for name, value in alert.labels)
    after = "at once" if alert.lasting == "0s" else f"after {alert.lasting}"
    return f"{after} ({labels})" if labels else after


def _shown(alert: Alert) -> str:
    """Return the expression for a reader to try: of all series, whatever their installation."""
    text = _SHOWN.expression(alert.expression)
    return text.replace("{,", "{").replace("{}", "")
