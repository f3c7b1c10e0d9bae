"""How values of the panels become marks on a picture: scales, words beside them, gaps and stretches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from typing import Final

from harness.dashboard.model import Limit, Unit

Values = Sequence[tuple[float, float]]
"""Times, in seconds since 1970, with what is shown at them."""
_GAP: Final = 1.5
"""More steps than this between two values are a time without values."""
_ROOM: Final = 1.3
"""For words above the lines."""
_FAR: Final = 4.0
"""A limit so many times higher than all values would press them down to the bottom."""
_LEAST: Final = 1e-3
"""The end of a scale whose values are all 0."""
_MEBIBYTE: Final = 2.0**20


@dataclass(frozen=True)
class Stretch:
    """A time in which a value stayed the same; times in seconds since 1970."""

    begin: float
    end: float
    value: float


def words(unit: Unit, value: float) -> str:
    """Return a value as it stands beside the scale of a panel."""
    if unit is Unit.SHARE:
        return f"{100 * value:g}%"
    if unit is Unit.BYTES:
        return f"{value / _MEBIBYTE:.0f} MiB"
    if unit is Unit.SECONDS:
        return f"{1000 * value:g} ms" if 0 < value < 1 else f"{value:g} s"
    return f"{value:g}"


def top(highest: float, limits: Sequence[Limit]) -> float:
    """Return where the scale of a panel ends: above its values, and above each limit that is not far away."""
    near = [limit.value for limit in limits if limit.value <= _FAR * highest]
    return _ROOM * max([highest, _LEAST, *near])


def beyond(end: float, limits: Sequence[Limit]) -> list[Limit]:
    """Return the limits that a scale with this end does not reach."""
    return [limit for limit in limits if limit.value > end]


def with_gaps(values: Values, step: float) -> list[tuple[float, float]]:
    """Return the values with something that is not a number wherever some are missing."""
    found = list(values[:1])
    for (before, _), (moment, value) in pairwise(values):
        if moment - before > _GAP * step:
            found.append((before + step, nan))
        found.append((moment, value))
    return found


def stretches(values: Values, step: float) -> Iterator[Stretch]:
    """Yield the times in which the value stayed the same, without those in which there was none."""
    begin: float | None = None
    for (moment, value), (following, next_value) in pairwise([*values, (float("inf"), nan)]):
        begin = moment if begin is None else begin
        if following - moment > _GAP * step:
            yield Stretch(begin, moment + step, value)
            begin = None
        elif next_value != value:
            yield Stretch(begin, following, value)
            begin = None
