"""The measures of a ranking, against values worked out by hand."""

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search.measures import ndcg_at, recall_at

Measure = Callable[[int, Sequence[str], Mapping[str, int]], float]

LABELS = {"a": 2, "b": 1, "c": 1}

either = pytest.mark.parametrize("measure", [ndcg_at, recall_at])


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


def test_recall_by_hand() -> None:
    assert recall_at(10, ["x", "b", "y", "a"], LABELS) == pytest.approx(2 / 3)
    assert recall_at(2, ["x", "b", "y", "a"], LABELS) == pytest.approx(1 / 3)
    assert recall_at(10, ["c", "a", "b"], LABELS) == 1
    assert recall_at(2, ["a", "b"], LABELS) == pytest.approx(2 / 3)


@either
def test_nothing_found_is_worth_nothing(measure: Measure) -> None:
    assert measure(10, [], LABELS) == 0
    assert measure(10, ["x", "y"], LABELS) == 0


@either
def test_input_that_cannot_be_measured_is_refused(measure: Measure) -> None:
    for k, ranking, labels in (
        (0, ["a"], LABELS),
        (10, ["a", "a"], LABELS),
        (10, ["a"], {}),
        (10, [], {"a": 0}),
    ):
        with pytest.raises(ValueError, match=r"must be|must have|occurs twice"):
            measure(k, ranking, labels)


@either
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
