"""Chooses a constant of the search by its figures, and says what to expect of the choice.

What is best on some questions is so by chance in part, and its figure on them is too good. So the questions
are divided into folds. For each fold, the setting is chosen that is best on all other questions, and is
measured on those of the fold, which had no part in the choice. The mean of these measures is what to expect
of a choice made in this way (cross-validation: Stone, "Cross-validatory choice and assessment of statistical
predictions", JRSS B 36, 1974).
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Setting = TypeVar("Setting")

FOLDS: Final = 8


@dataclass(frozen=True)
class Choice(Generic[Setting]):
    """The best setting, and what the questions say about choosing it."""

    best: Setting
    """The best one on all questions."""
    of_folds: Counter[Setting]
    """In how many folds each setting was chosen."""
    held_out: Sequence[float]
    """The figure of each question with the setting that was chosen without it."""


def choose(figures: Mapping[Setting, Sequence[float]], folds: int = FOLDS) -> Choice[Setting]:
    """Choose among settings by the figures of the same questions, in the same order, with each of them.

    Neighbours in that order, which may be about the same, are in different folds. Among equals the first
    setting is chosen. Raises ValueError when there are fewer questions than folds, or fewer than two folds.
    """
    questions = len(next(iter(figures.values())))
    if not 2 <= folds <= questions:
        raise ValueError(f"{folds} folds of {questions} questions: there must be at least two, none empty")
    chosen = [
        _best(figures, (question for question in range(questions) if question % folds != fold))
        for fold in range(folds)
    ]
    held_out = [figures[chosen[question % folds]][question] for question in range(questions)]
    return Choice(_best(figures, range(questions)), Counter(chosen), held_out)


def _best(figures: Mapping[Setting, Sequence[float]], questions: Iterable[int]) -> Setting:
    among = list(questions)
    return max(figures, key=lambda setting: statistics.fmean(figures[setting][each] for each in among))
