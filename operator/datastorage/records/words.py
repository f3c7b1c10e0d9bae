"""The words of texts. A question is taken apart as the records were, so that it finds them."""

import re
from collections.abc import Iterable
from typing import Final

MAX_EMBEDDED_CHARACTERS: Final = 2000
"""Characters of an embedded text: models read a few hundred words and average longer texts into nothing."""

_NO_WORD: Final = re.compile(r"[\W_]+")
# The places between "OOM" and "Killed", "Pull" and "Back".
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# A word of several, such as a reason that Kubernetes gives; a longer one is no word.
_HUMPED: Final = re.compile(r"\b\w{0,60}(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z])\w{0,60}\b")


def plain(text: str) -> str:
    """Return a text with a blank for everything that is neither letter nor digit."""
    return _NO_WORD.sub(" ", text)


def humps(word: str) -> list[str]:
    """Return the words in a word: "Image", "Pull", "Back" and "Off" in "ImagePullBackOff"."""
    return _HUMP.split(word)


def without_humps(text: str) -> str:
    """Return a text with a blank between the words in a word."""
    return _HUMP.sub(" ", text)


def humped_words(text: str) -> Iterable[str]:
    """Return the words of a text that consist of several, each once."""
    return dict.fromkeys(_HUMPED.findall(text))
