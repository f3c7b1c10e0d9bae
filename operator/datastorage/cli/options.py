"""Checks of options that several commands have."""

import uuid
from typing import Final

from datastorage.errors import InvalidQueryError

_MOST_ROWS: Final = 1000


def parse_uid(option: str, text: str) -> str:
    """Return the UID that an option names. Raises InvalidQueryError, which names the option."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidQueryError(
            f"{option} must be the UID of an object, such as {uuid.UUID(int=0)}, not {text[:50]!r}"
        ) from None


def check_limit(limit: int) -> None:
    """Raise InvalidQueryError unless ``limit`` is a number of rows that fits into one answer."""
    if not 1 <= limit <= _MOST_ROWS:
        raise InvalidQueryError(f"--limit must be 1 to {_MOST_ROWS:,}")
