"""Checks of options that several commands have."""

import uuid

from datastorage.errors import InvalidQueryError


def parse_uid(option: str, text: str) -> str:
    """Return the UID that an option names. Raises InvalidQueryError, which names the option."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidQueryError(
            f"{option} must be the UID of an object, such as {uuid.UUID(int=0)}, not {text[:50]!r}"
        ) from None
