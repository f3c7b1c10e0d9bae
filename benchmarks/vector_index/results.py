"""What was measured, as it comes in, and as tables and JSON at the end."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from benchmarks.progress import say
from benchmarks.vector_index.server import Usage, load_average

Value: TypeAlias = float | int | str | None
_PIPED_WIDTH: Final = 190


@dataclass(frozen=True)
class Measurement:
    """One line of a table."""

    section: str
    rows: int
    case: str
    values: dict[str, Value]


@dataclass
class Results:
    """Everything that was measured so far."""

    measurements: list[Measurement] = field(default_factory=list)

    def add(self, section: str, rows: int, case: str, values: dict[str, Value]) -> None:
        """Keep a line, and show it at once: a run is long."""
        values = {name: _rounded(value) for name, value in values.items()} | {"load": load_average()}
        self.measurements.append(Measurement(section, rows, case, values))
        say(f"  {section} | {case} | " + ", ".join(f"{name} {value}" for name, value in values.items()))

    def print_tables(self, heading: str) -> None:
        """Print a table for each section and size."""
        piped = not sys.stdout.isatty()
        console = Console(width=_PIPED_WIDTH if piped else None, no_color=piped, highlight=False)
        console.print(heading)
        for section, rows in dict.fromkeys((each.section, each.rows) for each in self.measurements):
            lines = [each for each in self.measurements if (each.section, each.rows) == (section, rows)]
            console.print(_table(f"{section}, {rows:,} rows", lines))

    def as_json(self, about: dict[str, Any]) -> str:
        """Return everything as one JSON object."""
        return json.dumps(about | {"measurements": [asdict(each) for each in self.measurements]}, indent=2)


def spent(usage: Usage, rows: int) -> dict[str, Value]:
    """Return a step's cost by row."""
    return {
        "rows/s": rows / usage.seconds,
        "CPU ms/row": 1000 * usage.cpu_seconds / rows,
        "WAL KB/row": usage.wal_bytes / 1000 / rows,
        "others": usage.others,
    }


def _rounded(value: Value) -> Value:
    if not isinstance(value, float):
        return value
    return round(value, 3 if abs(value) < 10 else 1)


def _table(title: str, lines: Iterable[Measurement]) -> Table:
    lines = list(lines)
    names = list(dict.fromkeys(name for line in lines for name in line.values))
    table = Table(Column("case", no_wrap=True), *names, title=title, title_justify="left", box=SIMPLE_HEAD)
    for line in lines:
        values = (line.values.get(name) for name in names)
        table.add_row(line.case, *("" if value is None else str(value) for value in values))
    return table
