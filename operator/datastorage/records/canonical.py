r"""Canonical JSON: the bytes that are kept as evidence.

One value has one byte string: object keys sorted by code point, no white space, UTF-8 without escapes
except where JSON demands them, integers of any size in full, floats in their shortest form that reads
back the same. An unpaired surrogate, which UTF-8 can't carry, is written as its ``\udXXX`` escape.
"""

import json
from typing import Any

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
