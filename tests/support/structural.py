"""A small validator of structural schemas; CEL rules are tested on a real API server."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def violations(schema: Mapping[str, Any], value: Any, path: str = "$") -> Iterator[str]:
    """Yield everything about `value` that `schema` does not allow, unknown fields included."""
    expected = schema.get("type")
    if expected is None:
        return
    if not isinstance(value, _TYPES[expected]) or (isinstance(value, bool) and expected != "boolean"):
        yield f"{path}: {value!r} is no {expected}"
        return
    yield from (f"{path}: {problem}" for problem in _scalar_violations(schema, value))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(schema["items"], item, f"{path}[{index}]")
    if isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        yield from _object_violations(schema, value, path)


def _scalar_violations(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{value!r} is none of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{value!r} does not match {schema['pattern']}"
        if schema.get("format") == "date-time":
            datetime.fromisoformat(value)
    if not isinstance(value, (bool, int, float)):
        size = len(value)
        for low, high in (
            ("minLength", "maxLength"),
            ("minItems", "maxItems"),
            ("minProperties", "maxProperties"),
        ):
            if not schema.get(low, 0) <= size <= schema.get(high, size):
                yield f"size {size} is out of bounds"
    elif not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{value} is out of bounds"


def _object_violations(schema: Mapping[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name} is missing"
    for name, item in value.items():
        sub = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
        if sub is None:
            yield f"{path}.{name} is unknown"
        else:
            yield from violations(sub, item, f"{path}.{name}")
