"""Any question that a person types becomes words that PostgreSQL can search for."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datastorage.errors import InvalidQueryError
from datastorage.query.questionwords import (
    MAX_QUESTION_CHARACTERS,
    check_question,
    without_excluded,
    wording,
)
from datastorage.resources.reading.phrases import search_words


@pytest.mark.parametrize(
    ("question", "words", "phrases", "excluded"),
    [
        ("checkout-api", ["checkout", "api"], [], []),
        ("OOMKilled", ["oomkilled", "oom", "killed"], [], []),
        ("PullBackOff", ["pullbackoff", "pull", "back", "off"], [], []),
        ('"no space left" disk', ["no", "space", "left", "disk"], ["no space left"], []),
        ("disk -postgres", ["disk"], [], ["postgres"]),
        ('disk -"read only"', ["disk"], [], ["read only"]),
        ('"a b"-c', ["a", "b"], ["a b"], ["c"]),
        ("re-created a - b --force", ["re", "created", "a", "b", "force"], [], []),
        ("a & b | !c:* <-> (d)", ["a", "b", "c", "d"], [], []),
        ('unbalanced "quote here', ["unbalanced", "quote", "here"], [], []),
        ("snake_case'; DROP TABLE", ["snake", "case", "drop", "table"], [], []),
        ("twice Twice", ["twice"], [], []),
        ("\u201cno space\u201d -\u00abread only\u00bb", ["no", "space"], ["no space"], ["read only"]),
        ('5" disk and 3" disk', ["5", "disk", "and", "3"], [], []),
        ("5\u201d disk and 3.5\u201d-disk", ["5", "disk", "and", "3"], [], []),
        ('27" of "no space" on 5"', ["27", "of", "no", "space", "on", "5"], ["no space"], []),
        ('5" -"read only" -3"', ["5", "3"], [], ["read only"]),
        ('host="no space" ("a b")', ["host", "no", "space", "a", "b"], ["no space", "a b"], []),
        ('\u641c\u7d22"\u78c1\u76d8"', ["\u641c\u7d22", "\u78c1\u76d8"], ["\u78c1\u76d8"], []),
        ("errno -5 (-104), -1.5 -2x -b3", ["errno", "5", "104", "1"], [], ["2x", "b3"]),
        ("-1,024 -2,5 -7% -8.", ["1", "024", "2", "5", "7", "8"], [], []),
        ("refused -10.0.0.1 -10.0.0.0/8", ["refused"], [], ["10 0 0 1", "10 0 0 0 8"]),
        ("etcd -1.29.4 -2026-03-14 -12:30", ["etcd"], [], ["1 29 4", "2026 03 14", "12 30"]),
    ],
)  # fmt: skip
def test_words_phrases_and_exclusions(
    question: str, words: list[str], phrases: list[str], excluded: list[str]
) -> None:
    found = wording(question)
    assert (list(found.words), list(found.phrases), list(found.excluded)) == (words, phrases, excluded)


@pytest.mark.parametrize("question", ["-only", '"" -x', "?!", "&|!():*", '"', "-"])
def test_no_words_are_refused(question: str) -> None:
    with pytest.raises(InvalidQueryError, match="no words"):
        wording(question)


@pytest.mark.parametrize("question", ["", "  \n", "x" * (MAX_QUESTION_CHARACTERS + 1)])
def test_an_empty_or_huge_question_is_refused(question: str) -> None:
    with pytest.raises(InvalidQueryError):
        check_question(question)


@example("\u0130stanbul disk")  # its first letter has a small form of two characters
@given(st.text(max_size=300) | st.text(st.sampled_from("ab\"- \\'&|!()<>:*_0é\0\udc00"), max_size=60))
def test_any_question_becomes_plain_words(question: str) -> None:
    try:
        found = wording(question)
    except InvalidQueryError:
        return
    for word in found.words:
        assert re.fullmatch(r"[^\W_]+", word)
    for phrase in (*found.phrases, *found.excluded, *(clue.words for clue in found.clues)):
        assert re.fullmatch(r"[^\W_]+( [^\W_]+)*", phrase)


@example("\u0130stanbul")
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100))
def test_a_question_is_prepared_like_the_searched_column(text: str) -> None:
    try:
        words = wording(text).words
    except InvalidQueryError:
        return
    assert set(words) <= set(search_words([text]).lower().split())


def test_a_long_question_is_bounded() -> None:
    found = wording(" ".join(f"w{n}" for n in range(500)) + " ".join(f' -x{n} "p{n} q"' for n in range(8)))
    assert len(found.words) <= 64
    assert (len(found.phrases), len(found.excluded)) == (8, 8)
    assert len(found.clues) <= 12
    assert max(map(len, wording("y" * 16_000).words)) <= 500


@pytest.mark.parametrize(
    ("part", "what"),
    [('"p{} q"', "9 phrases in quotation marks"), ("-x{}", "9 words and phrases to leave out")],
)
def test_what_is_beyond_the_limit_is_refused_and_not_ignored(part: str, what: str) -> None:
    question = "crash " + " ".join(part.format(n) for n in range(9))
    with pytest.raises(InvalidQueryError, match=f"{what}: the limit is 8"):
        wording(question)
    wording(question.replace(part.format(8), part.format(7)))  # eight of them are answered


def test_a_search_by_meaning_refuses_too_many_exclusions_too() -> None:
    with pytest.raises(InvalidQueryError, match="the limit is 8"):
        without_excluded("crash " + " ".join(f"-x{n}" for n in range(9)))
