"""Incidents: what is done about one of them has the same correlation ID in all its records.

A record that answers a question in part is a better hit if another one of its incident answers it well. So
the records of an incident lift each other, and an answer shows them together. It shows a few of them, because
a single incident must not fill the page.
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


def lifted(found: Sequence[Fused], incidents: Mapping[Place, str]) -> list[Fused]:
    """Return the hits with the scores that their incidents give them, the best first.

    ``incidents`` are the correlation IDs of those that have one. A hit that is ahead of another one only
    because of its incident says so in ``found_by``. The clues of a question lift nothing but their records.
    """
    best: dict[str | Place, float] = {}
    for match in (hit.match for hit in found):
        incident = _incident(match, incidents)
        best[incident] = max(match.score, best.get(incident, match.score))
    before = {match.place: rank for rank, match in enumerate(_ordered(hit.match for hit in found))}
    after = _ordered(_lifted(hit.match, best[_incident(hit.match, incidents)]) for hit in found)
    hits = {hit.match.place: hit for hit in found}
    return [
        replace(hits[match.place], match=match, found_by=_reasons(hits[match.place], rank, before))
        for rank, match in enumerate(after)
    ]


def page_of(hits: Iterable[Fused], incidents: Mapping[Place, str], limit: int) -> list[Fused]:
    """Return the best hits, a few of each incident; those of an incident follow its best one.

    ``hits`` have the best one first.
    """
    together: dict[str | Place, list[Fused]] = {}
    for hit in hits:
        if not limit:
            break
        of_incident = together.setdefault(_incident(hit.match, incidents), [])
        if len(of_incident) < _PER_INCIDENT:
            of_incident.append(hit)
            limit -= 1
    return list(chain.from_iterable(together.values()))


def _incident(match: Match, incidents: Mapping[Place, str]) -> str | Place:
    """Return the incident of a record; one that belongs to none is like an incident of its own."""
    return incidents.get(match.place, match.place)


def _lifted(match: Match, best: float) -> Match:
    return replace(match, score=match.score + _LIFT * (best - match.score))


def _reasons(hit: Fused, rank: int, before: Mapping[Place, int]) -> tuple[FoundBy, ...]:
    is_raised = rank < before[hit.match.place]
    return (*hit.found_by, FoundBy.INCIDENT) if is_raised else hit.found_by


def _ordered(matches: Iterable[Match]) -> list[Match]:
    return sorted(matches, key=Match.order)
