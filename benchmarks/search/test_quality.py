"""The figures of a search, and when hybrid counts as worse than one of its parts."""

from dataclasses import replace

from benchmarks.search.dataset import Part, Question, QuestionClass
from benchmarks.search.quality import ALL, Asked, qualities_of, where_hybrid_is_worse
from datastorage.query.filters import SearchMode


def asked(mode: SearchMode, number: int, ndcg: float, which: QuestionClass) -> Asked:
    question = Question(f"q{number}", Part.SECOND, which, f"question {number}", {"a": 2})
    return Asked("a-model", mode, question, ndcg, ndcg / 2, 0.001 * number)


def all_modes(hybrid: float, text: float, which: QuestionClass, start: int = 0) -> list[Asked]:
    ndcgs = {SearchMode.HYBRID: hybrid, SearchMode.TEXT: text, SearchMode.VECTOR: 0.0}
    return [
        asked(mode, number, ndcg, which)
        for mode, ndcg in ndcgs.items()
        for number in range(start, start + 12)
    ]


def test_means_are_those_of_a_part_and_of_each_class() -> None:
    words = all_modes(0.8, 0.5, QuestionClass.KEYWORD)
    codes = all_modes(0.4, 0.5, QuestionClass.IDENTIFIER, start=12)
    hybrid = [each for each in qualities_of(words + codes) if each.mode == "hybrid"]
    assert [(each.question_class, each.questions, each.ndcg, each.recall) for each in hybrid] == [
        (ALL, 24, 0.6, 0.3),
        ("keyword", 12, 0.8, 0.4),
        ("identifier", 12, 0.4, 0.2),
    ]
    assert hybrid[1].ndcg_interval == (0.8, 0.8)
    assert hybrid[1].median_ms == 5.5


def test_the_means_of_both_parts_follow_those_of_each() -> None:
    second = all_modes(0.8, 0.5, QuestionClass.KEYWORD)
    first = [
        replace(each, question=replace(each.question, id=f"f{number}", part=Part.FIRST), ndcg=each.ndcg / 2)
        for number, each in enumerate(second)
    ]
    hybrid = [each for each in qualities_of(first + second) if each.mode == "hybrid"]
    assert [(each.part, each.question_class, each.questions, each.ndcg) for each in hybrid] == [
        ("first part", ALL, 12, 0.4), ("first part", "keyword", 12, 0.4),
        ("second part", ALL, 12, 0.8), ("second part", "keyword", 12, 0.8),
        ("both parts", ALL, 24, 0.6), ("both parts", "keyword", 24, 0.6),
    ]  # fmt: skip


def test_plain_lists_are_measured_apart_and_compared_with_nothing() -> None:
    usual = all_modes(0.5, 0.4, QuestionClass.INCIDENT)
    flat = [replace(each, ndcg=0.1, flat=True) for each in usual if each.mode is SearchMode.HYBRID]
    found = [each for each in qualities_of(usual + flat) if each.mode == "hybrid"]
    assert [(each.flat, each.question_class, each.ndcg) for each in found] == [
        (False, ALL, 0.5), (False, "incident", 0.5), (True, ALL, 0.1), (True, "incident", 0.1),
    ]  # fmt: skip
    assert list(where_hybrid_is_worse(usual + flat)) == []


def test_hybrid_is_worse_only_where_the_choice_of_questions_does_not_explain_it() -> None:
    clear = all_modes(0.4, 0.5, QuestionClass.IDENTIFIER)
    assert [line.partition(":")[2].partition(":")[0] for line in where_hybrid_is_worse(clear)] == [
        " hybrid is worse than text alone (second part, all)",
        " hybrid is worse than text alone (second part, identifier)",
    ]
    once_much_better = [
        *all_modes(0.4, 0.45, QuestionClass.IDENTIFIER),
        asked(SearchMode.HYBRID, 50, 1.0, QuestionClass.IDENTIFIER),
        *(asked(mode, 50, 0.0, QuestionClass.IDENTIFIER) for mode in (SearchMode.TEXT, SearchMode.VECTOR)),
    ]
    assert list(where_hybrid_is_worse(once_much_better)) == []
