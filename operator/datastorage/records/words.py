"""Splits texts into words. Questions are split in the same way as records, so that they match."""

import re
from collections.abc import Iterable
from typing import Final

MAX_EMBEDDED_CHARACTERS: Final = 2000
"""The longest embedded text, in characters. Models read a few hundred words, and blur longer texts."""

_NO_WORD: Final = re.compile(r"[\W_]+")
# Matches between "OOM" and "Killed", and between "Pull" and "Back".
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Matches a word that consists of several, such as a reason in Kubernetes; a longer match is not a word.
_HUMPED: Final = re.compile(r"\b\w{0,60}(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z])\w{0,60}\b")


def plain(text: str) -> str:
    """Return a text with a space for each run of characters that are neither letters nor digits."""
    return _NO_WORD.sub(" ", text)


def humps(word: str) -> list[str]:
    """Return the words in a word: "Image", "Pull", "Back" and "Off" in "ImagePullBackOff"."""
    return _HUMP.split(word)


def without_humps(text: str) -> str:
    """Return a text with a space between the words in a word."""
    return _HUMP.sub(" ", text)


def humped_words(text: str) -> Iterable[str]:
    """Return the words of a text that consist of several words, each once."""
    return dict.fromkeys(_HUMPED.findall(text))
