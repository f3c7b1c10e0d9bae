"""What a search finds before the records are read: places, and how well they fit."""

from dataclasses import dataclass

from datastorage.storage.queries import Place


@dataclass(frozen=True, slots=True)
class Match:
    """A record that a search found. More is better."""

    place: Place
    text_hash: bytes | None
    """The text that it shares with its like; None where no vectors were kept."""
    score: float

    def order(self) -> tuple[float, float, str]:
        """Return what to sort by: the best first, among equals the newest."""
        return -self.score, -self.place.key.created_at.timestamp(), self.place.key.uid
