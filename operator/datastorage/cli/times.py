"""Times as a person types them: a point in time, or how long ago it was."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from datastorage.errors import InvalidQueryError

_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_time(option: str, text: str, now: datetime) -> datetime:
    """Return the time that an option names. Raises InvalidQueryError, which names the option."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidQueryError(
            f"{option} must be a time, such as 2026-03-05T10:00:00Z or 2026-03-05, or how long ago it was, "
            f"such as 90m, 24h or 7d; not {text[:50]!r}"
        ) from None
