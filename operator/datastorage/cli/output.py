"""Prints answers: tables for people, JSON and YAML for programs."""

import io
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datastorage.errors import DataStorageError

_UNBOUNDED: Final = 10_000
# A narrower column would break sentences into single words.
_MIN_WIDTH_OF_LAST: Final = 30
# Levels of nesting that are shown indented, one below the other; each adds to the indentation.
_MAX_INDENTED: Final = 200


class Format(StrEnum):
    """Forms of a list. The wide table has the UIDs as well."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class LookFormat(StrEnum):
    """Forms of a look at something that changes."""

    TABLE = "table"
    JSON = "json"


class DocumentFormat(StrEnum):
    """Forms of one record."""

    YAML = "yaml"
    JSON = "json"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. Nothing is cut, and no name is broken.

    The last column continues in the next line where the terminal has room for that. Otherwise, and in a pipe,
    each row is one line, however long.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False)
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    unbroken = list(zip(columns, *cells, strict=True))[:-1]
    width = sum(2 + max(map(cell_len, column)) for column in unbroken)
    terminal = _terminal_width()
    fits = terminal is not None and width + _MIN_WIDTH_OF_LAST <= terminal
    printed = io.StringIO()
    Console(file=printed, width=terminal if fits else _UNBOUNDED, highlight=False).print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


def _terminal_width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_document(value: Any, form: Format | DocumentFormat | LookFormat) -> None:
    """Print one document. Characters that Unicode calls unprintable, which may steer a terminal, are escaped.

    Raises DataStorageError for one that is nested too deep for YAML.
    """
    deep = _depth(value) > _MAX_INDENTED
    if form == DocumentFormat.YAML:
        if deep:
            raise DataStorageError("this record is nested too deep for YAML: use -o json")
        from datastorage.cli.yamltext import as_yaml  # noqa: PLC0415  # tables and JSON do without its library

        text = as_yaml(value)
        escape = _yaml_escape
    else:
        text = json.dumps(value, indent=None if deep else 2, ensure_ascii=False) + "\n"
        escape = _json_escape
    sys.stdout.write("".join(char if char.isprintable() or char == "\n" else escape(char) for char in text))


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for node in level
            if isinstance(node, Mapping | list)
            for child in (node.values() if isinstance(node, Mapping) else node)
        ]
    return depth


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1]


def _yaml_escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08x}"


def note(text: str) -> None:
    """Print a line to standard error, apart from the answer."""
    sys.stderr.write(f"{printable(text)}\n")


def note_named(what: str, count: int, named: Sequence[str]) -> None:
    """Print to standard error how many there are, and the names of the first; nothing if there are none."""
    if not count:
        return
    note(f"{what}: {count:,}" + (f", of which the first {len(named)}:" if count > len(named) else ":"))
    for name in named:
        note(f"  {name}")


def printable(text: str) -> str:
    """Return a text that can't steer the terminal: anybody may have written a record."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
