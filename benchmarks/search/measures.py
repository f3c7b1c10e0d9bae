"""Two usual measures of search: how good a ranking is, by the labels.

A ranking is the ids that a search returned, the best first. Labels are grades by id; an id without a label
counts as not relevant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence


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


def recall_at(k: int, ranking: Sequence[str], relevant: Mapping[str, int]) -> float:
    """Return the share of the relevant ids, whatever their grade, that is among the first `k` results.

    With more than `k` relevant ids it can't reach 1 (Manning, Raghavan and Schütze, "Introduction to
    Information Retrieval", 2008, section 8.4).

    Raises ValueError for a `k` below 1, an id that is ranked twice, and labels that are empty or below 1.
    """
    _check(k, ranking, relevant)
    return len(relevant.keys() & set(ranking[:k])) / len(relevant)


def _gain(grades: Iterable[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def _check(k: int, ranking: Sequence[str], relevant: Mapping[str, int]) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if len(set(ranking)) != len(ranking):
        raise ValueError("an id occurs twice in the ranking: it would be counted twice")
    if not relevant or min(relevant.values()) < 1:
        raise ValueError("at least one label is needed, and each must have a grade of at least 1")
