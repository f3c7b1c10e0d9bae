"""Decides how good a hit of a search by meaning and by words is: each gives evidence, and the sum counts.

Ranks would say nothing about how much better the first hit is than the second. Scores do, once they have an
absolute scale, on which one question can be compared with another, and one model with another:

- **Meaning.** Cosines differ from model to model: with one of them, texts that have nothing in common are at
  0.1, and with another at 0.7. So zero is the mean of the question's cosines with texts picked at random, and
  the unit is their standard deviation: 3 means nearer than all but one of a thousand such texts, if they are
  distributed normally. Some of them are always nearer than the mean, so that alone is no evidence: the first
  deviations do not count.
- **Words.** The weight of a word is the information in it, the logarithm of how rare it is (the weight of
  BM25). A record counts by the part of the information in all words of the question that it has. A word that
  is in no record counts among all, so a record with the only known word of five is not taken for a good one.
  Half of the information is worth less than half as much: a few words of a question are in many records that
  mean something else, all of them in hardly any.

``Scale`` says what either is worth. A record that has all words of a question is ahead of one that has none
of them, unless that one is nearer in meaning by many standard deviations. More of either never makes a record
worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from datastorage.query.searchresult import FoundBy
from datastorage.storage.matches import Background, Match, Order, Similarities

# The sums become numbers below 1, in the same order: this one becomes one half.
_SPREAD: Final = 4.0


@dataclass(frozen=True, slots=True)
class Scale:
    """What the words and the meaning of a record are worth in the sum.

    The defaults were chosen with ``python -m benchmarks.search --choose``.
    """

    all_words: float = 10.0
    """How many standard deviations of meaning a record is worth that has all words of the question."""
    power: float = 1.75
    """The power of the part of the information: with 2, half of it would be worth a quarter. At least 1."""
    noise: float = 1.5
    """How many standard deviations nearer than random a text may be without being worth anything: with 1.5,
    as one in fifteen texts picked at random is, if they are distributed normally."""

    def of_words(self, information: float) -> float:
        """Return what a record with this part of the information is worth, in standard deviations."""
        return self.all_words * float(information**self.power)

    def of_meaning(self, deviations: float) -> float:
        """Return what a text that is nearer than random by so many standard deviations is worth, in these."""
        # Where most of the texts are about the question, one that is not would be very far away. It is still
        # no worse than one about which nothing is known.
        return max(0.0, deviations - self.noise)


@dataclass(frozen=True, slots=True)
class Fused:
    """A record that was found by meaning, by words, by both, or by its incident alone."""

    match: Match
    score: float
    """How good it is, without the clues; 1 at most. By both, it is at least 0; by meaning alone, it is the
    similarity at first, and by words alone the share of the words."""
    found_by: tuple[FoundBy, ...]
    """Empty if neither meaning nor words have found it."""

    @property
    def total(self) -> float:
        """The score with the weight of the clues, by which it is ordered."""
        return self.match.clue_weight + self.score

    def order(self) -> Order:
        """Return the sort key; two hits never have the same."""
        return self.match.order(self.score)


def fuse(
    near: Sequence[Match],
    worded: Sequence[Match],
    similarities: Similarities,
    scale: Scale = Scale(),
    *,
    correlated: Sequence[Match] = (),
) -> list[Fused]:
    """Return every record that either search found, and others of their incidents, in no particular order.

    ``similarities`` are those of the texts that the search by meaning has not found. A text that is neither
    among them nor near has no vector, and its records count as ones that were picked at random.
    """
    # Only a few records of each text are in ``near``, and words may have found others of it.
    known = {**{match.text_hash or b"": match.similarity for match in near}, **similarities.of_texts}
    by_meaning = {match.place: match for match in near}
    by_words = {match.place: match for match in worded}
    matches = {match.place: match for match in correlated} | by_meaning | by_words
    return [
        _fused(match, by_meaning.get(place), by_words.get(place), known, similarities.background, scale)
        for place, match in matches.items()
    ]


def _fused(
    match: Match,
    near: Match | None,
    worded: Match | None,
    similarities: Mapping[bytes, float | None],
    background: Background,
    scale: Scale,
) -> Fused:
    similarity = similarities.get(match.text_hash or b"")
    meaning = 0.0 if similarity is None else scale.of_meaning(background.deviations(similarity))
    words = 0.0 if worded is None else scale.of_words(worded.information)
    score = (meaning + words) / (meaning + words + _SPREAD)
    ways = {FoundBy.MEANING: near, FoundBy.WORDS: worded}
    found_by = tuple(way for way, found in ways.items() if found is not None)
    return Fused(replace(match, similarity=similarity), score, found_by)
