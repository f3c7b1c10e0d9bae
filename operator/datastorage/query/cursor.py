"""Where a page ended, as a string that goes to a caller and comes back."""

import base64
import json
from datetime import UTC, datetime
from typing import Final

from datastorage.errors import InvalidQueryError
from datastorage.storage.queries import Position

_MAX_CHARACTERS: Final = 250
_MAX_NUMBER: Final = 2**63 - 1


def cursor_of(position: Position) -> str:
    """Return the cursor of a page that ended at this position."""
    values = [*(time.isoformat() for time in position.times), *position.numbers]
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode()


def position_of(cursor: str, *, times: int, numbers: int) -> Position:
    """Return where the page ended, with so many times and numbers as positions of its kind have.

    Raises InvalidQueryError for what is no cursor, or one of another question.
    """
    position = _decoded(cursor, times) if len(cursor) <= _MAX_CHARACTERS else None
    if position is None or len(position.times) != times or len(position.numbers) != numbers:
        raise InvalidQueryError("the cursor is not one that a page has given: begin without it")
    return position


def _decoded(cursor: str, times: int) -> Position | None:
    try:
        values = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        moments = tuple(datetime.fromisoformat(value) for value in values[:times])
        numbers = tuple(values[times:])
        if not all(type(number) is int and 0 <= number <= _MAX_NUMBER for number in numbers):
            return None
        if any(moment.tzinfo is None for moment in moments):
            return None
        return Position(tuple(moment.astimezone(UTC) for moment in moments), numbers)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
