"""Values in the fields of a spec, which may hold anything. Nothing here raises.

The columns are only an index: a value that has no exact form there is left out or cut. The evidence, the
content, keeps it as it came.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from datastorage import metrics
from datastorage.records.times import is_given, time_of

Spec = Mapping[str, Any]

T = TypeVar("T")

MAX_INDEXED_CHARACTERS: Final = 512
"""Characters of a text in a column: an entry of a B-tree has 2,704 bytes at most, a character up to 4."""


def mapping_in(parent: Spec, field: str) -> Spec:
    """Return the object in a field; an empty one where there is none."""
    value = parent.get(field)
    return value if isinstance(value, dict) else {}


def string_in(parent: Spec, field: str) -> str:
    """Return the text in a field; an empty one where there is none."""
    value = parent.get(field)
    return value if isinstance(value, str) else ""


def text(*path: str) -> Callable[[Spec], str | None]:
    """Return what reads a column's text at a path, cut to what an index can hold."""

    def convert(value: Any) -> str | None:
        return storable(value[:MAX_INDEXED_CHARACTERS]) if isinstance(value, str) else None

    return _reader(path, convert)


def time(*path: str) -> Callable[[Spec], datetime | None]:
    """Return what reads a column's time at a path; it counts the times that no column holds."""

    def convert(value: Any) -> datetime | None:
        found = time_of(value)
        if found is None and is_given(value):
            metrics.VALIDATION_FAILURES.labels(path[-1], "time_out_of_range").inc()
        return found

    return _reader(path, convert)


def number(*path: str) -> Callable[[Spec], float | None]:
    """Return what reads a column's number at a path."""

    def convert(value: Any) -> float | None:
        return float(value) if isinstance(value, int | float) else None

    return _reader(path, convert)


def storable(value: str) -> str:
    """Return a text as PostgreSQL can hold it: it has no NUL character, and UTF-8 no unpaired surrogates."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _reader(path: tuple[str, ...], convert: Callable[[Any], T]) -> Callable[[Spec], T]:
    # Without a loop over the path: this runs some 20 times a record.
    if len(path) == 1:
        [field] = path
        return lambda spec: convert(spec.get(field))
    parent, field = path
    return lambda spec: convert(mapping_in(spec, parent).get(field))
