"""One ranking out of several: reciprocal rank fusion.

Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods", SIGIR 2009. Scores of different searches can't be compared, their ranks can.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, TypeVar

T = TypeVar("T", bound=Hashable)

# How little the first ranks stand out. The paper's 60 is for lists of a thousand documents and lets a hundred
# mediocre records that both searches know outvote the best of one.
FLATNESS: Final = 5


def fuse(
    rankings: Sequence[tuple[float, Sequence[tuple[T, float]]]], flatness: int = FLATNESS
) -> Mapping[T, float]:
    """Return the fused score of everything that is in one of the rankings.

    A ranking is its weight, and its things with their scores, the best first. Things of an equal score share
    a rank: records of one text are as good as one another, and the tenth of them is not worse than the first.
    """
    fused: dict[T, float] = {}
    for weight, ranking in rankings:
        rank = 0
        last: float | None = None
        for thing, score in ranking:
            if score != last:
                rank, last = rank + 1, score
            fused[thing] = fused.get(thing, 0.0) + weight / (flatness + rank)
    return fused
