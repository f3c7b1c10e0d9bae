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
from typing import Any, Final

from datastorage.errors import BodyTooLargeError, InvalidBodyError


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of a body."""

    max_bytes: int = 3 * 1024 * 1024
    """Bytes. The API server accepts requests of this size."""
    max_depth: int = 10_000
    """Levels of arrays and objects. The API server accepts this depth."""


_INT64: Final = 2**63
_DIGITS_THAT_FIT: Final = 18  # every number of this many digits has less than 64 bits

_ESCAPED_BYTE: Final = re.compile(rb"\\.", re.DOTALL)
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
    if _is_deeper(data, limits.max_depth):
        raise InvalidBodyError(f"the JSON is nested more than {limits.max_depth} levels deep")
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
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        line = data[start:end].strip(b" \t\r")
        if line:
            yield line
        start = end + 1


def _is_deeper(data: bytes, limit: int) -> bool:
    """Return whether the nesting goes deeper than a limit, in time that grows with the length alone."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    # Only hostile and very large bodies come here, so the library is loaded when the first one does.
    import numpy as np  # noqa: PLC0415

    # Up to the first mistake in the text, where the parser ends, this counts brackets as the parser does.
    text = np.frombuffer(_ESCAPED_BYTE.sub(b"", data), np.uint8)
    outside = np.cumsum(text == ord('"'), dtype=np.uint8) & 1 == 0
    change = np.zeros(256, np.int32)
    change[[ord("["), ord("{")]] = 1
    change[[ord("]"), ord("}")]] = -1
    return bool(np.cumsum(change[text] * outside, dtype=np.int32).max(initial=0) > limit)


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
