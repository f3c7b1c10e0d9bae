"""Reads records from files: YAML of several documents, or JSON as one object, a list, an array or lines.

The values in a file are taken as kubectl and the server take them: a time is a text, and no field is there
twice.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from datastorage.errors import InvalidBodyError
from datastorage.records.jsonbody import array_items, parsed

_YAML_SUFFIXES: Final = (".yaml", ".yml")
_JSON_SUFFIXES: Final = (".json", ".ndjson", ".jsonl")
# Values of one document, counted wherever an alias repeats them: some lines of YAML can stand for billions.
_MOST_VALUES: Final = 200_000
_NOT_A_TEXT: Final = "tag:yaml.org,2002:"
_SPACE: Final = b" \t\r\n"
# An array in a file is divided into requests, so its number of items has no other limit than the file's size.
_ANY_NUMBER: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Document:
    """One value in a file."""

    place: str
    """Its place for people, such as ``records.yaml, document 3``."""
    value: Any = field(repr=False)


def documents_in(name: str, content: bytes) -> Iterator[Document]:
    """Yield the objects in a file; those of arrays and lists one by one.

    The ending of ``name`` says whether the file is YAML or JSON; otherwise the first character does. Raises
    InvalidBodyError, which names the file and the document.
    """
    is_json = content.lstrip(_SPACE)[:1] in {b"{", b"["}
    if name.endswith(_YAML_SUFFIXES):
        is_json = False
    elif name.endswith(_JSON_SUFFIXES):
        is_json = True
    for number, value in enumerate(_json(name, content) if is_json else _yaml(name, content), start=1):
        place = f"{name}, document {number}"
        if isinstance(value, list):
            yield from _items(place, value)
        elif isinstance(value, dict) and str(value.get("kind", "")).endswith("List"):
            items = value.get("items")
            if not isinstance(items, list):
                raise InvalidBodyError(f"{place}: a list must have items")
            yield from _items(place, items)
        elif value is not None:  # nothing between two lines of dashes
            yield Document(place, value)


def _items(place: str, items: list[Any]) -> Iterator[Document]:
    for number, item in enumerate(items, start=1):
        yield Document(f"{place}, item {number}", item)


def _json(name: str, content: bytes) -> Iterator[Any]:
    """Yield the values of a text with one JSON value or several, one after the other."""
    try:
        items = array_items(content, _ANY_NUMBER)
    except InvalidBodyError as error:
        raise InvalidBodyError(f"{name}: {error}") from None
    if items is not None:
        yield [_item(f"{name}, document 1, item {number}", item) for number, item in enumerate(items, 1)]
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidBodyError(f"{name}: the text is not UTF-8 at byte {error.start}") from None
    place, number, decoder = 0, 0, json.JSONDecoder()
    while (place := _past_space(text, place)) < len(text):
        number += 1
        try:
            _, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise InvalidBodyError(
                f"{name}, document {number}: not JSON in line {error.lineno}: {error.msg}"
            ) from None
        except RecursionError:
            raise InvalidBodyError(f"{name}, document {number}: it is nested too deep") from None
        yield _item(f"{name}, document {number}", text[place:end].encode("utf-8", "surrogatepass"))
        place = end


def _past_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _item(place: str, item: bytes) -> Any:
    try:
        return parsed(item)
    except InvalidBodyError as error:
        raise InvalidBodyError(f"{place}: {error}") from None


def _yaml(name: str, content: bytes) -> Iterator[Any]:
    number = 1
    try:
        for value in yaml.load_all(content, Loader=_Loader):
            yield _Plain(f"{name}, document {number}").of(value)
            number += 1
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise InvalidBodyError(
            f"{name}, document {number}: not YAML{line}: {error.problem or error.context or 'broken'}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidBodyError(f"{name}, document {number}: not YAML ({type(error).__name__})") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader, if there is one
    """Reads the values that JSON has, as kubectl does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001
        """Return a mapping. Raises ConstructorError for a key that is there twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the field {key.value[:40]!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


# PyYAML takes 12:30 for a number of minutes, and 2026-03-05 for a date.
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.removeprefix(_NOT_A_TEXT) not in {"timestamp", "int", "float"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_NOT_A_TEXT}int",
    re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    f"{_NOT_A_TEXT}float",
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+.0123456789"),
)


class _Plain:
    """Checks that a document of YAML has only what JSON has, and not too much of it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._values = 0

    def of(self, value: Any) -> Any:
        """Return the value without aliases. Raises InvalidBodyError."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise InvalidBodyError(f"{self._place}: it has more than {_MOST_VALUES:,} values")
        match value:
            case dict():
                return {self._key(key): self.of(item) for key, item in value.items()}
            case list():
                return [self.of(item) for item in value]
            case str() | bool() | int() | None:
                return value
            case float() if math.isfinite(value):
                return value
        raise InvalidBodyError(f"{self._place}: a value is no text, number, list or mapping that JSON has")

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise InvalidBodyError(
                f"{self._place}: the name of a field must be a text, not {key!r}: quote it"
            )
        return key
