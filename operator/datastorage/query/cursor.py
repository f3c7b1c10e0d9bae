"""Cursors: the end of a page, as a string that a caller gets and sends back."""

import base64
import hashlib
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from datastorage.errors import InvalidQueryError
from datastorage.storage.pages import Position
from datastorage.storage.rejected import RejectedPosition

_MAX_CHARACTERS: Final = 250
# Not a secret: it keeps people from mixing up questions. The rights are checked for every page.
_FINGERPRINT_DIGITS: Final = 12
_MAX_NUMBER: Final = 2**63 - 1
# An export makes a cursor for each line. To make an encoder each time would take longer than the rest.
_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def fingerprint(*conditions: object) -> str:
    """Return a short hash of a question's conditions: a cursor is valid for the same question only."""
    return hashlib.sha256(repr(conditions).encode("utf-8", "replace")).hexdigest()[:_FINGERPRINT_DIGITS]


def cursor_of(position: Position, question: str) -> str:
    """Return the cursor of a page that ended at this position; ``question`` is the fingerprint."""
    return _encoded([question, *(time.isoformat() for time in position.times), *position.numbers])


def position_of(cursor: str, question: str, *, times: int, numbers: int) -> Position:
    """Return the position at which the page ended; it must have this many times and numbers.

    Raises InvalidQueryError for a text that is not a cursor, or a cursor of another question.
    """
    asked, *values = _values(cursor, 1 + times + numbers)
    if asked != question:
        raise InvalidQueryError(
            "the cursor belongs to another question: repeat its filters, or begin without it"
        )
    return Position(tuple(map(_time, values[:times])), tuple(map(_number, values[times:])))


def rejected_cursor(position: RejectedPosition) -> str:
    """Return the cursor of a page of rejected records that ended at this position."""
    return _encoded(
        [position.rejected_at.isoformat(), position.uid, position.generation, position.spec_hash.hex()]
    )


def rejected_position(cursor: str) -> RejectedPosition:
    """Return the position at which the page of rejected records ended.

    Raises InvalidQueryError for a text that is not a cursor, or a cursor of another question.
    """
    rejected_at, uid, generation, spec_hash = _values(cursor, 4)
    try:
        return RejectedPosition(
            _time(rejected_at), str(uuid.UUID(uid)), _number(generation), bytes.fromhex(spec_hash)
        )
    except (ValueError, TypeError, AttributeError):
        raise _not_a_cursor() from None


def _encoded(values: Sequence[str | int]) -> str:
    return base64.urlsafe_b64encode(_json(values).encode()).decode()


def _values(cursor: str, count: int) -> list[Any]:
    if len(cursor) > _MAX_CHARACTERS:
        raise _not_a_cursor()
    try:
        values = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise _not_a_cursor() from None
    if not isinstance(values, list) or len(values) != count:
        raise _not_a_cursor()
    return values


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    raise _not_a_cursor()


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:  # True is an int too
        raise _not_a_cursor()
    return value


def _not_a_cursor() -> InvalidQueryError:
    return InvalidQueryError("the cursor is not one that a page returned: begin without it")
