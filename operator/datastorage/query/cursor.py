"""Where a page ended, as a string that goes to a caller and comes back."""

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Final

from datastorage.errors import InvalidQueryError
from datastorage.storage.records import RecordKey

_MAX_CHARACTERS: Final = 200
_MAX_GENERATION: Final = 2**63 - 1


def cursor_of(key: RecordKey) -> str:
    """Return the cursor of a page that ended with this record."""
    text = json.dumps([key.created_at.isoformat(), key.uid, key.generation], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def key_of(cursor: str) -> RecordKey:
    """Return where the page ended. Raises InvalidQueryError for what is no cursor."""
    key = _decoded(cursor) if len(cursor) <= _MAX_CHARACTERS else None
    if key is None or not 0 <= key.generation <= _MAX_GENERATION:
        raise InvalidQueryError("the cursor is not one that a page has given: begin without it")
    return key


def _decoded(cursor: str) -> RecordKey | None:
    try:
        created_at, uid, generation = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        time = datetime.fromisoformat(created_at)
        if time.tzinfo is None:
            return None
        return RecordKey(str(uuid.UUID(uid)), int(generation), time.astimezone(UTC), b"")
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
