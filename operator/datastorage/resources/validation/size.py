"""The size that the API server's copy of an object would have, and its limit."""

from collections.abc import Mapping
from typing import Any, Final

from datastorage.records.canonical import canonical_bytes

MAX_OBJECT_BYTES: Final = 1536 * 1024 - 1024
"""Bytes of an object: etcd's limit of 1.5 MiB for a request, less room for what the API server adds.

It adds the uid, times, and the keys of the request. These depend on names, so this is not exact to the byte.
"""

_ESCAPED_IN_FIVE: Final = (b"<", b">", b"&")
_ESCAPED_IN_THREE: Final = ("\u2028".encode(), "\u2029".encode())
# No character grows more than from one byte to six, so that most objects need no exact count.
_GREATEST_GROWTH: Final = 6


def object_bytes(body: Mapping[str, Any]) -> int:
    """Return the size of an object in etcd, without what the API server adds to it.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    text = canonical_bytes(body)
    size = len(text)
    if size * _GREATEST_GROWTH <= MAX_OBJECT_BYTES:
        return size
    # Go's encoder writes these characters as escapes of six bytes.
    return (
        size
        + 5 * sum(text.count(character) for character in _ESCAPED_IN_FIVE)
        + 3 * sum(text.count(character) for character in _ESCAPED_IN_THREE)
    )
