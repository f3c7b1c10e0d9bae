"""Splits texts into words. Questions are split in the same way as records, so that their words match."""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Final
from unicodedata import normalize

MAX_EMBEDDED_CHARACTERS: Final = 2000
"""The longest embedded text, in characters: a few hundred words. Longer texts have vague vectors."""

_NO_WORD: Final = re.compile(r"[\W_]+")
# Chinese, Japanese and Korean, after NFKC: ideographs, kana, bopomofo and Hangul. They put no space between
# words, or write words and their endings as one.
_RUN: Final = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7fb\u1100-\u11ff\uf900-\ufaff"
    "\U00020000-\U000323af]+"
)
# The one capital letter whose small form is more than a letter is that of "İstanbul": the dot would be a sign
# of its own, which no word may have, and "istanbul" would not find it.
_DOTTED: Final = "\u0130".lower()
# Matches between "OOM" and "Killed", and between "Pull" and "Back".
_CAMEL_CASE_BREAK: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Anything longer is not a word, such as base64.
_MAX_CAMEL_CASE: Final = 120
# Accents in a row are sorted, in time that grows with the square of their number: 65,000 of them would
# hold up everything else for some seconds. A piece ends before a character that never changes the one before,
# and anywhere if there is none.
_PIECE: Final = re.compile(
    r".{1,500}(?![^\0-\x7f])|.{1,500}(?=[^\W\u1160-\u11ff\ud7b0-\ud7fb\uff9e\uff9f])|.{1,500}", re.DOTALL
)
_SPACES: Final = {code: " " for code in range(128) if not chr(code).isalnum()}


def words_in(text: str) -> list[str]:
    """Return the words of a text in one form: each run of letters and digits."""
    if text.isascii():
        return text.translate(_SPACES).split()  # several times as fast as the expression
    return _NO_WORD.sub(" ", in_one_form(text).replace(_DOTTED, "i")).split()


def in_one_form(text: str) -> str:
    """Return a text in Unicode's form NFKC, in time that is linear in its length.

    Characters that differ only in form, such as full-width letters and composed accents, become the same.
    """
    return text if text.isascii() else "".join([normalize("NFKC", piece) for piece in _PIECE.findall(text)])


def plain(text: str) -> str:
    """Return the words of a text with a space between them."""
    return " ".join(words_in(text))


def with_pairs(words: str) -> str:
    """Return a plain text with each run of Chinese, Japanese or Korean as its pairs of adjacent characters.

    Nobody can tell the words in such a run without a dictionary. A word of it has the same pairs in the same
    order wherever it stands, so that a search finds it in any text. Letters become small ones unless all are
    of ASCII: PostgreSQL makes no others small in a database whose locale is C.
    """
    return words if words.isascii() else _RUN.sub(_pairs, words.lower().replace(_DOTTED, "i"))


def is_in_pairs(character: str) -> bool:
    """Return whether a character is of a script that is searched in pairs."""
    return _RUN.match(character) is not None


def _pairs(run: re.Match[str]) -> str:
    found = " ".join(map("".join, pairwise(run[0]))) or run[0]
    return f" {found} "


def split_camel_case(word: str) -> list[str]:
    """Return the words in a word in camel case: "Image", "Pull", "Back" and "Off" in "ImagePullBackOff"."""
    return _CAMEL_CASE_BREAK.split(word)


def space_camel_case(text: str) -> str:
    """Return a text with spaces between the words in each word in camel case."""
    return _CAMEL_CASE_BREAK.sub(" ", text)


def camel_case_parts(words: Iterable[str]) -> list[str]:
    """Return, of each word in camel case, its words with spaces between them: "Image Pull Back Off"."""
    return [
        parts
        for word in words
        # Nearly all words are as in this line, which is several times as fast as the expression.
        if not (word.islower() or word.isdigit() or word[1:].islower())
        and len(word) <= _MAX_CAMEL_CASE
        and (parts := _parts(word))
    ]


# The same reasons and kinds come again and again. Whoever writes records chooses the words, so that long ones
# must not be kept.
@lru_cache(maxsize=4096)
def _parts(word: str) -> str:
    """Return the words in a word in camel case, or nothing if it is in none."""
    spaced = space_camel_case(word)
    return spaced if spaced != word else ""
