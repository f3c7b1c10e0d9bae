"""The form of an export's lines, as far as its readers have to know it (see query/export.py)."""

import json
from typing import Final

from datastorage.records.hashes import labelled

END_KIND: Final = "ExportEnd"
"""The ``kind`` of the last line."""
RECORD_MEMBER: Final = b',"record":'
"""The stored bytes follow, up to the closing brace of the line."""


def end_line(count: int, digest: bytes, *, position: int, token: str) -> bytes:
    """Return the last line of an export; ``digest`` is the SHA-256 of all bytes before it."""
    values = {
        "kind": END_KIND,
        "count": count,
        "linesHash": labelled(digest),
        "position": position,
        "resumeToken": token,
    }
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"
