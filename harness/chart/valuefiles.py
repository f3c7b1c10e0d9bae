"""Writes the list of values as values.yaml, as its schema, and as the table in the documentation."""

import json
from collections.abc import Sequence
from typing import Any, Final

import yaml

from harness.chart.values import Schema, Value

_WIDTH: Final = 100  # columns of a comment in values.yaml
_LONG_DEFAULT: Final = 60  # characters; the table does not show a longer default


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice in full."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # as in PyYAML
        return True


def values_yaml(values: Sequence[Value]) -> str:
    """Return values.yaml: each value with its meaning above it."""
    lines = ["# The values of the chart. README.md has the same list as a table.", ""]
    open_path: list[str] = []
    for value in values:
        *parents, name = value.path.split(".")
        shared = 0
        while shared < min(len(parents), len(open_path)) and parents[shared] == open_path[shared]:
            shared += 1
        if not shared and len(lines) > 2:
            lines.append("")
        lines += ["  " * depth + f"{parents[depth]}:" for depth in range(shared, len(parents))]
        open_path = parents
        indentation = "  " * len(parents)
        lines += [f"{indentation}# {line}" for line in _wrapped(value.meaning, _WIDTH - len(indentation))]
        dumped = yaml.dump({name: value.default}, Dumper=_Dumper, sort_keys=False, width=10**6)
        lines += [indentation + line for line in dumped.splitlines()]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def values_schema(values: Sequence[Value]) -> str:
    """Return values.schema.json, which refuses every value that is not in the list."""
    root: Schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "global": {"type": "object", "description": "Helm adds this to a chart inside another."}
        },
    }
    for value in values:
        *parents, name = value.path.split(".")
        node = root
        for parent in parents:
            empty: Schema = {"type": "object", "additionalProperties": False, "properties": {}}
            node = node["properties"].setdefault(parent, empty)
        node["properties"][name] = value.full_schema()
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def values_table(values: Sequence[Value]) -> str:
    """Return the values as a Markdown table."""
    lines = ["| Value | Default | Meaning |", "| --- | --- | --- |"]
    lines += [f"| `{value.path}` | {_shown(value.default)} | {value.meaning} |" for value in values]
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if default == "":
        return ""
    text = yaml.safe_dump(default, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"`{text}`" if len(text) <= _LONG_DEFAULT else "see `values.yaml`"
