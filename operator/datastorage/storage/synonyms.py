"""Synonyms: groups of words and phrases that mean the same, and those among them that a question has.

They are found at the time of the question, so that the words of stored records stay as they are. Words are
compared by their stems, which come from PostgreSQL: "certificates" is the word "certificate" of a group.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from datastorage.storage.wording import Piece, spellings

# Each pair of a word and a synonym is looked at for every record that is ranked.
_MAX_PAIRS: Final = 128

SynonymGroups = Sequence[Sequence[str]]
"""Groups of words and phrases that mean the same, each as a person writes it."""
Stems = Mapping[str, str]
"""The stem of each word; empty for a word that is in every text, such as "the"."""
_Key = tuple[str, ...]
"""The stems of a text, by which it is found."""


@dataclass(frozen=True, slots=True)
class Synonym:
    """A word of a question, and a word or phrase that counts in its place."""

    word: str
    text: str


class SynonymIndex:
    """Finds the members of groups in a question."""

    def __init__(self, groups: SynonymGroups, stems: Stems) -> None:
        """``stems`` has all of the groups' ``words_of``."""
        self._synonyms: dict[_Key, dict[str, _Key]] = {}
        for group in groups:
            members = {text: _key(text, stems) for member in group for text in spellings(member)}
            searched = _searched(members, stems)
            for key in members.values():
                self._synonyms.setdefault(key, {}).update(searched)
        self._longest = max(map(len, self._synonyms), default=0)

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
            for end in range(min(len(run), start + self._longest), start, -1):
                pieces = run[start:end]
                keys = {_key(text, stems) for text in _texts_of(pieces)}
                known = [self._synonyms[key] for key in keys if key in self._synonyms]
                if known:
                    texts = [text for each in known for text, key in each.items() if key not in keys]
                    words = _words(pieces, stems)
                    yield from (Synonym(word, text) for text in texts for word in words if word != text)
                    start = end
                    break
            else:
                start += 1


def words_of(groups: SynonymGroups) -> list[str]:
    """Return all words of groups."""
    texts = (text for group in groups for member in group for text in spellings(member))
    return list(dict.fromkeys(word for text in texts for word in text.split()))


def _texts_of(pieces: Sequence[Piece]) -> Iterable[str]:
    """Yield the ways to write what stands in a question."""
    return pieces[0] if len(pieces) == 1 else (" ".join(piece[0] for piece in pieces),)


def _words(pieces: Sequence[Piece], stems: Stems) -> Sequence[str]:
    """Return the words of a question that the records have, too."""
    words = (word for piece in pieces for text in piece for word in text.split())
    return list(dict.fromkeys(word for word in words if stems[word]))


def _key(text: str, stems: Stems) -> _Key:
    return tuple(stems[word] or word for word in text.split())


def _searched(members: Mapping[str, _Key], stems: Stems) -> dict[str, _Key]:
    """Return the members of a group that a search looks for.

    The records' words have no "out" and "no". Without them at its beginning or end, a phrase has another
    meaning: "out of disk space" would find all disk space. A member within another one finds more than that.
    """
    by_key = {
        key: text for text, key in members.items() if stems[(words := text.split())[0]] and stems[words[-1]]
    }
    return {text: key for key, text in by_key.items() if not any(_is_within(other, key) for other in by_key)}


def _is_within(key: _Key, other: _Key) -> bool:
    """Return whether a text has another one in it, and is longer."""
    starts = range(len(other) - len(key) + 1)
    return key != other and any(other[start : start + len(key)] == key for start in starts)
