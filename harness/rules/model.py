"""The values that the rules are made of.

An expression is PromQL with four words in it: ``$own`` selects the series of one installation, ``$each`` has
the labels that tell installations apart, ``$seconds(5m)`` is a duration as a number, and ``$events(10)`` a
number of events that a rule needs in a window.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["critical", "warning"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d+)([smhd])")


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as 5m.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"not a duration: {duration!r}")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Recording:
    """A series that Prometheus computes at each evaluation."""

    name: str
    expression: str


@dataclass(frozen=True)
class Alert:
    """An alert: when it fires, and what a person reads then.

    ``summary`` and ``description`` are templates of Prometheus. ``lasting`` is the duration for which the
    expression has to hold. ``meaning`` says on the page of the runbook what users notice. Alerts of one name
    differ in their ``labels``.
    """

    name: str
    severity: Severity
    lasting: str
    expression: str
    summary: str
    description: str
    meaning: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """The name with the labels: no two alerts have the same."""
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.labels)])


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in their order."""

    name: str
    rules: tuple[Recording | Alert, ...]
