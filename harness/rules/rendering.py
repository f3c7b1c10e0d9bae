"""Writes the rules for Prometheus, for one selection of series."""

import re
from dataclasses import dataclass
from typing import Any, Final

import yaml

from harness.rules.alerts import alerts
from harness.rules.model import Alert, Group, Recording, seconds
from harness.rules.objectives import budget_alerts, recordings

_RANGE: Final = re.compile(r"(?<=\[)\d+[smhd](?=\])")
_SECONDS: Final = re.compile(r"\$seconds\((\d+[smhd])\)")
_EVENTS: Final = re.compile(r"\$events\((\d+)\)")
RUNBOOK: Final = "https://datastorage.kubernaut.io/docs/operations/runbook.md"
_COMPONENT: Final = "datastorage"


@dataclass(frozen=True)
class Rendering:
    """For which series the rules are, and how quickly they act.

    ``own`` is a selector without braces. ``factor`` shortens all times, for a test that lets alerts fire; no
    range or age then becomes shorter than ``shortest_range`` seconds, and no wait than ``shortest_wait``. In
    short ranges there are fewer events: ``share`` is how many of those that a rule needs are enough.
    """

    own: str = 'job="datastorage"'
    each: str = "namespace, job"
    runbook: str = RUNBOOK
    factor: float = 1.0
    shortest_range: float = 0.0
    shortest_wait: float = 0.0
    share: float = 1.0

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups of rules, as a rules file has them."""
        return [self._group(each) for each in all_groups()]

    def expression(self, text: str) -> str:
        """Return an expression of the table as PromQL."""
        ranged = _RANGE.sub(lambda match: self._shortened(match[0], self.shortest_range), text)
        timed = _SECONDS.sub(lambda match: f"{self._age(match[1]):g}", ranged)
        counted = _EVENTS.sub(lambda match: f"{int(match[1]) * self.share:g}", timed)
        return counted.replace("$own", self.own).replace("$each", self.each)

    def _group(self, group: Group) -> dict[str, Any]:
        return {"name": group.name, "rules": [self._rule(rule) for rule in group.rules]}

    def _rule(self, rule: Recording | Alert) -> dict[str, Any]:
        if isinstance(rule, Recording):
            return {"record": rule.name, "expr": self.expression(rule.expression)}
        lasting = (
            {} if not seconds(rule.lasting) else {"for": self._shortened(rule.lasting, self.shortest_wait)}
        )
        return {
            "alert": rule.name,
            "expr": self.expression(rule.expression),
            **lasting,
            "labels": {"severity": rule.severity, "component": _COMPONENT, **dict(rule.labels)},
            "annotations": {
                "summary": rule.summary,
                "description": rule.description,
                "runbook_url": f"{self.runbook}#{rule.name.lower()}",
            },
        }

    def _age(self, duration: str) -> float:
        return max(self.shortest_range, seconds(duration) * self.factor)

    def _shortened(self, duration: str, shortest: float) -> str:
        if self.factor == 1.0:
            return duration
        return f"{round(1000 * max(shortest, seconds(duration) * self.factor))}ms"


def all_groups() -> tuple[Group, ...]:
    """Return all rules, in the order of the files: what is recorded comes before the alerts that use it."""
    return (recordings(), alerts(), budget_alerts())


def all_alerts() -> list[Alert]:
    """Return all alerts, in the order of the files."""
    return [rule for group in all_groups() for rule in group.rules if isinstance(rule, Alert)]


class _Dumper(yaml.SafeDumper):
    """Indents the items of a list, and writes texts of several lines as they stand."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, ARG002  # as in PyYAML
        super().increase_indent(flow, False)  # noqa: FBT003  # as in PyYAML


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def yaml_text(document: Any) -> str:
    """Return a document as YAML that a person can read."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
