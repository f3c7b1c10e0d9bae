"""The problems of an object, each with the place that it is about."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_PROBLEMS: Final = 100
"""Problems in one answer. An object may have thousands, and nobody reads more."""

_MAX_NAME: Final = 320  # characters; the longest valid key of a label has 317


class Code(StrEnum):
    """The kinds of problems. Clients may rely on these words."""

    REQUIRED = "required"
    UNKNOWN_FIELD = "unknown_field"
    WRONG_TYPE = "wrong_type"
    NOT_ALLOWED = "not_allowed"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOO_MANY = "too_many"
    TOO_LARGE = "too_large"
    OUT_OF_RANGE = "out_of_range"
    BAD_FORMAT = "bad_format"
    RULE_BROKEN = "rule_broken"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One reason why an object is refused.

    ``pointer`` is the JSON pointer (RFC 6901) of the field, ``detail`` says in a sentence what is wrong.
    """

    pointer: str
    detail: str
    code: Code


class TooManyProblemsError(Exception):
    """No more problems are collected."""


class Problems(list[FieldProblem]):
    """Collects problems, up to a limit that keeps hostile objects from filling the memory."""

    def add(self, pointer: str, detail: str, code: Code) -> None:
        """Add a problem.

        Raises TooManyProblemsError when the list is then full: the search is to end there.
        """
        self.append(FieldProblem(pointer, detail, code))
        if len(self) >= MAX_PROBLEMS:
            raise TooManyProblemsError

    def wrong_type(self, pointer: str, wanted: str, value: object) -> None:
        """Add that a value has another type than the wanted one."""
        self.add(pointer, f"must be {wanted}, not {_described(value)}", Code.WRONG_TYPE)

    def unknown(self, pointer: str, name: str) -> None:
        """Add that the object at a pointer has a field that is not in the schema."""
        self.add(f"{pointer}/{escaped(name)}", "there is no such field", Code.UNKNOWN_FIELD)


def escaped(name: str) -> str:
    """Return a field's name as a step of a JSON pointer, cut if it is far longer than any of ours."""
    shown = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
    return shown.replace("~", "~0").replace("/", "~1")


def _described(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"
