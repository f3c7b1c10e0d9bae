"""Values in the fields of a spec, whatever somebody has put there. Nothing here raises.

The columns are only an index: a value that has no exact form there is left out or cut. The evidence, the
content, keeps it as it came.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from datastorage import metrics
from datastorage.records.times import is_given, time_in

Spec = Mapping[str, Any]

MAX_INDEXED_CHARACTERS: Final = 512
"""Characters of a text in a column: an entry of a B-tree has 2,704 bytes at most, a character up to 4."""


def mapping_in(parent: Spec, field: str) -> Spec:
    """Return the object in a field; an empty one where there is none."""
    value = parent.get(field)
    return value if isinstance(value, Mapping) else {}


def string_in(parent: Spec, field: str) -> str:
    """Return the text in a field; an empty one where there is none."""
    value = parent.get(field)
    return value if isinstance(value, str) else ""


def text(*path: str) -> Callable[[Spec], str | None]:
    """Return what reads a column's text at a path, cut to what an index can hold."""
    *parents, field = path

    def read(spec: Spec) -> str | None:
        value = _parent(spec, parents).get(field)
        return storable(value[:MAX_INDEXED_CHARACTERS]) if isinstance(value, str) else None

    return read


def time(*path: str) -> Callable[[Spec], datetime | None]:
    """Return what reads a column's time at a path; it counts the times that no column holds."""
    *parents, field = path

    def read(spec: Spec) -> datetime | None:
        parent = _parent(spec, parents)
        value = time_in(parent, field)
        if value is None and is_given(parent.get(field)):
            metrics.VALIDATION_FAILURES.labels(field, "time_out_of_range").inc()
        return value

    return read


def number(*path: str) -> Callable[[Spec], float | None]:
    """Return what reads a column's number at a path."""
    *parents, field = path

    def read(spec: Spec) -> float | None:
        value = _parent(spec, parents).get(field)
        return float(value) if isinstance(value, int | float) else None

    return read


def storable(value: str) -> str:
    """Return a text as PostgreSQL can hold it: it has no NUL character, and UTF-8 no unpaired surrogates."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _parent(spec: Spec, parents: list[str]) -> Spec:
    for field in parents:
        spec = mapping_in(spec, field)
    return spec
