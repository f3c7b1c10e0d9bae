"""Reads JSON from the bytes of a request, as strictly as the API server does, and with the same result.

It refuses bytes that are not UTF-8 (the API server replaces them), text that is not JSON, a field that an
object has twice, numbers beyond a float of 64 bits, and too many bytes or levels, which are counted before
anything is built. It accepts NUL characters, as the API server does; PostgreSQL's text can't hold them, see
`storable` in resources/reading/fields.py. An unpaired surrogate becomes U+FFFD, an integer beyond 64 bits
becomes a float.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from datastorage.errors import BodyTooLargeError, InvalidBodyError


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of a body."""

    max_bytes: int = 3 * 1024 * 1024
    """Bytes. The API server accepts requests of this size."""
    max_depth: int = 10_000
    """Levels of arrays and objects. The API server accepts this depth."""
    max_containers: int = 100_000
    """Arrays and objects. A record has some tens; building more than this takes over 50 ms, and nothing else
    runs meanwhile."""


_INT64: Final = 2**63
_DIGITS_THAT_FIT: Final = 18  # every number of this many digits has less than 64 bits

_SPACE: Final = b" \t\r\n"
_LINE: Final = re.compile(rb"[ \t\r\n]*([^\n]+)")
_BLOCK_BYTES: Final = 256 * 1024
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
# Every escape is matched, so that a backslash that is itself escaped never begins one.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)
_LONE_ESCAPE_LENGTH: Final = 6
_SHOWN: Final = 40  # characters of a value or name in an error


class _Refused:
    """Stands in the tree in the place of a value that is refused, so that its pointer can be found."""

    def __init__(self, detail: str) -> None:
        self.detail = detail


def parsed(data: bytes, limits: BodyLimits = BodyLimits()) -> Any:
    """Return the value of a JSON text.

    Raises BodyTooLargeError and InvalidBodyError.
    """
    if len(data) > limits.max_bytes:
        raise BodyTooLargeError(f"the body has {len(data)} bytes, at most {limits.max_bytes} are accepted")
    _check_containers(data, limits)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidBodyError(f"the text is not UTF-8 at byte {error.start}", position=error.start) from None
    if _SURROGATE.search(text):
        text = _ESCAPE.sub(_with_pairs_only, text)
    reader = _Reader()
    try:
        value = reader.decode(text)
    except json.JSONDecodeError as error:
        position = len(text[: error.pos].encode())
        detail = f"the text is not JSON at byte {position}: {error.msg}"
        raise InvalidBodyError(detail, position=position) from None
    except RecursionError:
        raise InvalidBodyError("the JSON is nested deeper than this program can read") from None
    if reader.has_refused:
        raise _refusal(value)
    return value


def lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines of an NDJSON body that hold a value, each for ``parsed``."""
    for line in _LINE.finditer(data.strip(_SPACE)):
        yield line[1].rstrip(_SPACE)


def array_items(data: bytes, most: int) -> list[bytes] | None:
    """Divide a JSON array into the bytes of its items, each for ``parsed``; None for any other text.

    This takes some milliseconds for each megabyte, and builds nothing. After ``most`` items the rest is
    returned as a single one. Raises InvalidBodyError for an array that does not end where the text does.
    """
    text = data.strip(_SPACE)
    if not text.startswith(b"["):
        return None
    places: list[int] = []
    for start, outside, depth, block in _blocks(text):
        # At depth 0 the array has ended; at depth 1 a comma divides its items.
        ends = (depth == 0).nonzero()[0]
        if ends.size and start + int(ends[0]) < len(text) - 1:
            raise InvalidBodyError("the text is not JSON: there is more after the array")
        places += (start + ((block == ord(",")) & outside & (depth == 1)).nonzero()[0][: most + 1]).tolist()
        if len(places) >= most:
            break
    else:
        if not ends.size or not text.endswith(b"]"):
            raise InvalidBodyError("the text is not JSON: the array does not end")
    bounds = [0, *places[:most], len(text) - 1]
    items = [text[start + 1 : end] for start, end in pairwise(bounds)]
    return [] if len(items) == 1 and not items[0].strip(_SPACE) else items


def _check_containers(data: bytes, limits: BodyLimits) -> None:
    """Raise InvalidBodyError for too many levels, arrays and objects, before any of them is built."""
    if data.count(b"[") + data.count(b"{") <= min(limits.max_depth, limits.max_containers):
        return
    containers = 0
    # Up to the first mistake in the text, where the parser ends, this counts brackets as the parser does.
    for _, outside, depth, block in _blocks(data):
        containers += int((((block == ord("[")) | (block == ord("{"))) & outside).sum())
        if int(depth.max()) > limits.max_depth:
            raise InvalidBodyError(f"the JSON is nested more than {limits.max_depth} levels deep")
        if containers > limits.max_containers:
            raise InvalidBodyError(f"the JSON has more than {limits.max_containers:,} arrays and objects")


def _blocks(data: bytes) -> Iterator[tuple[int, Any, Any, Any]]:
    """Yield blocks of a JSON text: where one begins, which bytes are outside of strings, depths, bytes."""
    # Only hostile and very large bodies come here, so the library is loaded when the first one does.
    import numpy as np  # noqa: PLC0415

    change = np.zeros(256, np.int8)
    change[[ord("["), ord("{")]] = 1
    change[[ord("]"), ord("}")]] = -1
    # A backslash that is itself escaped escapes nothing, so those go first. No byte changes its place.
    text = np.frombuffer(data.replace(rb"\\", b"__").replace(rb"\"", b"__"), np.uint8)
    quotes, level = 0, 0
    for start in range(0, len(text), _BLOCK_BYTES):
        block = text[start : start + _BLOCK_BYTES]
        seen = np.cumsum(block == ord('"'), dtype=np.int32) + quotes
        outside = seen & 1 == 0
        depth = np.cumsum(change[block] * outside, dtype=np.int32) + level
        quotes, level = int(seen[-1]) & 1, int(depth[-1])
        yield start, outside, depth, block


def _with_pairs_only(escape: re.Match[str]) -> str:
    return r"\ufffd" if len(escape[0]) == _LONE_ESCAPE_LENGTH else escape[0]


class _Reader:
    """One reading of a text. Values that are refused become markers in the tree."""

    def __init__(self) -> None:
        self.has_refused = False
        self.decode = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=self._constant,
        ).decode

    def _refuse(self, detail: str) -> Any:
        self.has_refused = True
        return _Refused(detail)

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        for name, _ in pairs:
            if name not in found:
                return self._refuse(f"has the field {name[:_SHOWN]!r} more than once")
            del found[name]
        raise AssertionError("no field is there twice")

    def _integer(self, text: str) -> Any:
        if len(text) <= _DIGITS_THAT_FIT:
            return int(text)
        number = self._float(text)
        # The float decides only whether the integer may be read: that takes too long for very many digits.
        if (
            isinstance(number, float)
            and -2.0 * _INT64 < number < 2.0 * _INT64
            and -_INT64 <= int(text) < _INT64
        ):
            return int(text)
        return number

    def _float(self, text: str) -> Any:
        number = float(text)
        return (
            self._refuse(f"is a number that is too large: {text[:_SHOWN]}") if math.isinf(number) else number
        )

    def _constant(self, text: str) -> Any:
        return self._refuse(f"is {text}, which JSON does not have")


def _refusal(value: Any) -> InvalidBodyError:
    """Return the error for the first refused value in a tree, which has one."""
    steps: list[str] = []
    branches = [iter([("", value)])]
    # Open branches instead of recursion, and one pointer at the end: the tree may be very deep and very wide.
    while branches:
        for step, item in branches[-1]:
            if isinstance(item, _Refused):
                pointer = "".join([*steps, f"/{step}"])[1:]
                return InvalidBodyError(
                    f"the value at {pointer or 'the root'} {item.detail}", pointer=pointer
                )
            if isinstance(item, dict | list):
                steps.append(f"/{step}")
                branches.append(_members(item))
                break
        else:
            branches.pop()
            del steps[len(branches) - 1 :]
    raise AssertionError("no value is refused")


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((name.replace("~", "~0").replace("/", "~1"), item) for name, item in value.items())
    return ((str(index), item) for index, item in enumerate(value))
