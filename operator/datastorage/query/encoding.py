"""The one way in which values become the JSON of requests and answers."""

import json
from typing import Any, Final

# json.dumps would make one for each value.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)


def encoded(value: Any) -> bytes:
    """Return a value as JSON."""
    # Lone surrogates, which a record may contain, can't be encoded.
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")
