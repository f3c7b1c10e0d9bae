"""A constant is chosen by figures of questions that do not measure the choice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search.choosing import choose

figures = st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=2, max_size=4)


def test_the_best_setting_is_chosen_everywhere_if_it_is_clear() -> None:
    choice = choose({1: [0.1, 0.2, 0.1, 0.2], 2: [0.8, 0.9, 0.8, 0.9]}, folds=2)
    assert (choice.best, choice.of_folds, choice.held_out) == (2, {2: 2}, [0.8, 0.9, 0.8, 0.9])


def test_what_one_question_likes_is_not_measured_by_that_question() -> None:
    """Setting "b" is best on the whole because of the first question alone."""
    choice = choose({"a": [0.0, 0.5, 0.5, 0.5], "b": [1.0, 0.4, 0.4, 0.4]}, folds=4)
    assert choice.best == "b"
    assert choice.of_folds == {"a": 1, "b": 3}
    assert choice.held_out == [0.0, 0.4, 0.4, 0.4]


@given(figures, st.integers(2, 6), st.integers(0, 5), st.floats(0, 1))
def test_a_fold_is_no_reason_for_its_own_choice(
    rows: list[list[float]], folds: int, question: int, other: float
) -> None:
    """With another figure for a question, others of its fold are measured with the same setting."""
    before = choose(dict(enumerate(rows)), folds).held_out
    changed = [[*row[:question], min(1.0, row[question] * other), *row[question + 1 :]] for row in rows]
    after = choose(dict(enumerate(changed)), folds).held_out
    same_fold = [each for each in range(6) if each % folds == question % folds and each != question]
    assert [after[each] for each in same_fold] == [before[each] for each in same_fold]


def test_equal_settings_keep_their_order() -> None:
    assert choose({"first": [0.5, 0.5], "second": [0.5, 0.5]}, folds=2).best == "first"


def test_folds_that_would_be_empty_are_refused() -> None:
    for folds in (1, 3):
        with pytest.raises(ValueError, match="folds of 2 questions"):
            choose({"a": [0.5, 0.5]}, folds)
