"""Reads the API server's own counters of requests: for the two resources and for the reviews of callers."""

import re
from collections import Counter
from typing import Final

from datastorage.resources.kinds import KINDS

Requests = Counter[tuple[str, str, str]]
"""Counts by resource, subresource and verb."""

_SAMPLE: Final = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_RESOURCES: Final = frozenset(kind.plural for kind in KINDS)
REVIEWS: Final = ("tokenreviews", "subjectaccessreviews")
_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})


def parse_requests(metrics: str) -> Requests:
    """Read the counters from the API server's metrics page, refused requests among them."""
    counted: Requests = Counter()
    for sample in _SAMPLE.finditer(metrics):
        labels = dict(_LABEL.findall(sample["labels"]))
        if labels.get("resource") in {*_RESOURCES, *REVIEWS}:
            key = (labels["resource"], labels.get("subresource", ""), labels["verb"])
            counted[key] += int(float(sample["value"]))
    return counted


def writes(requests: Requests) -> int:
    """Return the number of write requests, refused ones among them. Reviews write nothing."""
    return sum(
        count for (resource, _, verb), count in requests.items() if resource in _RESOURCES and verb in _WRITES
    )


def reviews(requests: Requests) -> dict[str, int]:
    """Return how often the API server was asked about callers, by resource."""
    return {
        review: sum(count for (resource, *_), count in requests.items() if resource == review)
        for review in REVIEWS
    }


def by_verb(requests: Requests) -> dict[str, int]:
    """Return the counts by verb, such as ``PATCH status``, both resources together."""
    totals: Counter[str] = Counter()
    for (resource, subresource, verb), count in requests.items():
        if resource in REVIEWS:
            continue
        totals[f"{verb} {subresource}".strip()] += count
    return {verb: count for verb, count in sorted(totals.items()) if count}
