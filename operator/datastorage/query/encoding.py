"""The one way in which values become the JSON of answers."""

import json
from typing import Any


def encoded(value: Any) -> bytes:
    """Return a value as JSON."""
    # Lone surrogates, which a record may contain, can't be encoded.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
