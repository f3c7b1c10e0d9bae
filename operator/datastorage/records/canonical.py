r"""Canonical JSON: the bytes that are the evidence.

One value has one byte string: object keys sorted by code point, no white space, UTF-8 without escapes
except where JSON demands them, integers of any size in full, floats in their shortest form that reads
back the same. An unpaired surrogate, which UTF-8 can't carry, is written as its ``\udXXX`` escape.
"""

import hashlib
import json
import logging
import resource
import sys
from typing import Any, Final

_log = logging.getLogger(__name__)

# The API server takes JSON up to 10,000 levels deep, and one such object must not end the watch of all
# others, nor be unreadable in the archive: the parser needs this many levels and this much stack.
_DEEPEST_JSON: Final = 10_010
_RECURSION_LIMIT: Final = 60_000
_STACK_BYTES: Final = 100 * 1024 * 1024

_encode = json.JSONEncoder(
    sort_keys=True,
    separators=(",", ":"),
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,  # input is parsed JSON: a tree
).encode


def canonical_bytes(value: Any) -> bytes:
    """Return the canonical form of a JSON value.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    # In the encoder's output a lone surrogate can only stand inside a string, so that its
    # backslash escape is valid JSON and reads back as the same character.
    return _encode(value).encode("utf-8", "backslashreplace")


def sha256(content: bytes) -> bytes:
    """Return the SHA-256 digest (32 bytes) of canonical bytes."""
    return hashlib.sha256(content).digest()


def make_room_for_deep_json() -> None:
    """Give the main thread room for JSON as deep as the API server accepts. Call it before the loop runs."""
    sys.setrecursionlimit(_RECURSION_LIMIT)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    stack = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    try:
        canonical_bytes(json.loads("[" * _DEEPEST_JSON + "]" * _DEEPEST_JSON))
    except RecursionError:
        # Some versions of Python bound their parser by a constant that nothing here can raise.
        _log.warning(
            "This Python can't read JSON as deep as the API server accepts: an object nested that deep would "
            "end the watch of all others, and can't be shown. Python 3.11 can."
        )
