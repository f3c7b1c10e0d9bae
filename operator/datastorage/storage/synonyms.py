"""Synonyms: groups of words and phrases that mean the same, and those among them that a question has.

They are found at the time of the question, so that the words of stored records stay as they are. Words are
compared by their stems, which come from PostgreSQL: "certificates" is the word "certificate" of a group.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from datastorage.storage.wording import Piece, spellings

# Each pair of a word and a synonym is looked at for every record that is ranked.
_MAX_PAIRS: Final = 128

Groups = Sequence[Sequence[str]]
"""Groups of words and phrases, each as a person writes it."""
Stems = Mapping[str, str]
"""The stem of each word; empty for a word that is in every text, such as "the"."""


@dataclass(frozen=True, slots=True)
class Synonym:
    """A word of a question, and a word or phrase that counts in its place."""

    word: str
    text: str


@dataclass(slots=True)
class SynonymIndex:
    """Finds the members of groups in a question."""

    _synonyms: dict[tuple[str, ...], dict[str, None]] = field(default_factory=dict)
    """The texts to search for in place of a member, by the member's stems."""
    _longest: int = 0
    """The most words of a member."""

    @classmethod
    def of(cls, groups: Groups, stems: Stems) -> "SynonymIndex":
        """Return the index of groups; ``stems`` has all of their ``words``."""
        index = cls()
        for group in groups:
            texts = [text for member in group for text in spellings(member)]
            searched = [text for text in texts if _is_searchable(text, stems)]
            for text in texts:
                key = _key(text, stems)
                index._synonyms.setdefault(key, {}).update(dict.fromkeys(searched))
                index._longest = max(index._longest, len(key))
        return index

    def synonyms(self, runs: Sequence[Sequence[Piece]], stems: Stems) -> list[Synonym]:
        """Return the synonyms of the words in a question; ``stems`` has all of these words.

        Of members that overlap, the one that begins first counts, and of these the longest: a persistent
        volume claim is no persistent volume.
        """
        found = dict.fromkeys(each for run in runs for each in self._of_run(run, stems))
        return list(found)[:_MAX_PAIRS]

    def _of_run(self, run: Sequence[Piece], stems: Stems) -> Iterable[Synonym]:
        start = 0
        while start < len(run):
            ends = range(min(len(run), start + self._longest), start, -1)
            end = next((end for end in ends if self._is_known(run[start:end], stems)), None)
            if end is None:
                start += 1
                continue
            pieces = run[start:end]
            words = dict.fromkeys(word for piece in pieces for text in piece for word in text.split())
            own = {_key(text, stems) for text in _texts_of(pieces)}
            for text in self._texts(pieces, stems):
                if _key(text, stems) not in own:
                    yield from (Synonym(word, text) for word in words)
            start = end

    def _is_known(self, pieces: Sequence[Piece], stems: Stems) -> bool:
        return any(_key(text, stems) in self._synonyms for text in _texts_of(pieces))

    def _texts(self, pieces: Sequence[Piece], stems: Stems) -> dict[str, None]:
        known = (self._synonyms.get(_key(text, stems), {}) for text in _texts_of(pieces))
        return {text: None for texts in known for text in texts}


def words_of(groups: Groups) -> list[str]:
    """Return all words of groups."""
    texts = (text for group in groups for member in group for text in spellings(member))
    return list(dict.fromkeys(word for text in texts for word in text.split()))


def _texts_of(pieces: Sequence[Piece]) -> Iterable[str]:
    """Yield the ways to write what stands in a question."""
    return pieces[0] if len(pieces) == 1 else (" ".join(piece[0] for piece in pieces),)


def _key(text: str, stems: Stems) -> tuple[str, ...]:
    return tuple(stems[word] or word for word in text.split())


def _is_searchable(text: str, stems: Stems) -> bool:
    """Return whether a search for a text finds what it means.

    The records' words have no "out" and "of": a search for "out of memory" would find all memory.
    """
    words = text.split()
    return sum(bool(stems[word]) for word in words) >= min(2, len(words))
