"""Times on the command line: points in time, and how long ago."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.cli.times import duration, parse_time
from datastorage.errors import InvalidQueryError

NOW = datetime(2026, 3, 5, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", "2026-03-05T08:30:00+00:00"),
        ("24h", "2026-03-04T10:00:00+00:00"),
        ("7d", "2026-02-26T10:00:00+00:00"),
        ("2w", "2026-02-19T10:00:00+00:00"),
        ("30s", "2026-03-05T09:59:30+00:00"),
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-03-01T12:00:00", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01T12:00:00+02:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T12:00:00.25Z", "2026-03-01T12:00:00.250000+00:00"),
    ],
)
def test_times(text: str, expected: str) -> None:
    assert parse_time("--since", text, NOW).isoformat() == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-5m", "5", "m", "1.5h", "999999999w", "2026-13-01",
             "0001-01-01T00:00+14:00", "٣d"],
)  # fmt: skip
def test_a_malformed_time_names_the_option(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="--since must be a time"):
        parse_time("--since", text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        time = parse_time("--until", text, NOW)
    except InvalidQueryError:
        return
    assert time.tzinfo is UTC


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3, "0s"), (0, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m"), (61.5, "1m1s"), (3595, "59m"),
        (7200, "2h"), (7260, "2h1m"), (7201, "2h"), (36_060, "10h"), (86_400, "1d"), (93_780, "1d2h"),
        (315_360_000, "3650d"),
    ],
)  # fmt: skip
def test_a_duration_is_short(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
