"""Finds the identifiers in a question: addresses, digests, codes, names, paths, versions, numbers.

Identifiers have a digit, punctuation inside, or capitals where a sentence has none. A record with the same
identifier is a better answer than others that are nearer in meaning.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Final
from unicodedata import category

from datastorage.records.words import in_one_form

# Punctuation around a word belongs to the sentence.
_BARE: Final = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
# "checkout's", and "pod(s)" without its last bracket.
_ENDING: Final = re.compile(r"(?:['\u2019]|\(e?)s$")
# An apostrophe joins words of the language: "don't", "l'image".
_INSIDE: Final = re.compile(r"[^\W_](?!['\u2019][^\W_])[\W_]+[^\W_]")
# In "host=10.0.7.33", "worker-3,worker-4" and "pod(uid)" each side is also an identifier by itself.
_SEPARATOR: Final = re.compile(r"[,;=|(){}\[\]<>]+")
# In "uid:6f1c" and "sha256:9f86" the name before the colon is only a label.
_LABEL: Final = re.compile(r"^[A-Za-z][A-Za-z0-9]*:+")
_DIGIT: Final = re.compile(r"\d")
# "SIGSEGV", "NullPointerException". Looking ahead first keeps the time linear: a word with an apostrophe is
# refused once, not again for each of its capitals.
_CAPITALS: Final = re.compile(r"[A-Z]{4,}|(?=\w+\Z).*?(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z]).*")
# Amounts and kinds, such as 24h, 3rd and 5xx, and everything shorter than three characters.
_AMOUNT: Final = re.compile(r"\d+(?:ms|[smhdw]|x+|st|nd|rd|th)|\w{1,2}", re.IGNORECASE)


def identifiers(words: Sequence[str]) -> Iterable[tuple[str, int]]:
    """Yield the identifiers among words, each with the number of words it must have at least.

    A number means more with the word before it ("exit code 137"), and a short one means nothing without it.
    """
    is_all_capitals = len(words) > 1 and " ".join(words).isupper()  # a single word may be a code alone
    before = ""
    for word in map(_bare, map(in_one_form, words)):
        for part in itertools.filterfalse(_has_vowel_signs, _parts(word)):
            if _INSIDE.search(part):
                yield part, 2
            elif not _AMOUNT.fullmatch(part) and (
                _DIGIT.search(part) or (not is_all_capitals and _CAPITALS.fullmatch(part))
            ):
                yield part, 1
        if before and _DIGIT.search(word) and not _INSIDE.search(word):
            yield f"{before} {word}", 2
        before = word


def _has_vowel_signs(word: str) -> bool:
    """Return whether a word is of a script such as Hindi's: its signs are no letters, and no punctuation."""
    return not word.isascii() and any(category(each).startswith("M") for each in word)


def _parts(word: str) -> Iterable[str]:
    pieces = [_bare(piece) for piece in _SEPARATOR.split(word)]
    return dict.fromkeys([word, *pieces, *(_bare(_LABEL.sub("", piece)) for piece in pieces)])


def _bare(word: str) -> str:
    found = _BARE.search(word)
    return _ENDING.sub("", found[0]) if found else ""
