"""What the measures of single questions say about a search: means with intervals, for each part and class."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.search.dataset import Part, Question, QuestionClass
from benchmarks.search.measures import Interval, interval_of_mean
from datastorage.query.filters import SearchMode

ALL: Final = "all"
BOTH: Final = "both parts"
_ENOUGH: Final = 10


@dataclass(frozen=True)
class Asked:
    """The measures of one question, asked in one way with one model."""

    model: str
    mode: SearchMode
    question: Question
    ndcg: float
    recall: float
    """Graded: a record that answers counts twice as much as one that helps."""
    seconds: float
    flat: bool = False
    """Whether the answer was to be a plain list; otherwise it is what users get by default."""


@dataclass(frozen=True)
class Quality:
    """One way of searching with one model: means over the questions of a part, or of a class of it."""

    model: str
    mode: str
    flat: bool
    part: str
    question_class: str
    questions: int
    ndcg: float
    ndcg_interval: Interval
    """The choice of questions alone would move the mean within it, in 95 of 100 cases."""
    recall: float
    median_ms: float


@dataclass(frozen=True)
class Group:
    """The questions of a part, or of a class of it; without a part, those of both."""

    part: Part | None
    question_class: QuestionClass | None = None

    @property
    def of_parts(self) -> str:
        """The part, or both."""
        return BOTH if self.part is None else f"{self.part} part"

    def __contains__(self, question: Question) -> bool:
        same_class = self.question_class in {None, question.question_class}
        return self.part in {None, question.part} and same_class

    def __str__(self) -> str:
        return f"{self.of_parts}, {self.question_class or ALL}"


def groups_of(asked: Sequence[Asked]) -> list[Group]:
    """Return each part that has questions, and then both, each followed by its classes.

    Of both, there are only the classes with questions in either.
    """
    questions = [each.question for each in asked]
    parts = [part for part in Part if any(question.part is part for question in questions)]
    of_parts = [
        group
        for group in (Group(part, which) for part in parts for which in (None, *QuestionClass))
        if any(question in group for question in questions)
    ]
    classes = [group.question_class for group in of_parts]
    both = [Group(None, which) for which in (None, *QuestionClass) if classes.count(which) > 1]
    return of_parts + both


def qualities_of(asked: Sequence[Asked]) -> list[Quality]:
    """Return the means of each model, mode, form of the answer and group."""
    return [
        _quality(group, [each for each in asked if _way(each) == way and each.question in group])
        for way in dict.fromkeys(map(_way, asked))
        for group in groups_of(asked)
    ]


def _way(asked: Asked) -> tuple[str, SearchMode, bool]:
    return asked.model, asked.mode, asked.flat


def _quality(group: Group, asked: Sequence[Asked]) -> Quality:
    ndcgs = [each.ndcg for each in asked]
    low, high = interval_of_mean(ndcgs)
    return Quality(
        model=asked[0].model,
        mode=asked[0].mode.value,
        flat=asked[0].flat,
        part=group.of_parts,
        question_class=group.question_class or ALL,
        questions=len(asked),
        ndcg=round(statistics.mean(ndcgs), 3),
        ndcg_interval=Interval(round(low, 3), round(high, 3)),
        recall=round(statistics.mean(each.recall for each in asked), 3),
        median_ms=round(1000 * statistics.median(each.seconds for each in asked), 1),
    )


def where_hybrid_is_worse(asked: Sequence[Asked]) -> Iterator[str]:
    """Yield a line for each model and group in which hybrid is worse than meaning or words alone.

    The answers are those that users get by default. The questions are compared one by one. Hybrid is worse if
    the whole interval of the mean difference is below zero: the choice of questions does not explain it.
    Groups of few questions are left out, because their intervals are too narrow.
    """
    for model in dict.fromkeys(each.model for each in asked):
        for group in groups_of(asked):
            by_mode = {
                mode: {
                    each.question.id: each.ndcg
                    for each in asked
                    if _way(each) == (model, mode, False) and each.question in group
                }
                for mode in SearchMode
            }
            hybrid = by_mode.pop(SearchMode.HYBRID)
            if len(hybrid) < _ENOUGH:
                continue
            for mode, alone in by_mode.items():
                low, high = interval_of_mean([hybrid[question] - alone[question] for question in hybrid])
                if high < 0:
                    by = f"{-high:.3f} to {-low:.3f}"
                    yield f"{model}: hybrid is worse than {mode} alone ({group}): by {by}"
