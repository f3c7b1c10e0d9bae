"""Times as a person types and reads them: a point in time, how long ago it was, how long it lasts."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from datastorage.errors import InvalidQueryError

_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

# A duration shows its largest unit, and the next one only below this many of the largest.
_COARSE: Final = 10


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


def duration(seconds: float) -> str:
    """Return a duration as kubectl prints it, such as 59m, 2h or 3d4h; "0s" for one that is over."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    units = [(day, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    while len(units) > 1 and not units[0][0]:
        units.pop(0)
    (first, unit), *following = units
    rest = "".join(f"{value}{name}" for value, name in following[:1] if value and first < _COARSE)
    return f"{first}{unit}{rest}"
