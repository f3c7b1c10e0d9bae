"""How answers are printed: tables for people, JSON and YAML for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe has no width: each row is one line.
_PIPED_WIDTH: Final = 10_000
_MIN_WIDTH_OF_NAMES: Final = 16


class Format(StrEnum):
    """Of lists. The wide table has the UIDs as well."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class DocumentFormat(StrEnum):
    """Of one record."""

    YAML = "yaml"
    JSON = "json"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. What does not fit into the terminal goes on in the next line; nothing is cut."""
    table = Table(box=None, pad_edge=False)
    for column in columns[:-1]:
        table.add_column(column, overflow="fold", min_width=min(len(column), _MIN_WIDTH_OF_NAMES))
    # No least width: where the terminal is narrower, words would be cut from the middle of a sentence.
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False).print(table)


def print_document(value: Any, form: Format | DocumentFormat) -> None:
    """Print one document. Characters that can't be seen, or can steer a terminal, are escaped."""
    if form == DocumentFormat.YAML:
        text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        escape = _yaml_escape
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        escape = _json_escape
    sys.stdout.write("".join(each if each.isprintable() or each == "\n" else escape(each) for each in text))


class _Dumper(yaml.SafeDumper):
    """Puts every text that needs escapes into the quotes that understand them."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = all(character.isprintable() or character == "\n" for character in text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _quoted)


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1]


def _yaml_escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08x}"


def note(text: str) -> None:
    """Say something beside the answer."""
    sys.stderr.write(f"{printable(text)}\n")


def printable(text: str) -> str:
    """Return a text that can't steer the terminal: what a record says comes from anybody."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
