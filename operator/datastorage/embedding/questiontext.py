"""The text of a question as it is embedded: without all that the texts of records leave out."""

from datastorage.records.scrub import clip, is_meaningful, scrub, tidy
from datastorage.records.words import MAX_EMBEDDED_CHARACTERS


def query_text(text: str) -> str:
    """Return a person's question as it is embedded, or nothing when it has no words.

    A question leaves out the same things as a record, unless nothing would remain.
    """
    for words in (scrub(text), tidy(text)):
        if is_meaningful(words):
            return clip(words, MAX_EMBEDDED_CHARACTERS)
    return ""
