"""Which lines of a panel a picture names, and in how many columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.dashboard.answers import Line

LEFT = "and {} more"
"""What stands for the lines that are not named."""


@dataclass(frozen=True)
class Names:
    """The names of the first lines of a panel, and how many others there are."""

    shown: list[str]
    left: int
    columns: int


def highest(lines: Sequence[Line]) -> float:
    """Return the highest value of some lines, and at least 0."""
    return max((value for line in lines for _, value in line.values), default=0.0)


def highest_first(lines: Sequence[Line]) -> list[Line]:
    """Return the lines that have values, the highest first: what was at 0 all the time is the last."""
    return sorted((line for line in lines if line.values), key=lambda line: -highest([line]))


def in_legend(lines: Sequence[Line], *, width: float, letter: float, before: float, rows: int) -> Names:
    """Choose the names that have room; a line that was at 0 all the time is named only if all were.

    Each letter is as wide as ``letter``, and something that is ``before`` wide stands before each name.
    """
    named = [line.name for line in lines if highest([line]) > 0] or [line.name for line in lines]
    longest = max(map(len, [*named, LEFT]), default=0)
    columns = max(1, int(width / (longest * letter + before)))
    places = columns * rows
    shown = named if len(named) <= places and len(named) == len(lines) else named[: places - 1]
    return Names(shown, len(lines) - len(shown), columns)
