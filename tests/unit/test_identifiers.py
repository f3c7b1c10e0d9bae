"""Which words of a question are identifiers, and which only look like one."""

from itertools import product
from typing import Final

import pytest

from datastorage.query.identifiers import identifiers
from tests.support.cputime import best_cpu_seconds

_DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_QUESTION: Final = 16_384  # characters


def found(question: str) -> list[str]:
    return [identifier for identifier, _ in identifiers(question.split())]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("uid:6f1c", ["uid:6f1c", "6f1c"]),
        (f"pulled sha256:{_DIGEST}?", [f"sha256:{_DIGEST}", _DIGEST]),
        ("uid::6f1c", ["uid::6f1c", "6f1c"]),
        ("main.go:214", ["main.go:214"]),  # no label: it has a dot
        ("10.0.7.33:5432", ["10.0.7.33:5432"]),  # a label begins with a letter
    ],
)
def test_what_follows_a_label_is_an_identifier_too(question: str, expected: list[str]) -> None:
    assert found(question) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("host=10.0.7.33", ["host=10.0.7.33", "10.0.7.33"]),
        ("worker-3,worker-4", ["worker-3,worker-4", "worker-3", "worker-4"]),
        ("pod(6f1c-2b7e)", ["pod(6f1c-2b7e", "6f1c-2b7e"]),
        ("pod(uid)", ["pod(uid"]),
        ("node-1|node-2;node-3", ["node-1|node-2;node-3", "node-1", "node-2", "node-3"]),
        (f"image=sha256:{_DIGEST[:12]}", [f"image=sha256:{_DIGEST[:12]}", f"sha256:{_DIGEST[:12]}",
                                          _DIGEST[:12]]),
        ("(10.0.7.33),", ["10.0.7.33"]),  # punctuation around it is of the sentence
        ("--- :: ---", []),
    ],
)  # fmt: skip
def test_each_side_of_a_separator_is_an_identifier_too(question: str, expected: list[str]) -> None:
    assert found(question) == expected


@pytest.mark.parametrize(
    "amount", ["24h", "30s", "7d", "10ms", "3rd", "1st", "22nd", "5xx", "5XX", "24H", "7", "42", "v2"]
)
def test_amounts_and_short_words_are_none(amount: str) -> None:
    assert found(amount) == []


@pytest.mark.parametrize("word", ["हिन्दी", "กำแพง", "re\u0301gion", "re\u0301gion."])
def test_words_with_vowel_signs_or_accents_of_their_own_are_none(word: str) -> None:
    assert found(word) == []


def test_an_identifier_beside_a_word_with_vowel_signs_is_one() -> None:
    assert found("कोड=10.0.7.33") == ["10.0.7.33"]


@pytest.mark.parametrize("code", ["137", "404", "40P01", "E1234", "10msx", "v23", "deadbee1"])
def test_other_words_with_digits_are_codes(code: str) -> None:
    assert found(code) == [code]


@pytest.mark.parametrize("plural", ["pod(s)", "process(es)", "pod(s),"])
def test_a_plural_in_brackets_is_no_identifier(plural: str) -> None:
    assert found(plural) == []


@pytest.mark.parametrize("possessive", ["checkout's", "checkout’s"])  # noqa: RUF001  # as word processors write it
def test_a_possessive_is_no_part_of_a_word(possessive: str) -> None:
    assert found(f"why did {possessive} pods fail") == []
    assert found(possessive.replace("checkout", "api-7f9c")) == ["api-7f9c"]
    assert found(possessive.replace("checkout", "SIGSEGV")) == ["SIGSEGV"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("SIGSEGV", ["SIGSEGV"]),
        ("a SIGSEGV again", ["SIGSEGV"]),
        ("NullPointerException", ["NullPointerException"]),
        ("the OOMKilled pods", ["OOMKilled"]),
        ("an iPhone", ["iPhone"]),
        ("the CPU and the API", []),  # three letters are common
        ("Restarted Checkout", []),
        ("WHY DID THE NODES FAIL", []),
        ("WHY DID NODE-7 FAIL", ["NODE-7"]),
        ("ORA-00060 AND E1234 AGAIN", ["ORA-00060", "E1234", "AND E1234"]),
    ],
)
def test_capitals_make_an_identifier_where_a_sentence_has_none(question: str, expected: list[str]) -> None:
    assert found(question) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("exit code 137", [("137", 1), ("code 137", 2)]),
        ("rack 9", [("rack 9", 2)]),
        ("within 24h", [("within 24h", 2)]),
        ("137", [("137", 1)]),  # nothing is before it
        ("to 10.0.7.33", [("10.0.7.33", 2)]),  # it needs no word before it
        ("(code 137)", [("137", 1), ("code 137", 2)]),
    ],
)
def test_a_number_is_also_one_with_the_word_before_it(question: str, expected: list[tuple[str, int]]) -> None:
    assert list(identifiers(question.split())) == expected


@pytest.mark.parametrize("word", ["don't", "l'image", "don’t", "l’image", "rock'n'roll", "'quoted'"])  # noqa: RUF001
def test_an_apostrophe_joins_words_of_the_language(word: str) -> None:
    assert found(word) == []


@pytest.mark.parametrize(
    ("part", "end"),
    list(product(["aB", "ABa", "a", "1", "A", "a_", "a,", "a=1,", "a:", "1x"], ["'a", "'s" * 4_000, "!"])),
)
def test_the_time_is_linear_in_hostile_words(part: str, end: str) -> None:
    """Eight times the length may take 8 times as long, not 64 times; the bound leaves room for noise."""
    short, long = _seconds(part, end, _QUESTION // 8), _seconds(part, end, _QUESTION)
    assert long < 24 * short + 0.01


def _seconds(part: str, end: str, size: int) -> float:
    word = (part * size)[: max(size - len(end), size // 2)] + end[: size // 2]
    return best_cpu_seconds(lambda: found(word))
