"""The words of a record: those for the full-text search, and the sentences that are embedded.

The embedded text is built only here, so that equal events have equal texts, share one vector, and are found
by a question in the same words. It leaves out meaningless differences between equal events (identifiers,
times, addresses, generated names); see records/scrub.py.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from datastorage.records.scrub import clip, is_meaningful, scrub, scrub_name, tidy
from datastorage.records.words import (
    MAX_EMBEDDED_CHARACTERS,
    camel_case_parts,
    in_one_form,
    space_camel_case,
    with_pairs,
    words_in,
)
from datastorage.resources.reading.fields import Spec, mapping_in, storable

# A tsvector holds 1 MiB, and a character needs up to 13 bytes of it (as one of a pair); words beyond this
# much text hardly help a search.
_MAX_SEARCH_CHARACTERS: Final = 65_536
# A long message must leave room for the error, and a long reasoning for the outcome.
_MAX_FIELD_CHARACTERS: Final = 1000
_MAX_NAME_CHARACTERS: Final = 253

_BETWEEN_WORDS: Final = re.compile(r"[-_./:]+")


def search_words(main: Iterable[object], others: Iterable[str] = ()) -> str:
    """Return the words that a record can be found by, those of its main texts first.

    Values of ``main`` that are no texts are ignored.
    """
    text = " ".join([*(text for text in main if isinstance(text, str) and text), *others])
    # The result has words only, because PostgreSQL's parser tries every "/", "-", "_" and "." as part of a
    # path, an address or a number, in time that grows with the square of the length. A few such records would
    # stall all others.
    words = words_in(_bounded(text))
    # This lets "image pull" find "ImagePullBackOff".
    parts = camel_case_parts(dict.fromkeys(words))
    return storable(with_pairs(" ".join([*words, *parts])))


def _bounded(text: str) -> str:
    text = text[:_MAX_SEARCH_CHARACTERS]
    # One character may stand for 18 others.
    return in_one_form(text)[:_MAX_SEARCH_CHARACTERS]


def joined(sentences: Iterable[str]) -> str:
    """Return sentences as one text to embed, or an empty text if all are empty."""
    # A message that only repeats the error says nothing new.
    distinct = dict.fromkeys(sentence for sentence in sentences if sentence)
    return clip(". ".join(distinct), MAX_EMBEDDED_CHARACTERS)


def sentence(value: Any) -> str:
    """Return a free text without the values in which otherwise equal events differ."""
    if not isinstance(value, str):
        return ""
    words = scrub(value)
    return clip(words, _MAX_FIELD_CHARACTERS).rstrip(" .") if is_meaningful(words) else ""


def name_words(value: Any) -> str:
    """Return a name such as "scale_deployment" or "KubePodCrashLooping" as separate words."""
    return _name_words(value[:_MAX_NAME_CHARACTERS]) if isinstance(value, str) else ""


# The same names come again and again, unlike messages.
@lru_cache(maxsize=1024)
def _name_words(name: str) -> str:
    words = tidy(space_camel_case(_BETWEEN_WORDS.sub(" ", name)))
    return words if is_meaningful(words) else ""


def target_words(spec: Spec, field: str) -> str:
    """Return the kind, name and namespace of the object that a field refers to, as words."""
    ref = mapping_in(spec, field)
    kind, where = name_words(ref.get("kind")), name_words(ref.get("namespace"))
    what = f"{kind} {_object_name(ref.get('name'), of_pod=kind == 'Pod')}".strip()
    return f"{what} in {where}" if what and where else what or where


def _object_name(value: Any, *, of_pod: bool) -> str:
    return _scrubbed_name(value[:_MAX_NAME_CHARACTERS], of_pod) if isinstance(value, str) else ""


@lru_cache(maxsize=1024)
def _scrubbed_name(name: str, of_pod: bool) -> str:  # noqa: FBT001  # the cache's key
    return name_words(scrub_name(name, of_pod=of_pod))
