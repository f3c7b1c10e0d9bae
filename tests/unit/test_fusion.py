"""Reciprocal rank fusion: its arithmetic and its properties."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.query.fusion import fuse

_RANKINGS = st.lists(
    st.tuples(
        st.floats(0.1, 10),
        st.dictionaries(st.integers(0, 20), st.floats(-10, 10)).map(
            lambda scores: sorted(scores.items(), key=lambda pair: -pair[1])
        ),
    ),
    max_size=3,
)


def test_the_sum_of_reciprocal_ranks() -> None:
    fused = fuse([(2.0, [("a", 0.9), ("b", 0.8)]), (1.0, [("b", 7.0), ("c", 5.0)])], flatness=10)
    assert fused == pytest.approx({"a": 2 / 11, "b": 2 / 12 + 1 / 11, "c": 1 / 12})


def test_equal_scores_share_a_rank() -> None:
    fused = fuse([(1.0, [("a", 0.9), ("b", 0.9), ("c", 0.1)])], flatness=10)
    assert fused["a"] == fused["b"] == pytest.approx(1 / 11)
    assert fused["c"] == pytest.approx(1 / 12)


def test_nothing_gives_nothing() -> None:
    assert fuse([]) == {}
    assert fuse([(1.0, [])]) == {}


@given(_RANKINGS)
def test_everything_found_is_in_it_once_and_no_more(
    rankings: list[tuple[float, list[tuple[int, float]]]],
) -> None:
    assert fuse(rankings).keys() == {thing for _, ranking in rankings for thing, _ in ranking}


@given(_RANKINGS)
def test_one_ranking_keeps_its_order(rankings: list[tuple[float, list[tuple[int, float]]]]) -> None:
    for weight, ranking in rankings:
        fused = fuse([(weight, ranking)])
        for (first, more), (second, less) in pairwise(ranking):
            assert fused[first] > fused[second] or more == less


@given(_RANKINGS)
def test_the_order_of_the_rankings_does_not_matter(
    rankings: list[tuple[float, list[tuple[int, float]]]],
) -> None:
    assert fuse(rankings) == pytest.approx(fuse(rankings[::-1]))
