"""Merges several rankings into one by reciprocal rank fusion.

Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods", SIGIR 2009. Scores of different searches can't be compared, but their ranks can.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, TypeVar

T = TypeVar("T", bound=Hashable)

# The higher this constant, the less the first ranks stand out. The paper's 60 is for lists of a thousand
# documents, and would let a hundred mediocre records that both searches found outvote the best of one.
FLATNESS: Final = 5


def fuse(
    rankings: Sequence[tuple[float, Sequence[tuple[T, float]]]], flatness: int = FLATNESS
) -> Mapping[T, float]:
    """Return the fused score of every item in the rankings.

    A ranking is a weight, and items with their scores, the best first. Items with equal scores share a rank:
    records of one text are equally good, and the tenth of them is not worse than the first.
    """
    fused: dict[T, float] = {}
    for weight, ranking in rankings:
        rank = 0
        last: float | None = None
        for item, score in ranking:
            if score != last:
                rank, last = rank + 1, score
            fused[item] = fused.get(item, 0.0) + weight / (flatness + rank)
    return fused
