"""The words of a question, as the searches by words take them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from datastorage.records.words import is_in_pairs, plain, space_camel_case, with_pairs

# In JSON, a line break or a tab within a text is a backslash and a letter.
_BETWEEN: Final = r"(?:[^[:alnum:]]|\\[nrtbf])"
# The last word, if it has hexadecimal digits only, both letters and numbers: people type the beginning of a
# digest, a commit or an identifier. Fewer characters would be the beginning of too many, and 64 are a whole
# SHA-256. Of a UUID, whose groups are words, the last word may be short if it follows whole groups.
_BEGINNING: Final = re.compile(
    r"\b(?=[a-f]*[0-9])(?=[0-9]*[a-f])"
    r"(?:[0-9a-f]{6,63}|[0-9a-f]{8}(?: [0-9a-f]{4}){0,2} [0-9a-f]{1,3}"
    r"|[0-9a-f]{8}(?: [0-9a-f]{4}){3} [0-9a-f]{1,11})\Z",
    re.IGNORECASE,
)

Piece = Sequence[str]
"""The ways to write a part of a question of which all words belong together (see ``spellings``)."""


def spellings(text: str) -> Piece:
    """Return the words of a text in small letters: as they are, and with words in camel case split."""
    words = with_pairs(plain(text)).strip()
    return list(dict.fromkeys(" ".join(each.lower().split()) for each in (words, space_camel_case(words))))


def as_searched(words: str) -> str:
    """Return words as an argument for ``tsquery``.

    They are in pairs where their script is searched so, and have an asterisk at the end if the last word may
    be the beginning of a longer one.
    """
    return with_pairs(words).strip() + ("*" if may_go_on(words) else "")


def may_go_on(words: str) -> bool:
    """Return whether the last of the words may be the beginning of a longer one."""
    return _BEGINNING.search(words) is not None


def tsquery(function: str, text: str) -> str:
    """Return the SQL expression for the query of a text, which ``as_searched`` has returned.

    ``function`` is plainto_tsquery or phraseto_tsquery. The query of a text without words is empty, or null.
    """
    query = f"{function}('english'::regconfig, {text})"
    # A query is written with its last word at the end.
    beginning = f"(nullif({query}::text, '') || ':*')::tsquery"
    return f"CASE WHEN {text} LIKE '%*' THEN {beginning} ELSE {query} END"


def joined(operator: str, forms: Iterable[str]) -> str:
    """Return the tsquery, as text, that joins others by an operator."""
    return operator.join(f"({form})" for form in forms)


@dataclass(frozen=True, slots=True)
class Clue:
    """Words of a question that may single out the few records that contain them."""

    words: str
    """Words of letters and digits, separated by spaces."""
    in_order: bool = True
    """Whether the words must be adjacent, in this order."""
    min_words: int = 1
    """A clue with fewer words is ignored. Words that are in every text, such as "the", do not count."""

    @property
    def pattern(self) -> str:
        """The regular expression for the words in sequence, within JSON text."""
        words = f"{_BETWEEN}+".join(self.words.split())
        # In a script without spaces, words stand within longer runs.
        before = "" if is_in_pairs(self.words[:1]) else f"(?:^|{_BETWEEN})"
        is_open = is_in_pairs(self.words[-1:]) or may_go_on(self.words)
        return f"{before}{words}{'' if is_open else '(?:$|[^[:alnum:]])'}"


@dataclass(frozen=True, slots=True)
class Wording:
    """A question as words, each of letters and digits only."""

    words: Sequence[str]
    phrases: Sequence[str] = ()
    """Words that must be adjacent, in this order."""
    excluded: Sequence[str] = ()
    """Words and phrases that a record must not contain."""
    runs: Sequence[Sequence[Piece]] = ()
    """The parts of the question that may have synonyms: in each run, they are adjacent."""
    clues: Sequence[Clue] = ()
    """Clues that may single out a few records, which then come first."""
    of_all_words: Clue | None = None
    """The one of the clues that every record with all words matches; None if there is no such clue."""
