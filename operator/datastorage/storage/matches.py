"""The results of a search before the records are read: the place of each record, and how well it matches."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from datastorage.records.hashes import NO_TEXT
from datastorage.storage.places import Place

if TYPE_CHECKING:  # a search by words needs no vectors, and their libraries take long to load
    from datastorage.records.vector import Vector

T = TypeVar("T")
Order = tuple[float, float, float, str, int, bytes]


@dataclass(frozen=True, slots=True)
class Match:
    """A record that a search found, and what speaks for it."""

    place: Place
    text_hash: bytes | None
    """The hash of its text, which other records may share; None if no vectors were kept."""
    share: float = 0
    """The share of the question's words that it has, at most 1; 0 if only its meaning was compared, or only a
    clue has found it. It is higher for a record that has a word more often, and for a shorter one."""
    clue_weight: float = 0
    """The weight of the clues that it matches, at least 1; 0 if it matches none."""
    similarity: float | None = None
    """The cosine similarity of question and record; None if it has no vector, or was not asked for."""
    information: float = 0
    """The part of the information in the question's words that it has, from 0 to 1; 0 where the share is. It
    does not matter how often it has a word, nor how long it is."""

    def order(self, score: float | None = None) -> Order:
        """Return the sort key for a score, which is the share without one; two matches never have the same.

        What clues single out comes first, then the higher score. Among equals, such as records that have no
        words, or that have their score from their incident, the nearest in meaning comes first, and then the
        newest.
        """
        key = self.place.key
        total = self.clue_weight + (self.share if score is None else score)
        away = 1 if self.similarity is None else -self.similarity
        return -total, away, -key.created_at.timestamp(), key.uid, -key.generation, key.spec_hash


@dataclass(frozen=True, slots=True)
class Background:
    """The cosine similarities of a question with texts that were picked at random."""

    mean: float
    deviation: float

    def deviations(self, similarity: float) -> float:
        """Return by how many standard deviations a text is nearer than such texts are."""
        return (similarity - self.mean) / self.deviation


@dataclass(frozen=True, slots=True)
class Similarities:
    """How near texts are to a question, and how near others are."""

    of_texts: Mapping[bytes, float]
    """The cosine similarity of each text that has a vector, by the hash of the text."""
    background: Background


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest records to a question."""

    matches: list[Match]
    """Each has its similarity."""
    vector: "Vector"
    """That of the question."""
    is_all: bool
    """Whether a larger limit would find no others."""


def best_of_each_text(matches: Iterable[Match], per_text: int) -> list[Match]:
    """Return the matches, the best first, at most ``per_text`` of each text."""
    return list(first_of_each_text(sorted(matches, key=Match.order), lambda match: match, per_text))


def first_of_each_text(hits: Iterable[T], match_of: Callable[[T], Match], per_text: int) -> Iterator[T]:
    """Yield the hits in their order, at most ``per_text`` of each text."""
    counts: Counter[bytes] = Counter()
    for hit in hits:
        text_hash = match_of(hit).text_hash
        if text_hash is not None and text_hash != NO_TEXT:
            counts[text_hash] += 1
            if counts[text_hash] > per_text:
                continue
        yield hit
