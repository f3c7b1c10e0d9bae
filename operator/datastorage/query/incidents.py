"""Incidents: what is done about one of them has the same correlation ID in all its records.

A record that answers a question in part is a better hit if another one of its incident answers it well. So
the records of an incident lift each other, and an answer shows them together. It shows a few of them, because
a single incident must not fill the page.

The search by both looks at other records of the leading incidents, too, not only at those that meaning or
words have found. The larger an archive is, the fewer records of an incident are among the first of either.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from datastorage.query.fusion import Fused
from datastorage.query.searchresult import FoundBy
from datastorage.storage.matches import Match
from datastorage.storage.places import Place

# The part of its distance to the best hit of its incident that a hit is lifted by. Measured with
# benchmarks/search: anything from 0.4 to 0.9 is equally good in both parts of the set, for each model.
_LIFT: Final = 0.5
_PER_INCIDENT: Final = 3
# The first records of a search whose incidents are looked at as a whole.
_LEADING: Final = 5


def leading(rankings: Iterable[Sequence[Match]], incidents: Mapping[Place, str]) -> list[str]:
    """Return the incidents of the first records of each search."""
    first = chain.from_iterable(ranking[:_LEADING] for ranking in rankings)
    return list(dict.fromkeys(incidents[match.place] for match in first if match.place in incidents))


def lifted(found: Sequence[Fused], incidents: Mapping[Place, str]) -> list[Fused]:
    """Return the hits with the scores that their incidents give them, the best first.

    ``incidents`` are the correlation IDs of those that have one. A hit that ranks higher than it would
    without incidents, or would not be there, says so in ``found_by``. The clues of a question lift nothing
    but their records.
    """
    of_hits = [_incident(hit.match, incidents) for hit in found]
    best: dict[str | Place, float] = {}
    for incident, hit in zip(of_hits, found, strict=True):
        best[incident] = max(hit.score, best.get(incident, hit.score))
    after = [_lifted(hit, best[incident]) for incident, hit in zip(of_hits, found, strict=True)]
    # A hash of a place takes long, and there may be thousands of hits: from here on they are known by number.
    before = {number: rank for rank, number in enumerate(_ordered(found))}
    return [
        _explained(after[number], is_raised=rank < before[number])
        for rank, number in enumerate(_ordered(after))
    ]


def page_of(hits: Iterable[Fused], incidents: Mapping[Place, str], limit: int) -> list[Fused]:
    """Return the best hits, a few of each incident; those of an incident follow its best one.

    But nothing comes before a hit that matches a clue except others that do: who asks for an identifier looks
    for the records that have it, and only then for what else belongs to their incidents. ``hits`` have the
    best one first.
    """
    together: dict[str | Place, list[Fused]] = {}
    for hit in hits:
        if not limit:
            break
        of_incident = together.setdefault(_incident(hit.match, incidents), [])
        if len(of_incident) < _PER_INCIDENT:
            of_incident.append(hit)
            limit -= 1
    page = list(chain.from_iterable(together.values()))
    return sorted(page, key=lambda hit: not hit.match.clue_weight)


def _incident(match: Match, incidents: Mapping[Place, str]) -> str | Place:
    """Return the incident of a record; one that belongs to none is like an incident of its own."""
    return incidents.get(match.place, match.place)


def _lifted(hit: Fused, best: float) -> Fused:
    return hit if best == hit.score else replace(hit, score=hit.score + _LIFT * (best - hit.score))


def _explained(hit: Fused, *, is_raised: bool) -> Fused:
    """Return the hit, with its incident among its reasons if it is raised, or would not be there."""
    by_incident = is_raised or not hit.found_by
    return replace(hit, found_by=(*hit.found_by, FoundBy.INCIDENT)) if by_incident else hit


def _ordered(hits: Sequence[Fused]) -> list[int]:
    """Return the numbers of the hits, that of the best first."""
    return sorted(range(len(hits)), key=lambda number: hits[number].order())
