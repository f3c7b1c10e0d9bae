"""From what a person types to the words to search for.

Three things of the usual search syntax are understood: ``"words beside each other"``, ``-without`` and
``-"without these"``. The rest is words: a character that is neither letter nor digit counts as a blank, as it
does in the column that is searched. Identifiers are words beside each other, too (see ``clues``).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from datastorage.errors import InvalidQueryError
from datastorage.query.identifiers import identifiers
from datastorage.records.scrub import clip
from datastorage.records.words import humps, plain
from datastorage.storage.clues import Clue
from datastorage.storage.fulltext import Wording

MAX_QUESTION_CHARACTERS: Final = 16_384
_MAX_WORDS: Final = 64
_MAX_PHRASES: Final = 8
# PostgreSQL keeps no word of more than 2,046 bytes, and a character has up to 4.
_MAX_WORD_CHARACTERS: Final = 500
_MAX_PHRASE_CHARACTERS: Final = 500
# Each is looked up by itself.
_MAX_CLUES: Final = 12

# Programs for writing turn quotation marks into these.
_QUOTES: Final = '"\u201c\u201d\u201e\u00ab\u00bb'
# "-5" is a number.
_MINUS: Final = rf"-(?=[{_QUOTES}\w])(?!\d[\d.,]*(?!\w))"
_PART: Final = re.compile(
    rf"(?P<minus>{_MINUS})?(?:[{_QUOTES}](?P<phrase>[^{_QUOTES}]*)[{_QUOTES}]|(?P<word>[^\s{_QUOTES}]+))"
)


def check_question(text: str) -> None:
    """Raise InvalidQueryError for what is no question: nothing, too much, or no text."""
    if not text.strip():
        raise InvalidQueryError("the question is empty: say what to search for")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise InvalidQueryError(
            f"the question has {len(text):,} characters: {MAX_QUESTION_CHARACTERS:,} are the most"
        )


def wording(question: str) -> Wording:
    """Return the words of a question. Raises InvalidQueryError when it has none to find something by."""
    asked = [part for part in _PART.finditer(question) if not part["minus"]]
    said = [_said(part) for part in asked]
    words = [word for each in said for word in _with_parts(each)]
    phrases = _distinct(_as_phrase(part) for part in asked if part["phrase"] is not None)[:_MAX_PHRASES]
    if not words:
        raise InvalidQueryError("the question has no words to search for, or only words to leave out")
    return Wording(
        _distinct(word[:_MAX_WORD_CHARACTERS] for word in words)[:_MAX_WORDS],
        phrases,
        _excluded(question),
        _clues(said, phrases),
    )


def without_excluded(question: str) -> tuple[str, list[str]]:
    """Return what is asked for, and the words and phrases that must not be there.

    Raises InvalidQueryError when nothing is left to ask for.
    """
    excluded = _excluded(question)
    asked = _PART.sub(lambda part: "" if part["minus"] else part[0], question)
    if excluded and not asked.strip():
        raise InvalidQueryError("the question has only words to leave out")
    return asked, excluded


def _excluded(question: str) -> list[str]:
    return _distinct(_as_phrase(part) for part in _PART.finditer(question) if part["minus"])[:_MAX_PHRASES]


def _as_phrase(part: re.Match[str]) -> str:
    return _clipped(_said(part))


def _clues(said: Sequence[str], phrases: Sequence[str]) -> list[Clue]:
    """Return what may single records out: what is quoted, the whole question, and its longest identifiers."""
    everything = _clipped(" ".join(said))
    clues = [*map(Clue, phrases), Clue(everything), Clue(everything, in_order=False)]
    for identifier, least in sorted(set(identifiers(said)), key=lambda each: (-len(each[0]), each)):
        if len(clues) >= _MAX_CLUES:
            break
        words = _clipped(identifier)
        if all(words != clue.words for clue in clues):
            clues.append(Clue(words, least=least))
    return clues


def _clipped(text: str) -> str:
    """Return the first words of a text: half a word would be another."""
    return clip(plain(text).strip(), _MAX_PHRASE_CHARACTERS)


def _said(part: re.Match[str]) -> str:
    return part["phrase"] if part["phrase"] is not None else part["word"]


def _with_parts(text: str) -> Iterable[str]:
    for word in plain(text).split():
        yield word.lower()
        parts = humps(word)
        if len(parts) > 1:
            yield from (part.lower() for part in parts)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))
