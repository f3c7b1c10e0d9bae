"""Usual measures of search: how good a ranking is, by the labels, and how sure the mean of a measure is.

A ranking is the ids that a search returned, the best first. Labels are grades by id; an id without a label
counts as not relevant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

RESAMPLES: Final = 10_000
"""Resamples behind an interval. With another seed, the third digit of its ends may change."""
_SEED: Final = 1993


class Interval(NamedTuple):
    """The ends of a confidence interval, both within it."""

    low: float
    high: float


def ndcg_at(k: int, ranking: Sequence[str], relevant: Mapping[str, int]) -> float:
    """Return how near the first `k` results are to the best possible order, from 0 to 1.

    Discounted cumulated gain, divided by that of the ideal ranking: Järvelin and Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002. The gain is the grade itself; the discount
    is log2(rank + 1), the form that is usual today: the paper's own, log2(rank) from the second rank on,
    would make the first two ranks worth the same.

    Raises ValueError for a `k` below 1, an id that is ranked twice, and labels that are empty or below 1.
    """
    _check(k, ranking, relevant)
    ideal = sorted(relevant.values(), reverse=True)[:k]
    return _gain(relevant.get(found, 0) for found in ranking[:k]) / _gain(ideal)


def graded_recall_at(k: int, ranking: Sequence[str], relevant: Mapping[str, int]) -> float:
    """Return the share of the grades that is among the first `k` results: an id of grade 2 counts as two of
    grade 1.

    This is the generalised recall of Kekäläinen and Järvelin, "Using graded relevance assessments in IR
    evaluation", JASIST 53(13), 2002, with the grades as its relevance scores.

    Raises ValueError for a `k` below 1, an id that is ranked twice, and labels that are empty or below 1.
    """
    _check(k, ranking, relevant)
    return sum(relevant.get(found, 0) for found in ranking[:k]) / sum(relevant.values())


def interval_of_mean(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the bootstrap confidence interval of the mean of the values, by the percentile method.

    The values are drawn anew, with replacement, RESAMPLES times; the interval is the middle part of the means
    of these draws (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). The seed is
    fixed, so the same values give the same interval. It tells how much the choice of questions matters, and
    nothing about faults that the questions have in common. Of fewer than ten values it is too narrow.

    Raises ValueError when there are no values, and for a confidence that is not between 0 and 1.
    """
    if not values:
        raise ValueError("at least one value is needed")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    draws = np.random.default_rng(_SEED).choice(np.asarray(values, dtype=float), (RESAMPLES, len(values)))
    low, high = np.quantile(draws.mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _gain(grades: Iterable[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def _check(k: int, ranking: Sequence[str], relevant: Mapping[str, int]) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if len(set(ranking)) != len(ranking):
        raise ValueError("an id occurs twice in the ranking: it would be counted twice")
    if not relevant or min(relevant.values()) < 1:
        raise ValueError("at least one label is needed, and each must have a grade of at least 1")
