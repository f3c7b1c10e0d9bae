"""The measures of a ranking, against values worked out by hand."""

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search.measures import graded_recall_at, interval_of_mean, ndcg_at

Measure = Callable[[int, Sequence[str], Mapping[str, int]], float]

LABELS = {"a": 2, "b": 1, "c": 1}

each = pytest.mark.parametrize("measure", [ndcg_at, graded_recall_at])
scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def test_the_ideal_order_is_worth_one() -> None:
    assert ndcg_at(10, ["a", "b", "c", "x"], LABELS) == 1
    assert ndcg_at(10, ["a", "c", "b"], LABELS) == 1
    assert ndcg_at(2, ["a", "c", "x"], LABELS) == 1


def test_ndcg_by_hand() -> None:
    # Gains 0, 1, 0, 2 at the ranks 1 to 4: 1/log2(3) + 2/log2(5) = 0.63093 + 0.86135 = 1.49228.
    # Ideal 2, 1, 1: 2/log2(2) + 1/log2(3) + 1/log2(4) = 2 + 0.63093 + 0.5 = 3.13093.
    assert ndcg_at(10, ["x", "b", "y", "a"], LABELS) == pytest.approx(1.49228 / 3.13093, abs=1e-5)
    # Of the first three only b counts; the ideal is the same.
    assert ndcg_at(3, ["x", "b", "y", "a"], LABELS) == pytest.approx(0.63093 / 3.13093, abs=1e-5)
    # An ideal of two ranks has no room for the third label.
    assert ndcg_at(2, ["b", "c"], LABELS) == pytest.approx(1.63093 / 2.63093, abs=1e-5)


def test_the_first_rank_is_worth_more_than_the_second() -> None:
    assert ndcg_at(10, ["a", "x"], {"a": 1}) == 1
    assert ndcg_at(10, ["x", "a"], {"a": 1}) == pytest.approx(1 / math.log2(3))


def test_graded_recall_by_hand() -> None:
    # The grades 2, 1, 1 are 4 in all.
    assert graded_recall_at(10, ["x", "b", "y", "a"], LABELS) == 3 / 4
    assert graded_recall_at(3, ["x", "b", "y", "a"], LABELS) == 1 / 4
    assert graded_recall_at(10, ["c", "a", "b"], LABELS) == 1
    assert graded_recall_at(1, ["a"], LABELS) == 2 / 4


@given(
    ranking=st.lists(st.sampled_from("abcdefgh"), unique=True),
    labelled=st.sets(st.sampled_from("abcdefgh"), min_size=1),
    grade=st.integers(1, 2),
    k=st.integers(1, 10),
)
def test_with_equal_grades_it_is_the_share_of_what_was_found(
    ranking: list[str], labelled: set[str], grade: int, k: int
) -> None:
    found = labelled & set(ranking[:k])
    labels = dict.fromkeys(labelled, grade)
    assert graded_recall_at(k, ranking, labels) == pytest.approx(len(found) / len(labelled))


def test_interval_by_hand() -> None:
    # Of 0 and 1, two draws have the mean 0, 0.5 or 1, with the chances 1/4, 1/2, 1/4.
    assert interval_of_mean([0, 1]) == (0, 1)
    assert interval_of_mean([0, 1], confidence=0.4) == (0.5, 0.5)
    # Ten draws of one 1 and nine 0 are binomial. The chance of no 1 is 0.349; of up to two 0.930, of up to
    # three 0.987.
    assert interval_of_mean([1] + [0] * 9) == pytest.approx((0, 0.3))


def test_interval_of_many_values_is_near_that_of_the_normal_distribution() -> None:
    # 0 to 99: the mean is 49.5, and its standard error sqrt((100**2 - 1) / 12) / sqrt(100) = 2.8866.
    low, high = interval_of_mean(range(100))
    assert low == pytest.approx(49.5 - 1.96 * 2.8866, abs=0.3)
    assert high == pytest.approx(49.5 + 1.96 * 2.8866, abs=0.3)


@given(values=scores)
def test_interval_is_within_the_values_and_repeatable(values: list[float]) -> None:
    low, high = interval_of_mean(values)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert interval_of_mean(values) == (low, high)


@given(values=scores)
def test_more_confidence_makes_a_wider_interval(values: list[float]) -> None:
    narrow, wide = interval_of_mean(values, 0.8), interval_of_mean(values, 0.99)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interval_of_mean([])
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval_of_mean([0.5], confidence)


@each
def test_nothing_found_is_worth_nothing(measure: Measure) -> None:
    assert measure(10, [], LABELS) == 0
    assert measure(10, ["x", "y"], LABELS) == 0


@each
def test_input_that_cannot_be_measured_is_refused(measure: Measure) -> None:
    for k, ranking, labels in (
        (0, ["a"], LABELS),
        (10, ["a", "a"], LABELS),
        (10, ["a"], {}),
        (10, [], {"a": 0}),
    ):
        with pytest.raises(ValueError, match=r"must be|must have|occurs twice"):
            measure(k, ranking, labels)


@each
@given(
    ranking=st.lists(st.sampled_from("abcdefgh"), unique=True),
    labels=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 2), min_size=1),
    k=st.integers(1, 10),
)
def test_from_0_to_1_and_the_tail_does_not_matter(
    measure: Measure, ranking: list[str], labels: dict[str, int], k: int
) -> None:
    value = measure(k, ranking, labels)
    assert 0 <= value <= 1 + 1e-12
    assert measure(k, ranking[:k], labels) == value
