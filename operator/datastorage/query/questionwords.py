"""Turns the question that a person types into the words to search for.

Three elements of the usual search syntax are understood: ``"adjacent words"``, ``-without`` and ``-"without
these"``. Everything else is words: a character that is neither letter nor digit counts as a space, as it does
in the column that is searched. Identifiers are adjacent words too (see storage/clues.py).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from datastorage.errors import InvalidQueryError, NoWordsError
from datastorage.query.identifiers import identifiers
from datastorage.records.scrub import clip
from datastorage.records.words import plain, split_camel_case, with_pairs
from datastorage.storage.wording import Clue, Piece, Wording, may_go_on, spellings

MAX_QUESTION_CHARACTERS: Final = 16_384
_MAX_WORDS: Final = 64
_MAX_PHRASES: Final = 8
# PostgreSQL keeps no word of more than 2,046 bytes, and a character has up to 4.
_MAX_WORD_CHARACTERS: Final = 500
_MAX_PHRASE_CHARACTERS: Final = 500
# Each clue is looked up separately.
_MAX_CLUES: Final = 12

# Word processors replace quotation marks with these.
_QUOTES: Final = '"\u201c\u201d\u201e\u00ab\u00bb'
# In 5" and 3.5"-disk the mark is part of the word: two of them are no quotation of what is between. After
# letters of other scripts it may begin one, since some have no spaces.
_INCH: Final = '(?<=[0-9A-Za-z])["\u201d]'
# "-5" and "-1,024.5" are numbers, but "-10.0.0.1", "-1.29.4" and "-2026-03-14" leave something out.
_NUMBER: Final = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:[.,]\d+)?(?![.,:/-]*\w)"
_MINUS: Final = rf"-(?=[{_QUOTES}\w])(?!{_NUMBER})"
_PART: Final = re.compile(
    rf"(?P<minus>{_MINUS})?(?:[{_QUOTES}](?P<phrase>[^{_QUOTES}]*)[{_QUOTES}]"
    rf"|(?P<word>[^\s{_QUOTES}]+(?:{_INCH}[^\s{_QUOTES}]*)*))"
)


def check_question(text: str) -> None:
    """Raise InvalidQueryError for a question that is empty or too long."""
    if not text.strip():
        raise InvalidQueryError("the question is empty: say what to search for")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise InvalidQueryError(
            f"the question has {len(text):,} characters: the limit is {MAX_QUESTION_CHARACTERS:,}"
        )


def wording(question: str) -> Wording:
    """Return the words of a question.

    Raises NoWordsError if it has no words to search for, and InvalidQueryError if it has too many phrases or
    exclusions.
    """
    parts = list(_PART.finditer(question))
    asked = [part for part in parts if not part["minus"]]
    texts = [_text_of(part) for part in asked]
    words = [word for text in texts for word in _with_camel_case_split(text)]
    quoted = _distinct(_as_phrase(part) for part in asked if part["phrase"] is not None)
    phrases = _bounded(quoted, "phrases in quotation marks")
    if not words:
        raise NoWordsError("the question has no words to search for, or only words to leave out")
    whole = plain(" ".join(texts)).strip()
    everything = clip(whole, _MAX_PHRASE_CHARACTERS)
    in_any_order = Clue(everything, in_order=False)
    return Wording(
        _distinct(word[:_MAX_WORD_CHARACTERS] for word in words)[:_MAX_WORDS],
        phrases,
        _excluded(parts),
        _runs(parts),
        _clues(texts, phrases, [Clue(everything), in_any_order]),
        in_any_order if everything == whole and _is_of_each_word(whole) else None,
    )


def without_excluded(question: str) -> tuple[str, list[str]]:
    """Return the question without its exclusions, and the excluded words and phrases.

    Raises InvalidQueryError when nothing is left of the question, or when it has too many exclusions.
    """
    excluded = _excluded(_PART.finditer(question))
    asked = _PART.sub(lambda part: "" if part["minus"] else part[0], question)
    if excluded and not asked.strip():
        raise InvalidQueryError("the question has only words to leave out")
    return asked, excluded


def _excluded(parts: Iterable[re.Match[str]]) -> list[str]:
    excluded = _distinct(_as_phrase(part) for part in parts if part["minus"])
    return _bounded(excluded, "words and phrases to leave out")


def _bounded(phrases: list[str], what: str) -> list[str]:
    """Return the phrases. Raises InvalidQueryError if there are too many.

    To ignore some would show records that the question excludes, as if they were an answer to it.
    """
    if len(phrases) > _MAX_PHRASES:
        raise InvalidQueryError(
            f"the question has {len(phrases)} {what}: the limit is {_MAX_PHRASES}. If it is a text from "
            "elsewhere, remove its quotation marks, and the minus signs before words"
        )
    return phrases


def _runs(parts: Iterable[re.Match[str]]) -> list[list[Piece]]:
    """Return what may have synonyms: the words of a question that are neither quoted nor excluded.

    An identifier is one piece: "cert-manager" is no certificate.
    """
    runs: list[list[Piece]] = [[]]
    left = _MAX_WORDS
    for part in parts:
        if not left:
            break
        if part["word"] is None or part["minus"]:
            runs.append([])
            continue
        text = part["word"]
        texts = [text] if any(identifiers([text])) else with_pairs(plain(text)).split()
        pieces = [spellings(each) for each in texts if len(each) <= _MAX_WORD_CHARACTERS][:left]
        runs[-1] += pieces
        left -= len(pieces)
    return [run for run in runs if run]


def _as_phrase(part: re.Match[str]) -> str:
    return _clipped(_text_of(part))


def _is_of_each_word(whole: str) -> bool:
    """Return whether a record matches the clue of all words if it has each of them.

    Each word may be the beginning of a longer one, but only the last word of a clue.
    """
    *words, last = with_pairs(whole).split()
    return not any(map(may_go_on, words)) and may_go_on(last) == may_go_on(whole)


def _clues(texts: Sequence[str], phrases: Sequence[str], of_everything: Sequence[Clue]) -> list[Clue]:
    """Return what may single records out: quoted phrases, the whole question, and its longest identifiers."""
    clues = [*map(Clue, phrases), *of_everything]
    for identifier, min_words in sorted(set(identifiers(texts)), key=lambda found: (-len(found[0]), found)):
        if len(clues) >= _MAX_CLUES:
            break
        words = _clipped(identifier)
        if all(words != clue.words for clue in clues):
            clues.append(Clue(words, min_words=min_words))
    return clues


def _clipped(text: str) -> str:
    """Return the first words of a text, whole ones as far as there are any: half a word is another word."""
    return clip(plain(text).strip(), _MAX_PHRASE_CHARACTERS)


def _text_of(part: re.Match[str]) -> str:
    return part["phrase"] if part["phrase"] is not None else part["word"]


def _with_camel_case_split(text: str) -> Iterable[str]:
    for word in with_pairs(plain(text)).split():
        yield word.lower()
        words = split_camel_case(word)
        if len(words) > 1:
            yield from (each.lower() for each in words)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))
