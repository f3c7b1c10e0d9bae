"""Rates and quantiles of a replica: counters that begin again, and buckets against the values themselves."""

import math
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datastorage.errors import TransientError
from datastorage.metrics import LIMITS_HIT, STORED_SECONDS, WRITE_TOTAL, Limit, WriteStatus
from datastorage.records.record import Table
from datastorage.replicas.history import RECENT_SECONDS, History, Reading
from datastorage.replicas.page import Page, Series
from datastorage.replicas.quantiles import buckets_of, quantile
from tests.support.metricspages import bucket, counted, page

_TABLE: Final = Table.AUDIT_RECORDS
_BOUNDS: Final = (0.005, 0.1, 1.0, 5.0, math.inf)


def _stored(number: float, *, started: float = 1.0, status: WriteStatus = WriteStatus.SUCCESS) -> Page:
    return page(counted(WRITE_TOTAL, number, table=_TABLE, status=status), started=started)


def _history(*pages: Page, seconds: float = 2.0) -> History:
    history = History()
    for number, each in enumerate(pages):
        history = history.with_reading(Reading(100.0 + seconds * number, each))
    return history


def test_a_rate_needs_two_readings_and_counts_the_series_with_the_words() -> None:
    assert _history(_stored(5)).rate(WRITE_TOTAL) is None
    history = _history(_stored(5), _stored(11))
    assert history.rate(WRITE_TOTAL, WriteStatus.SUCCESS) == 3.0
    assert history.rate(WRITE_TOTAL, WriteStatus.FAILURE) == 0.0


def test_a_counter_that_has_begun_again_counts_from_zero() -> None:
    assert _history(_stored(500), _stored(4)).rate(WRITE_TOTAL) == 2.0


def test_a_process_that_has_started_again_and_overtaken_itself_counts_from_zero() -> None:
    assert _history(_stored(3), _stored(10, started=2.0)).rate(WRITE_TOTAL) == 5.0


def test_a_series_that_appears_later_counts_from_zero() -> None:
    assert _history(page(), _stored(6)).rate(WRITE_TOTAL) == 3.0


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=12))
def test_increases_add_up_to_what_was_seen(steps: list[tuple[int, bool]]) -> None:
    """Each step counts some events, in the same process or in a new one."""
    value, starts, pages, seen = 0, 0, [], 0
    for number, (events, is_new) in enumerate(steps):
        if is_new:
            starts += 1
        value = events if is_new else value + events
        seen += events if number else 0
        pages.append(page(counted(LIMITS_HIT, value, limit=Limit.RATE), started=float(starts)))
    history = _history(*pages)
    assert sum(history.recent(LIMITS_HIT).values()) == seen
    rate = history.rate(LIMITS_HIT)
    assert rate == steps[-1][0] / 2.0


def test_what_is_older_than_a_minute_counts_no_more() -> None:
    pages = [page(counted(LIMITS_HIT, 10.0 * number, limit=Limit.RATE)) for number in range(100)]
    history = _history(*pages)
    assert history.recent_seconds == RECENT_SECONDS
    assert sum(history.recent(LIMITS_HIT).values()) == 10.0 * RECENT_SECONDS / 2.0


def test_an_interval_longer_than_a_minute_still_counts() -> None:
    history = _history(_stored(0), page(counted(LIMITS_HIT, 7.0, limit=Limit.RATE)), seconds=90.0)
    assert (history.recent_seconds, sum(history.recent(LIMITS_HIT).values())) == (90.0, 7.0)


@given(
    st.lists(st.floats(0.0001, 4.9), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.95, 0.99]),
)
@example([0.0625, 0.0625, 0.0625, 1.0, 1.0, 1.0], 0.5)
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    counts = {bound: float(sum(value <= bound for value in values)) for bound in _BOUNDS}
    true = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    lower, upper = next((low, high) for low, high in pairwise((0.0, *_BOUNDS)) if low < true <= high)
    found = quantile(counts, share)
    assert found is not None
    assert lower <= found <= upper


def test_a_quantile_is_interpolated_and_ends_at_the_last_finite_bound() -> None:
    assert quantile({1.0: 0.0, 2.0: 10.0, math.inf: 10.0}, 0.95) == pytest.approx(1.95)
    assert quantile({1.0: 0.0, 2.0: 0.0, math.inf: 3.0}, 0.95) == 2.0
    assert quantile({1.0: 0.0, math.inf: 0.0}, 0.95) is None
    assert quantile({}, 0.95) is None


def test_quantiles_are_over_the_last_minute_and_all_replicas() -> None:
    def observed(*numbers: int) -> Page:
        lines = zip(_BOUNDS, accumulate(numbers), strict=True)
        return page(*(bucket(STORED_SECONDS, bound, number) for bound, number in lines))

    quick = _history(observed(0, 0, 0, 0, 0), observed(90, 0, 0, 0, 0))
    slow = _history(observed(0, 0, 0, 900, 0), observed(0, 0, 0, 910, 0))
    buckets = buckets_of([quick.recent(STORED_SECONDS), slow.recent(STORED_SECONDS)])
    assert buckets == {0.005: 90.0, 0.1: 90.0, 1.0: 90.0, 5.0: 100.0, math.inf: 100.0}
    assert quantile(buckets, 0.95) == pytest.approx(3.0)


def test_only_bounds_that_all_versions_have_are_added() -> None:
    old: Series = {(("le", "1.0"),): 1.0, (("le", "+Inf"),): 2.0}
    new: Series = {(("le", "0.5"),): 1.0, (("le", "1.0"),): 4.0, (("le", "+Inf"),): 4.0}
    assert buckets_of([old, new, {}]) == {1.0: 5.0, math.inf: 6.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<html>502</html>", "no page of metrics"),
        ("", "no metrics of Data Storage"),
        ("go_goroutines 7\n", "no metrics of Data Storage"),
        ('a{b="c"', "no page of metrics"),
        ("a b c d e\n", "no page of metrics"),
    ],
)
def test_another_page_is_refused(text: str, why: str) -> None:
    with pytest.raises(TransientError, match=why):
        Page.parsed(text)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    with suppress(TransientError):
        Page.parsed(text)


def test_values_that_are_no_numbers_are_left_out() -> None:
    strange = page(counted(LIMITS_HIT, math.nan, limit=Limit.RATE), started=math.inf)
    assert (strange.values(LIMITS_HIT), strange.started) == ([], None)
    assert page(started=1e300).started is None
