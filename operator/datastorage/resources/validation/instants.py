"""Times as Go reads them: with nanoseconds and from the year 0 on. Python's datetime has neither."""

import re
from datetime import date
from typing import Final

_NANOSECONDS: Final = 1_000_000_000
# The calendar repeats after this many years, which have this many days.
_CYCLE_YEARS: Final = 400
_CYCLE_DAYS: Final = 146_097

_TIME_OF_DAY: Final = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:.[0-9]+)?(?:z|[+-][0-9]{2}:[0-9]{2})")
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
# Go also reads an hour of one digit, a fraction after a comma, and an offset of up to 24:60.
_GO_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]+))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)


def has_date_time_format(text: str) -> bool:
    """Return whether the API server accepts a text as the format date-time of a schema.

    This is wider than RFC 3339: the fraction may follow any character, offsets have no limit, and text after
    another "t" is not read.
    """
    parts = text.lower().split("t")
    if len(parts) < 2 or _day_of(parts[0]) is None:
        return False
    found = _TIME_OF_DAY.fullmatch(parts[1])
    return found is not None and found[1] <= "23" and found[2] <= "59" and found[3] <= "59"


def nanoseconds_of(text: str) -> int | None:
    """Return the nanoseconds of a time since the day before the year 1; None if Go can't read the text."""
    found = _GO_TIME.fullmatch(text)
    if found is None:
        return None
    day = _day_of(found[1])
    hour, minute, second = int(found[2]), int(found[3]), int(found[4])
    offset_hour, offset_minute = int(found[7] or 0), int(found[8] or 0)
    if day is None or hour > 23 or minute > 59 or second > 59 or offset_hour > 24 or offset_minute > 60:
        return None
    offset = offset_hour * 60 + offset_minute
    minutes = (day * 24 + hour) * 60 + minute - (-offset if found[6] == "-" else offset)
    fraction = int((found[5] or "0")[:9].ljust(9, "0"))
    return (minutes * 60 + second) * _NANOSECONDS + fraction


def _day_of(text: str) -> int | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    try:
        if year == 0:
            return date(_CYCLE_YEARS, month, day).toordinal() - _CYCLE_DAYS
        return date(year, month, day).toordinal()
    except ValueError:
        return None
