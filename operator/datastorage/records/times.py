"""Reads and writes times in records: RFC 3339 texts, some of which mean that there is no time.

Go writes the zero value of time.Time, 0001-01-01T00:00:00Z, for a time that was never set: "omitempty" does
not omit it. All code that reads a record's times uses this module, so that none takes it for an event in the
year 1. The evidence keeps the text unchanged.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

# The calendar repeats after this many years. Times near Go's zero are shifted by them, because Python can't
# compute with times before the year 1.
_CYCLE_YEARS: Final = 400
_GO_ZERO: Final = datetime(1 + _CYCLE_YEARS, 1, 1, tzinfo=UTC)
# Go drops the seconds of that year's zone offsets: in a local zone, its zero may be up to a minute off.
_PRECISION: Final = timedelta(minutes=1)


def is_given(value: object) -> bool:
    """Return whether a field holds a time, so that it is neither absent, nor empty, nor Go's zero."""
    return bool(value) and not (isinstance(value, str) and _is_go_zero(value))


def time_of(value: object) -> datetime | None:
    """Return the time in UTC; None if there is none, or none that Python can represent.

    Python can't represent leap seconds, the year 0, and times that an offset shifts out of the years 1 to
    9999. A time without a zone is None, since a guess may be wrong.
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


# The cache helps because all records of a batch have the same time of storing.
@lru_cache(maxsize=64)
def rfc3339(time: datetime, timespec: str = "auto") -> str:
    """Return a time in UTC in the API server's format; ``timespec`` is that of datetime.isoformat."""
    return time.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _is_go_zero(text: str) -> bool:
    # West of Greenwich it is still the year 0, which Python can't represent.
    if not text.startswith(("0000-12-31", "0001-01-01")):
        return False
    try:
        moved = datetime.fromisoformat(f"{int(text[:4]) + _CYCLE_YEARS:04}{text[4:]}")
    except ValueError:
        return False
    return moved.tzinfo is not None and abs(moved - _GO_ZERO) < _PRECISION
