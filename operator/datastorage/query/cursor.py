"""Cursors: the end of a page, as a string that a caller gets and sends back.

A cursor has nothing but values of the page's last record: its key, its times, and the version that the
cluster has given it. The order of storing is a counter over the records of all namespaces, so it is looked up
again for the next page.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from datastorage.errors import InvalidQueryError
from datastorage.records.record import RecordKey, Table
from datastorage.storage.places import Place, Position
from datastorage.storage.rejected import RejectedPosition

_MAX_CHARACTERS: Final = 400
# Not a secret: it keeps people from mixing up questions. The rights are checked for every page.
_FINGERPRINT_DIGITS: Final = 12
_MAX_NUMBER: Final = 2**63 - 1
# An export makes a cursor for each line. To make an encoder each time would take longer than the rest.
_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def fingerprint(*conditions: object) -> str:
    """Return a short hash of a question's conditions: a cursor is valid for the same question only."""
    return hashlib.sha256(repr(conditions).encode("utf-8", "replace")).hexdigest()[:_FINGERPRINT_DIGITS]


@dataclass(frozen=True, slots=True)
class PageEnd:
    """The last row of a page, and its position without the order of storing."""

    place: Place
    times: tuple[datetime, ...]
    numbers: tuple[int, ...]

    def position(self, stored_order: int) -> Position:
        """Return the whole position, once the row's order of storing is known."""
        return Position(self.times, (*self.numbers, stored_order))


def cursor_of(place: Place, position: Position, question: str) -> str:
    """Return the cursor of a page that ended with this row; ``question`` is the fingerprint."""
    key = place.key
    return _encoded(
        [
            question, place.table, key.uid, key.generation, key.created_at.isoformat(), key.spec_hash.hex(),
            *(time.isoformat() for time in position.times), *position.numbers[:-1],
        ]
    )  # fmt: skip


def page_end(cursor: str, question: str, *, times: int, numbers: int) -> PageEnd:
    """Return the end of the page; its position must have this many times and numbers.

    Raises InvalidQueryError for a text that is not a cursor, or a cursor of another question.
    """
    asked, table, uid, generation, created_at, spec_hash, *rest = _values(cursor, 5 + times + numbers)
    if asked != question:
        raise InvalidQueryError(
            "the cursor belongs to another question: repeat its filters, or begin without it (over HTTP: "
            "without pageToken)"
        )
    try:
        key = RecordKey(str(uuid.UUID(uid)), _number(generation), _time(created_at), bytes.fromhex(spec_hash))
        place = Place(Table(table), key)
    except (ValueError, TypeError, AttributeError):
        raise not_a_cursor() from None
    return PageEnd(place, tuple(map(_time, rest[:times])), tuple(map(_number, rest[times:])))


def resume_token(position: int, question: str) -> str:
    """Return the token with which an export goes on after a position, a place in the order of storing.

    The position counts the records of all namespaces. The right to export includes knowing it: a key instead
    would be worthless once its row is deleted.
    """
    return _encoded([question, position])


def resumed_position(token: str, question: str) -> int:
    """Return the position after which an export goes on.

    Raises InvalidQueryError for a text that is not a token, or a token of an export with other conditions.
    """
    try:
        asked, position = _values(token, 2)
        if asked == question:
            return _number(position)
    except InvalidQueryError:
        pass
    raise InvalidQueryError(
        "the resume token is not one of an export with these conditions and rights: repeat the conditions of "
        "that export, or begin a new one without the token"
    )


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
        raise not_a_cursor() from None


def _encoded(values: Sequence[str | int]) -> str:
    return base64.urlsafe_b64encode(_json(values).encode()).decode()


def _values(cursor: str, count: int) -> list[Any]:
    if len(cursor) > _MAX_CHARACTERS:
        raise not_a_cursor()
    try:
        values = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise not_a_cursor() from None
    if not isinstance(values, list) or len(values) != count:
        raise not_a_cursor()
    return values


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    raise not_a_cursor()


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:  # True is an int too
        raise not_a_cursor()
    return value


def not_a_cursor() -> InvalidQueryError:
    """Return the error for a text that is no cursor, or that leads to no record of the caller."""
    return InvalidQueryError(
        "the cursor is not one that a page returned: begin without it (over HTTP: without pageToken)"
    )
