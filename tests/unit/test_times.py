"""Times in records: which texts are times, and which mean that there is no time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.records.times import is_given, time_in, time_of

UNSET = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00.000Z",
    "0001-01-01T00:00:00.000000000Z",
    "0001-01-01T00:00:00+00:00",
    "0001-01-01T02:00:00+02:00",
    "0000-12-31T19:00:00-05:00",
    # Go's zero in Berlin and New York, whose offsets of that year had seconds.
    "0001-01-01T00:53:28+00:53",
    "0000-12-31T19:03:58-04:56",
]


@pytest.mark.parametrize("text", UNSET)
def test_the_zero_of_go_is_no_time(text: str) -> None:
    assert not is_given(text)
    assert time_of(text) is None


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_is_no_time(nothing: str | None) -> None:
    assert not is_given(nothing)
    assert time_of(nothing) is None
    assert time_in({"at": nothing}, "at") is time_in({}, "at") is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:01:00Z", datetime(1, 1, 1, 0, 1, tzinfo=UTC)),
        ("0001-01-02T00:00:00Z", datetime(1, 1, 2, tzinfo=UTC)),
        ("2026-03-05T10:20:30.25+02:00", datetime(2026, 3, 5, 8, 20, 30, 250_000, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_others_are_times(text: str, time: datetime) -> None:
    assert is_given(text)
    assert time_of(text) == time
    assert time_in({"at": text}, "at") == time


@pytest.mark.parametrize(
    "text",
    ["2016-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "0000-12-31T00:00:00Z",
     "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00", "0001-01-01T25:00:00Z", "2026-01-01T00:00:00",
     "soon"],
)  # fmt: skip
def test_a_time_out_of_range_counts_as_given(text: str) -> None:
    assert is_given(text)
    assert time_of(text) is None


@given(st.one_of(st.text(), st.integers(), st.just({}), st.lists(st.text())))
def test_anything_is_a_time_or_none(value: object) -> None:
    time = time_of(value)
    assert time is None or time.utcoffset() == timedelta(0)
