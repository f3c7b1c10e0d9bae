"""The conditions on the records that are ranked for a question: they have its rare words, or all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from datastorage.storage.questionforms import QuestionWords
from datastorage.storage.wording import joined

# Where so many records have a word, one that has a synonym instead is no better than they are.
_MOST: Final = 0.5


@dataclass(frozen=True, slots=True)
class WordConditions:
    """Conditions on the records, of which one that is ranked meets at least one. Each is a tsquery, as text.

    A share is that of the records that meet a condition; 1 if it is not known.
    """

    words: str
    """The rarest words. What has all words has the rarest one, too."""
    words_share: float
    """If no record has two of the words."""
    are_common: bool = False
    """Whether even the rarest word is in more records than there is room for."""
    all_words: str | None = None
    """A narrower condition, for where more records meet the first than are ranked."""
    all_words_share: float = 0.0
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
    if phrases:
        return WordConditions(joined(" & ", phrases) + without, 1.0)
    own = {form.text: form.share for form in words.forms}
    synonyms = {
        joined(" | ", form.synonyms): form.synonym_share
        for form in words.forms
        if form.synonyms and form.share < _MOST
    }
    some, others = _rare(own, room), _rare(synonyms, room)
    share, synonyms_share = sum(own[form] for form in some), sum(synonyms[form] for form in others)
    is_room = share + synonyms_share <= room
    return WordConditions(
        f"({joined(' | ', [*some, *others] if is_room else some)}){without}",
        share + synonyms_share if is_room else share,
        are_common=share > room,
        all_words=joined(" & ", own) + without if len(some) < len(own) else None,
        all_words_share=words.all_words_share,
        synonyms=f"({joined(' | ', others)}){without}" if others and not is_room else None,
        synonyms_share=synonyms_share,
    )


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
