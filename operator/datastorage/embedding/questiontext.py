"""Prepares the text of a question for embedding, as the texts of records are prepared."""

from datastorage.records.scrub import clip, is_meaningful, scrub, tidy
from datastorage.records.words import MAX_EMBEDDED_CHARACTERS


def query_text(text: str) -> str:
    """Return the text to embed for a question, or an empty text if the question has no words.

    The same values are left out as in a record, unless no words would remain.
    """
    for words in (scrub(text), tidy(text)):
        if is_meaningful(words):
            return clip(words, MAX_EMBEDDED_CHARACTERS)
    return ""
