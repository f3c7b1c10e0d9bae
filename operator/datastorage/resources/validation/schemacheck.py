"""Checks values against a structural schema, exactly as the API server does when it creates an object.

A schema is compiled once into nested functions. A keyword that they don't know is an error at that time, so
that no bound of a new field can be passed over. Where the API server differs from what JSON Schema says, a
comment says so.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from datastorage.resources.validation.celrules import Rule, creation_rules
from datastorage.resources.validation.instants import has_date_time_format
from datastorage.resources.validation.problems import Code, Problems, escaped

Schema = Mapping[str, Any]

_FORMAT_LIMIT: Final = {"int32": 2**31, "int64": 2**63}
# Up to this size a number with a fraction or an exponent counts as an integer if its value is one.
_GREATEST_WHOLE_FLOAT: Final = 2**53 - 1

_UNCHECKED: Final = frozenset({"description", "x-kubernetes-map-type", "x-kubernetes-validations"})
_KEYWORDS: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset(
        {"required", "properties", "additionalProperties", "maxProperties"}
        | {"x-kubernetes-preserve-unknown-fields"}
    ),
    "array": frozenset({"items", "maxItems", "x-kubernetes-list-type"}),
    "string": frozenset({"enum", "format", "pattern", "minLength", "maxLength"}),
    "integer": frozenset({"format", "minimum", "maximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "boolean": frozenset(),
    "any": frozenset({"x-kubernetes-preserve-unknown-fields"}),
}


@dataclass(slots=True)
class Findings:
    """The result of a check: problems, and the rules that are to be evaluated if there are none."""

    problems: Problems = field(default_factory=Problems)
    rules: list[tuple[Rule, Any, str]] = field(default_factory=list)


Check = Callable[[Any, str, Findings], Any]
"""Checks a value at a JSON pointer. Returns the value as the API server keeps it: without nulls that mean
nothing."""


@dataclass(frozen=True, slots=True)
class _Field:
    check: Check
    step: str
    nullable: bool


def compiled(schema: Schema) -> Check:
    """Compile a structural schema.

    Raises NotImplementedError if it has a keyword, type or CEL rule that can't be checked here.
    """
    kind = schema.get("type", "any")
    unknown = schema.keys() - _KEYWORDS[kind] - _UNCHECKED - {"type", "nullable"}
    if unknown or schema.get("x-kubernetes-list-type", "atomic") != "atomic":
        raise NotImplementedError(f"keywords of a schema that can't be checked: {unknown or schema}")
    check = _with_rules(_compilers[kind](schema), creation_rules(schema))
    return _nullable(check) if schema.get("nullable") else check


def _nullable(check: Check) -> Check:
    return lambda value, pointer, found: None if value is None else check(value, pointer, found)


def _with_rules(check: Check, rules: Sequence[Rule]) -> Check:
    if not rules:
        return check

    def check_and_keep(value: Any, pointer: str, found: Findings) -> Any:
        kept = check(value, pointer, found)
        found.rules.extend((rule, kept, pointer) for rule in rules)
        return kept

    return check_and_keep


def _any_check(schema: Schema) -> Check:
    if not schema.get("x-kubernetes-preserve-unknown-fields"):
        raise NotImplementedError(f"a schema without a type can't be checked: {schema}")
    return lambda value, _pointer, _found: value


def _object_check(schema: Schema) -> Check:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        if "properties" in schema:
            raise NotImplementedError(f"an object of known and unknown fields can't be checked: {schema}")
        return _free_object
    if "additionalProperties" in schema:
        return _map_check(schema)
    fields = {
        name: _Field(compiled(sub), f"/{escaped(name)}", bool(sub.get("nullable")))
        for name, sub in schema.get("properties", {}).items()
    }
    required = schema.get("required", ())

    def check(value: Any, pointer: str, found: Findings) -> Any:
        if not isinstance(value, dict):
            found.problems.wrong_type(pointer, "an object", value)
            return value
        kept = {}
        for name, item in value.items():
            known = fields.get(name)
            if known is None:
                found.problems.unknown(pointer, name)
            elif item is not None or known.nullable:  # any other null counts as left out
                kept[name] = known.check(item, pointer + known.step, found)
        for name in required:
            if name not in kept:
                found.problems.add(f"{pointer}/{escaped(name)}", "must be given", Code.REQUIRED)
        return kept

    return check


def _free_object(value: Any, pointer: str, found: Findings) -> Any:
    if not isinstance(value, dict):
        found.problems.wrong_type(pointer, "an object", value)
    return value


def _map_check(schema: Schema) -> Check:
    sub: Schema = schema["additionalProperties"]
    each, nullable, most = compiled(sub), bool(sub.get("nullable")), schema.get("maxProperties")

    def check(value: Any, pointer: str, found: Findings) -> Any:
        if not isinstance(value, dict):
            found.problems.wrong_type(pointer, "an object", value)
            return value
        kept = {name: item for name, item in value.items() if item is not None or nullable}
        if most is not None and len(kept) > most:
            found.problems.add(pointer, f"must have at most {most} entries", Code.TOO_MANY)
            return value
        return {name: each(item, f"{pointer}/{escaped(name)}", found) for name, item in kept.items()}

    return check


def _array_check(schema: Schema) -> Check:
    each, most = compiled(schema["items"]), schema.get("maxItems")

    def check(value: Any, pointer: str, found: Findings) -> Any:
        if not isinstance(value, list):
            found.problems.wrong_type(pointer, "an array", value)
            return value
        if most is not None and len(value) > most:
            found.problems.add(pointer, f"must have at most {most} items", Code.TOO_MANY)
            return value
        return [each(item, f"{pointer}/{index}", found) for index, item in enumerate(value)]

    return check


def _string_check(schema: Schema) -> Check:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    allowed = schema.get("enum")
    timed = _is_timed(schema)
    # Go's `$` is the end of the text alone; that of Python is also before a last line break.
    matches = re.compile(re.sub(r"\$$", r"\\Z", schema.get("pattern", "")), re.ASCII).search

    def check(value: Any, pointer: str, found: Findings) -> Any:
        if not isinstance(value, str):
            if timed and isinstance(value, list):
                # The API server has no type check for an array in the place of a time: it keeps the array.
                _add_unknown(value, None, pointer, found.problems)
                return value
            found.problems.wrong_type(pointer, "a string", value)
        elif allowed is not None and value not in allowed:
            found.problems.add(pointer, f"must be one of {', '.join(allowed)}", Code.NOT_ALLOWED)
        elif len(value) < least:
            found.problems.add(pointer, f"must have at least {least} characters", Code.TOO_SHORT)
        elif most is not None and len(value) > most:
            found.problems.add(pointer, f"must have at most {most} characters", Code.TOO_LONG)
        elif timed and not (matches(value) and has_date_time_format(value)):
            found.problems.add(pointer, "must be a time such as 2026-03-01T10:00:00Z", Code.BAD_FORMAT)
        elif not matches(value):
            found.problems.add(pointer, f"must match the pattern {schema['pattern']}", Code.BAD_FORMAT)
        return value

    return check


def _is_timed(schema: Schema) -> bool:
    if "format" not in schema:
        return False
    if schema["format"] != "date-time":
        raise NotImplementedError(f"the format of a string that can't be checked: {schema['format']}")
    return True


def _number_check(schema: Schema) -> Check:
    whole = schema["type"] == "integer"
    wanted = "an integer" if whole else "a number"
    limit = _FORMAT_LIMIT[schema.get("format", "int64")]
    lowest, highest = schema.get("minimum"), schema.get("maximum")

    def check(value: Any, pointer: str, found: Findings) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            found.problems.wrong_type(pointer, wanted, value)
        elif whole and not _is_whole(value):
            found.problems.add(
                pointer, "must be an integer; a float may be one up to 2^53 - 1", Code.WRONG_TYPE
            )
        elif whole and not -limit <= value < limit:
            found.problems.add(pointer, f"must lie between {-limit} and {limit - 1}", Code.OUT_OF_RANGE)
        elif lowest is not None and value < lowest:
            found.problems.add(pointer, f"must be at least {lowest}", Code.OUT_OF_RANGE)
        elif highest is not None and value > highest:
            found.problems.add(pointer, f"must be at most {highest}", Code.OUT_OF_RANGE)
        return value

    return check


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or (value.is_integer() and abs(value) <= _GREATEST_WHOLE_FLOAT)


def _boolean_check(_: Schema) -> Check:
    def check(value: Any, pointer: str, found: Findings) -> Any:
        if not isinstance(value, bool):
            found.problems.wrong_type(pointer, "a boolean", value)
        return value

    return check


_compilers: Final[Mapping[str, Callable[[Schema], Check]]] = {
    "object": _object_check,
    "array": _array_check,
    "string": _string_check,
    "integer": _number_check,
    "number": _number_check,
    "boolean": _boolean_check,
    "any": _any_check,
}


def unknown_fields(schema: Schema, value: Any, pointer: str, problems: Problems) -> None:
    """Add the fields that a schema does not know, and nothing more.

    This is all that is asked of a status at creation: the API server drops it before it looks at its values.
    """
    _add_unknown(value, schema, pointer, problems)


def _add_unknown(value: Any, schema: Schema | None, pointer: str, problems: Problems) -> None:
    # Open branches instead of recursion, and a pointer only for a problem: a hostile value may be nested some
    # thousand levels deep and have a million members there.
    steps: list[str] = []
    branches = [iter([("", value, schema)])]
    while branches:
        for step, item, sub in branches[-1]:
            if isinstance(item, dict | list) and not (sub or {}).get("x-kubernetes-preserve-unknown-fields"):
                steps.append(f"/{step}" if len(branches) > 1 else "")
                for name in _unknown_names(item, sub or {}):
                    problems.unknown(pointer + "".join(steps), name)
                branches.append(_members(item, sub or {}))
                break
        else:
            branches.pop()
            del steps[len(branches) - 1 :]


def _unknown_names(value: Any, schema: Schema) -> Iterator[str]:
    if isinstance(value, dict) and "additionalProperties" not in schema:
        known = schema.get("properties", {})
        yield from (name for name in value if name not in known)


def _members(value: Any, schema: Schema) -> Iterator[tuple[str, Any, Schema | None]]:
    if isinstance(value, list):
        items = schema.get("items")
        yield from ((str(index), item, items) for index, item in enumerate(value))
        return
    others, known = schema.get("additionalProperties"), schema.get("properties", {})
    yield from (
        (escaped(name), item, known.get(name, others))
        for name, item in value.items()
        if name in known or others is not None
    )
