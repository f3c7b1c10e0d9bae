"""When alerts were pending, fired and ended, as Prometheus has recorded it in its series ``ALERTS``."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from harness.prometheus.client import PrometheusClient

_SERIES: Final = "ALERTS"
_GAP: Final = 1.5
"""More steps than this between two values are a time in which the alert was not active."""
_STATE: Final = "alertstate"
# What all alerts have, or those of one installation: it does not tell them apart.
_COMMON: Final = frozenset(
    ("__name__", "alertname", "component", "instance", "job", "namespace", "severity", _STATE)
)


@dataclass(frozen=True)
class Episode:
    """A time in which an alert was active. Times are in seconds since 1970, and None for what was not seen.

    ``about`` are the labels that tell the alerts of one name apart.
    """

    alert: str
    about: tuple[tuple[str, str], ...] = ()
    pending: float | None = None
    firing: float | None = None
    ended: float | None = None

    @property
    def begin(self) -> float:
        """When it was first seen active."""
        return min(moment for moment in (self.pending, self.firing) if moment is not None)

    @property
    def name(self) -> str:
        """The name of the alert, with what it is about."""
        return " ".join([self.alert, *(f"{label}={value}" for label, value in self.about)])


def episodes_of(
    prometheus: PrometheusClient, *, since: float, until: float | None = None, step: float = 1.0
) -> list[Episode]:
    """Return all episodes between two times, the earliest first; they are exact to ``step`` seconds."""
    end = time.time() if until is None else until
    return episodes(prometheus.query_range(_SERIES, since=since, until=end, step=step), end, step)


def episodes(series: Iterable[Mapping[str, Any]], until: float, step: float) -> list[Episode]:
    """Return the episodes in lines of ``ALERTS`` with a value every ``step`` seconds, the earliest first.

    What is still active at the end of the lines, ``until``, has no end.
    """
    states: dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, str]] = {}
    for line in series:
        labels = line["metric"]
        about = tuple(sorted((name, value) for name, value in labels.items() if name not in _COMMON))
        at = states.setdefault((labels["alertname"], about), {})
        at.update((moment, labels[_STATE]) for moment, _ in line["values"])
    found = [
        Episode(alert, about, first.get("pending"), first.get("firing"), end)
        for (alert, about), at in states.items()
        for first, end in _without_gaps(at, until, step)
    ]
    return sorted(found, key=lambda episode: (episode.begin, episode.name))


def _without_gaps(
    states: Mapping[float, str], until: float, step: float
) -> Iterator[tuple[dict[str, float], float | None]]:
    """Yield each time in which an alert was active: the first moment of each state, and the end."""
    first: dict[str, float] = {}
    for moment, following in pairwise([*sorted(states), until]):
        first.setdefault(states[moment], moment)
        if following - moment > _GAP * step:
            yield first, moment + step
            first = {}
    if first:
        yield first, None
