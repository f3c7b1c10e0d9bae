"""The finds of a search before the records are read: places, and how well they fit."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from datastorage.records.hashes import NO_TEXT
from datastorage.storage.pages import Place


@dataclass(frozen=True, slots=True)
class Match:
    """A record that a search found. More is better."""

    place: Place
    text_hash: bytes | None
    """The text that it shares with its like; None where no vectors were kept."""
    score: float
    clues: float = 0
    """How well the clues of the question single it out, 1 at least; 0 for one that the ranking found."""

    def order(self) -> tuple[float, float, str]:
        """Return what to sort by: the best first, among equals the newest."""
        return -self.score, -self.place.key.created_at.timestamp(), self.place.key.uid


def best_of_each_text(matches: Iterable[Match], per_text: int) -> list[Match]:
    """Return the matches, the best first, and of each text ``per_text`` at most."""
    shown: Counter[bytes] = Counter()
    best: list[Match] = []
    for match in sorted(matches, key=Match.order):
        if match.text_hash is not None and match.text_hash != NO_TEXT:
            shown[match.text_hash] += 1
            if shown[match.text_hash] > per_text:
                continue
        best.append(match)
    return best
