"""Collects the texts of a whole spec that a search by words finds it by, besides those of its main fields.

The values come before the names of fields, and each kind gives the order of its fields: what is collected is
bounded, so that the bound leaves out what matters least. The embedded text has none of it: a meaning of many
facts would be vague (see phrases.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from datastorage.resources.reading.fields import Spec, mapping_in

MAX_CHARACTERS: Final = 16_384
"""The most that is collected of a spec. Few specs have more, and an index of it would cost every write."""
_MAX_DEPTH: Final = 32
"""Levels of nesting that are read. The API server accepts 10,000, and a call of a function takes stack."""
# Numbers with more digits stand for nothing that a person asks for, and Python refuses to write the longest.
_MAX_BITS: Final = 256

# What is below a field with one of these names may be anything: its names and numbers are facts, too.
_FREE: Final = frozenset(
    ("details", "parameters", "labels", "annotations", "stateBefore", "stateAfter", "criteria")
)
# A time is asked for by --since and --until, and its digits would be found in place of other numbers.
_TIMES: Final = frozenset(("startTime", "endTime", "time", "firingTime", "assessedAt", "dueTime"))
# The names of the models' fields are in every record, so that they would tell none from another.
_NAMES: Final = frozenset(
    (
        "type", "action", "phase", "correlationID", "severity", "environment", "cluster", "actor", "kind",
        "name", "resourceRef", "apiVersion", "namespace", "uid", "alertFingerprint", "message",
        "errorMessage", "aiAnalysis", "analysisID", "provider", "model", "confidence", "tokensUsed",
        "durationMs", "workflow", "workflowID", "totalSteps", "completedSteps", "execution", "executionID",
        "success", "ttlSecondsAfterStored", "actionType", "targetRef", "alert", "fingerprint", "routingTier",
        "reasoning", "alternatives", "status", "error", "operations", "verb", "effectiveness", "score",
        "method", "notes", "followUps", "reason", "traceName", *_FREE, *_TIMES,
    )
)  # fmt: skip


def main_texts(spec: Spec, main: Mapping[str, Sequence[str]]) -> list[Any]:
    """Return the values of the fields in ``main``: of each, those with the names in it, or the whole if none.

    A value may be anything, and is None if the spec has none. Raises nothing.
    """
    found: list[Any] = []
    for field, names in main.items():
        if names:
            inner = mapping_in(spec, field)
            found += [inner.get(name) for name in names]
        else:
            found.append(spec.get(field))
    return found


def other_texts(spec: Spec, order: Sequence[str], main: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the texts of a spec: those of the fields in ``order``, of all others, then names of fields.

    What ``main_texts`` returns for ``main`` is left out. Raises nothing, whatever the spec holds.
    """
    walk = _Walk()
    for field in order:
        if field in spec:
            walk.field(field, spec[field], main.get(field))
    for field, value in spec.items():
        if field not in order:
            walk.field(field, value, main.get(field))
    return walk.texts()


class _Walk:
    """Collects texts until they are too long."""

    __slots__ = ("_left", "_names", "_values")

    def __init__(self) -> None:
        self._values: list[str] = []
        self._names: dict[str, None] = {}
        self._left = MAX_CHARACTERS

    def field(self, name: str, value: Any, without: Iterable[str] | None) -> None:
        """Collect the texts of a field of the spec, but none of those in ``without``."""
        if without is None:
            self._fields(((name, value),), 1)
        elif without and isinstance(value, dict):
            self._fields([member for member in value.items() if member[0] not in without], 2)

    def texts(self) -> list[str]:
        """Return the values, followed by the names."""
        for name in self._names:
            self._add(name)
        return self._values

    def _fields(self, members: Iterable[tuple[str, Any]], depth: int) -> None:
        """Collect the texts of members that a model describes, and of any others."""
        self._left -= 1  # a spec may have a great many values without a text
        if depth > _MAX_DEPTH or self._left <= 0:
            return
        nested = []
        for name, value in members:
            if not isinstance(value, str):
                nested.append((name, value))
            elif name not in _TIMES:
                self._add(value)
                if name not in _NAMES:
                    self._names[name] = None
        # These come last: long annotations must not displace a fingerprint.
        for name, value in nested:
            self._nested(name, value, depth)

    def _nested(self, name: str, value: Any, depth: int) -> None:
        if name not in _NAMES:
            self._names[name] = None
            self._free(value, depth)
        elif name in _FREE:
            self._free(value, depth)
        elif isinstance(value, dict):
            self._fields(value.items(), depth + 1)
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, dict):
                    self._fields(each.items(), depth + 2)
                elif isinstance(each, str):
                    self._add(each)

    def _free(self, value: Any, depth: int) -> None:
        """Collect the texts, numbers and names in a value of any kind."""
        if isinstance(value, str):
            self._add(value)
        elif isinstance(value, dict | list):
            self._left -= 1
            if depth >= _MAX_DEPTH or self._left <= 0:
                return
            if isinstance(value, dict):
                self._names |= dict.fromkeys(value)
                value = value.values()
            for below in value:
                self._free(below, depth + 1)
                if self._left <= 0:
                    return
        elif isinstance(value, float) or (type(value) is int and value.bit_length() <= _MAX_BITS):
            self._add(str(value))

    def _add(self, text: str) -> None:
        if self._left > 0:
            self._values.append(text[: self._left])
            self._left -= len(text) + 1
