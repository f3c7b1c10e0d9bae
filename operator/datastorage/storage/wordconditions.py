"""The conditions on the records that are ranked for a question: they have its rare words, or all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from datastorage.storage.questionforms import Form, QuestionWords
from datastorage.storage.wording import joined

# If there is no room for all synonyms, those of a word that so many records have select none: what has a
# synonym in its place is no better than these.
_MOST: Final = 0.5


@dataclass(frozen=True, slots=True)
class WordConditions:
    """Conditions on the records that are ranked: each of these meets at least one.

    A condition is a tsquery, as text. Its share is that of the records that meet it.
    """

    words: str
    """One of the rarest words, or of their synonyms if there is room for these; or else all quoted phrases.
    What has all words meets it, too."""
    words_share: float
    """At least that of the records that meet the condition; 1 if it is not known."""
    are_common: bool = False
    """Whether even the rarest word is in more records than there is room for."""
    all_words: str | None = None
    """All words and phrases, for where more records meet the first condition than are ranked; None if these
    would be the same records."""
    all_words_share: float = 0.0
    """At least that of the records that meet this condition, as far as the newest ones tell."""
    synonyms: str | None = None
    """A condition about synonyms, if their records could displace some of the first condition."""
    synonyms_share: float = 0.0


def word_conditions(
    words: QuestionWords, room: float, phrases: Sequence[str], excluded: Sequence[str]
) -> WordConditions:
    """Return the conditions that a question makes.

    ``room`` is the share of the records that its words may have together. ``phrases`` are the forms of what a
    record must contain, ``excluded`` of what it must not.
    """
    without = "".join(f" & !({form})" for form in excluded)
    own = {form.text: form.share for form in words.forms}
    if phrases:
        # The words of a question include those of its phrases.
        beside = [form for form in own if not any(f"{form} " in f"{phrase} " for phrase in phrases)]
        return WordConditions(
            joined(" & ", phrases) + without,
            1.0,
            all_words=joined(" & ", [*phrases, *beside]) + without if beside else None,
            all_words_share=words.all_words_share,
        )
    some = _rare(own, room)
    share = sum(own[form] for form in some)
    synonyms = _synonyms(words.forms)
    if share + sum(synonyms.values()) > room:
        synonyms = _synonyms(form for form in words.forms if form.share < _MOST)
    others = _rare(synonyms, room)
    synonyms_share = sum(synonyms[form] for form in others)
    is_room = share + synonyms_share <= room
    return WordConditions(
        f"({joined(' | ', [*some, *others] if is_room else some)}){without}",
        share + synonyms_share if is_room else share,
        are_common=share > room,
        all_words=joined(" & ", own) + without if len(own) > 1 else None,
        all_words_share=words.all_words_share,
        synonyms=f"({joined(' | ', others)}){without}" if others and not is_room else None,
        synonyms_share=synonyms_share,
    )


def _synonyms(forms: Iterable[Form]) -> dict[str, float]:
    """Return the condition that a record has a synonym, for each word with synonyms, and its share."""
    return {joined(" | ", form.synonyms): form.synonym_share for form in forms if form.synonyms}


def _rare(shares: Mapping[str, float], room: float) -> list[str]:
    """Return the forms that select records: the rarest one, and others as long as all together are rare."""
    chosen: list[str] = []
    total = 0.0
    for form in sorted(shares, key=shares.__getitem__):
        total += shares[form]
        if chosen and total > room:
            break
        chosen.append(form)
    return chosen
