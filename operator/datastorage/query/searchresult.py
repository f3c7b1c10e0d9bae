"""The answer to a search."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.filters import SearchMode


class FoundBy(StrEnum):
    """Why a record is among the hits."""

    MEANING = "meaning"
    """Few texts are nearer to the question."""
    WORDS = "words"
    """It has words of the question."""
    CLUE = "clue"
    """It is among the few records with an identifier of the question, all of its quoted words, or all of its
    words. These come before all others."""
    INCIDENT = "incident"
    """Others of its incident answer the question better: without incidents it would rank lower, or not be
    among the hits."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A record that was found."""

    record: ArchivedRecord
    score: float
    """The hits of a plain list are ordered by score. Scores can be compared within one answer only."""
    similarity: float | None
    """Cosine similarity of question and record, 1 at most; None if the record has no vector, or if only words
    were searched for."""
    found_by: tuple[FoundBy, ...]
    more: int
    """The number of further records that meet the filter and have the same text, but are not among the hits;
    counted up to 1,000 or so. Words that the question leaves out do not matter."""
    correlation_id: str | None = None
    """The incident that it belongs to, if any."""
    more_of_incident: int = 0
    """The number of further records that meet the filter and belong to the same incident, but are not among
    the hits; counted up to 1,000 or so. Records with the same text can be among them."""

    def as_json(self) -> dict[str, Any]:
        """Return the hit as JSON, with the field names of the interfaces."""
        return {**self._finding(), **self.record.as_json()}

    def as_bytes(self) -> bytes:
        """Return the bytes of the same JSON."""
        return self.record.as_bytes(self._finding())

    def _finding(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "similarity": self.similarity,
            "foundBy": [str(way) for way in self.found_by],
            "more": self.more,
            "correlationID": self.correlation_id,
            "moreOfIncident": self.more_of_incident,
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of a search, the best first.

    Unless a plain list was asked for, the hits of an incident follow its best one; but those with a clue come
    before all others.
    """

    mode: SearchMode
    """The mode that was used: text if hybrid was asked for but the vectors were not available, and vector if
    PostgreSQL could not search by words."""
    hits: tuple[SearchHit, ...]
    degraded: str | None = None
    """Why another mode than the requested one was used; None if the requested one was used."""
    left_out: int = 0
    """The number of further hits whose contents would have made the answer too large."""
