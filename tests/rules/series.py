"""Writes the values of series for promtool, sample by sample."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

OWN: Final = {"namespace": "datastorage-system", "job": "datastorage"}
"""What Prometheus adds to the series of one installation."""
STALE: Final = "stale"

Values = Mapping[str, str]
"""The values of series in promtool's notation, by the names of the series."""


@dataclass(frozen=True)
class Phases:
    """How many samples a story has before, during and after its fault. The first one is at 0."""

    before: int
    during: int
    after: int

    def counter(self, before: float, during: float, after: float | None = None) -> str:
        """Return the values of a counter that has grown by so much at each sample, since the one before."""
        steps = (before, during, before if after is None else after)
        counts = (self.before, self.during, self.after)
        grown = [step for count, step in zip(counts, steps, strict=True) for _ in range(count)]
        return " ".join(f"{value:g}" for value in accumulate(grown))

    def gauge(self, before: float, during: float | str, after: float | None = None) -> str:
        """Return the values of a gauge."""
        levels = (before, during, before if after is None else after)
        counts = (self.before, self.during, self.after)
        return " ".join(
            " ".join([f"{level:g}" if isinstance(level, float | int) else level] * count)
            for level, count in zip(levels, counts, strict=True)
        )


def series(name: str, *, pod: str = "a", own: Mapping[str, str] = OWN, **labels: str) -> str:
    """Return the name of a series of one replica."""
    given = {**own, "pod": pod, **labels}
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in given.items()) + "}"


def input_series(values: Values) -> list[dict[str, str]]:
    """Return the series as a test file of promtool has them."""
    return [{"series": name, "values": text} for name, text in values.items()]


def merged(parts: Iterable[Values]) -> dict[str, str]:
    """Return the series of several parts, of which none may repeat another's."""
    found: dict[str, str] = {}
    for part in parts:
        assert not found.keys() & part.keys()
        found.update(part)
    return found
