"""Splits texts into words. Questions are split in the same way as records, so that their words match."""

import re
from collections.abc import Iterable
from typing import Final

MAX_EMBEDDED_CHARACTERS: Final = 2000
"""The longest embedded text, in characters: a few hundred words. Longer texts have vague vectors."""

_NO_WORD: Final = re.compile(r"[\W_]+")
# Matches between "OOM" and "Killed", and between "Pull" and "Back".
_CAMEL_CASE_BREAK: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Matches a word in camel case, such as a reason in Kubernetes. Anything longer is not a word.
_CAMEL_CASE_WORD: Final = re.compile(r"\b\w{0,60}(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z])\w{0,60}\b")


def plain(text: str) -> str:
    """Return a text with a space for each run of characters that are neither letters nor digits."""
    return _NO_WORD.sub(" ", text)


def split_camel_case(word: str) -> list[str]:
    """Return the words in a word in camel case: "Image", "Pull", "Back" and "Off" in "ImagePullBackOff"."""
    return _CAMEL_CASE_BREAK.split(word)


def space_camel_case(text: str) -> str:
    """Return a text with spaces between the words in each word in camel case."""
    return _CAMEL_CASE_BREAK.sub(" ", text)


def camel_case_words(text: str) -> Iterable[str]:
    """Return the words of a text that are in camel case, each once."""
    return dict.fromkeys(_CAMEL_CASE_WORD.findall(text))
