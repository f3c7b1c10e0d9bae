"""Reads values from the fields of a spec, which may hold anything. Nothing here raises.

The columns are only an index: a value that does not fit is left out or cut. The content, which is the
evidence, keeps it unchanged.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from datastorage import metrics
from datastorage.records.times import is_given, time_of

Spec = Mapping[str, Any]

T = TypeVar("T")

MAX_INDEXED_CHARACTERS: Final = 512
"""Characters of a text in a column: a B-tree entry has 2,704 bytes at most, a character up to 4."""


def mapping_in(parent: Spec, field: str) -> Spec:
    """Return the object in a field, or an empty one."""
    value = parent.get(field)
    return value if isinstance(value, dict) else {}


def string_in(parent: Spec, field: str) -> str:
    """Return the text in a field, or an empty one."""
    value = parent.get(field)
    return value if isinstance(value, str) else ""


def number_in(parent: Spec, field: str) -> float | None:
    """Return the number in a field; None if there is none."""
    return _number(parent.get(field))


def truth_in(parent: Spec, field: str) -> bool | None:
    """Return the truth value in a field; None if there is none."""
    value = parent.get(field)
    return value if isinstance(value, bool) else None


def text(*path: str) -> Callable[[Spec], str | None]:
    """Return a function that reads a column's text at a path, cut to the length that an index can hold."""

    def convert(value: Any) -> str | None:
        return storable(value[:MAX_INDEXED_CHARACTERS]) if isinstance(value, str) else None

    return _reader(path, convert)


def time(*path: str) -> Callable[[Spec], datetime | None]:
    """Return a function that reads a column's time at a path, and counts times that do not fit."""
    misfits = metrics.VALIDATION_FAILURES.labels(path[-1], metrics.ClusterFault.TIME_OUT_OF_RANGE)

    def convert(value: Any) -> datetime | None:
        found = time_of(value)
        if found is None and is_given(value):
            misfits.inc()
        return found

    return _reader(path, convert)


def number(*path: str) -> Callable[[Spec], float | None]:
    """Return a function that reads a column's number at a path."""
    return _reader(path, _number)


def storable(value: str) -> str:
    """Return a text that PostgreSQL can hold, without NUL characters and unpaired surrogates."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None


def _reader(path: tuple[str, ...], convert: Callable[[Any], T]) -> Callable[[Spec], T]:
    # There is no loop over the path, because this runs some 20 times per record.
    if len(path) == 1:
        [field] = path
        return lambda spec: convert(spec.get(field))
    parent, field = path
    return lambda spec: convert(mapping_in(spec, parent).get(field))
