"""The words of a record: those that a full-text search finds it by, and the sentences that are embedded.

The embedded text is built here alone, so that equal events have equal texts, share one vector, and are found
by a question in the same words. It leaves out what differs between equal events without a meaning
(identifiers, times, addresses, generated names); see ``scrub``.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from datastorage.records.scrub import clip, is_meaningful, scrub, scrub_name, tidy
from datastorage.records.words import MAX_EMBEDDED_CHARACTERS, humped_words, plain, without_humps
from datastorage.resources.reading.fields import Spec, mapping_in, storable

# A tsvector holds 1 MiB; beyond this much text nobody searches by words.
_MAX_SEARCH_CHARACTERS: Final = 65_536
# So that a long message leaves room for the error, and a long reasoning for the outcome.
_MAX_FIELD_CHARACTERS: Final = 1000
_MAX_NAME_CHARACTERS: Final = 253

_BETWEEN_WORDS: Final = re.compile(r"[-_./:]+")


def search_words(*texts: object) -> str:
    """Return the words to find a record by, from fields of its spec; only texts count."""
    text = " ".join(text for text in texts if isinstance(text, str) and text)
    # Words only: PostgreSQL's parser tries every "/", "-", "_" and "." as part of a path, an address or a
    # number, in time that grows with the square of the length. A few such records would stall all others.
    words = plain(text[:_MAX_SEARCH_CHARACTERS])
    # "ImagePullBackOff" is also found by "image pull".
    return storable(" ".join([words, *map(without_humps, humped_words(words))]))


def joined(sentences: Iterable[str]) -> str:
    """Return sentences as the text to embed, or nothing where all are empty."""
    # A message that only repeats the error says nothing new.
    distinct = dict.fromkeys(sentence for sentence in sentences if sentence)
    return clip(". ".join(distinct), MAX_EMBEDDED_CHARACTERS)


def sentence(value: Any) -> str:
    """Return a free text without what differs between equal events."""
    if not isinstance(value, str):
        return ""
    words = scrub(value)
    return clip(words, _MAX_FIELD_CHARACTERS).rstrip(" .") if is_meaningful(words) else ""


def name_words(value: Any) -> str:
    """Return a name as words: "scale_deployment", "KubePodCrashLooping"."""
    if not isinstance(value, str):
        return ""
    words = tidy(without_humps(_BETWEEN_WORDS.sub(" ", value[:_MAX_NAME_CHARACTERS])))
    return words if is_meaningful(words) else ""


def target_words(spec: Spec, field: str) -> str:
    """Return the kind, name and namespace of the object that a field refers to, as words."""
    ref = mapping_in(spec, field)
    kind, where = name_words(ref.get("kind")), name_words(ref.get("namespace"))
    what = f"{kind} {_object_name(ref.get('name'), of_pod=kind == 'Pod')}".strip()
    return f"{what} in {where}" if what and where else what or where


def _object_name(value: Any, *, of_pod: bool) -> str:
    if not isinstance(value, str):
        return ""
    return name_words(scrub_name(value[:_MAX_NAME_CHARACTERS], of_pod=of_pod))
