"""Times as records carry them: RFC 3339 texts, some of which mean that there is no time.

Go writes the zero of its time.Time, 0001-01-01T00:00:00Z, for a time that was never set: "omitempty" does not
leave it out. Every reader of a record's times asks here, so that none takes it for an event of the year 1.
The evidence keeps the text as it came.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

# The calendar repeats after this many years. Moved by them, Go's zero has neighbours that can be compared.
_CYCLE_YEARS: Final = 400
_GO_ZERO: Final = datetime(1 + _CYCLE_YEARS, 1, 1, tzinfo=UTC)
# Go cuts the seconds off the offsets of that year: in a local zone its zero is written up to a minute off.
_PRECISION: Final = timedelta(minutes=1)


def is_given(value: object) -> bool:
    """Tell whether a field holds a time at all: it is neither absent, nor empty, nor Go's zero."""
    return bool(value) and not (isinstance(value, str) and _is_go_zero(value))


def time_of(value: object) -> datetime | None:
    """Return the time, in UTC; None when there is none, or none that the calendar here has.

    Valid RFC 3339 without a date here: leap seconds, the year 0, and what an offset shifts out of the years 1
    to 9999. A time without a zone is refused rather than guessed.
    """
    if not isinstance(value, str) or not is_given(value):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def time_in(parent: Mapping[str, Any], field: str) -> datetime | None:
    """Return the time in a field, as ``time_of`` does."""
    return time_of(parent.get(field))


# All records of a batch were stored at the same time.
@lru_cache(maxsize=64)
def rfc3339(time: datetime, timespec: str = "auto") -> str:
    """Return a time in UTC as the API server writes it; ``timespec`` is that of datetime.isoformat."""
    return time.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _is_go_zero(text: str) -> bool:
    # West of Greenwich it is still the year 0, which the calendar here lacks.
    if not text.startswith(("0000-12-31", "0001-01-01")):
        return False
    try:
        moved = datetime.fromisoformat(f"{int(text[:4]) + _CYCLE_YEARS:04}{text[4:]}")
    except ValueError:
        return False
    return moved.tzinfo is not None and abs(moved - _GO_ZERO) < _PRECISION
