"""Quantiles of a histogram, estimated from its buckets as Prometheus does."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from datastorage.replicas.page import Labels

Buckets = Mapping[float, float]
"""How many observations were at most as large as each bound. The last bound is infinite."""

_BOUND: Final = "le"


def buckets_of(increases: Iterable[Mapping[Labels, float]]) -> Buckets:
    """Return the sum of the buckets of several histograms.

    Only bounds that all of them have count: versions of the program may have different ones.
    """
    each = [_buckets(series) for series in increases if series]
    if not each:
        return {}
    common = set(each[0]).intersection(*each[1:])
    return {bound: sum(buckets[bound] for buckets in each) for bound in sorted(common)}


def quantile(buckets: Buckets, share: float) -> float | None:
    """Return the value that this share of the observations does not exceed; None without observations.

    Within a bucket, observations are taken as evenly spread. Above the last finite bound nothing is known, so
    that bound is returned.
    """
    total = buckets.get(math.inf, 0.0)
    if total <= 0:
        return None
    rank = share * total
    lower = below = 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if math.isinf(bound):
            break
        if count >= rank and count > below:
            # Rounding could lead out of the bucket.
            return min(bound, lower + (bound - lower) * (rank - below) / (count - below))
        lower, below = bound, max(below, count)
    return lower


def _buckets(series: Mapping[Labels, float]) -> dict[float, float]:
    """Return the buckets of all series of one histogram together."""
    found: dict[float, float] = {}
    for labels, count in series.items():
        try:
            bound = float(dict(labels)[_BOUND])
        except (KeyError, ValueError):
            continue
        found[bound] = found.get(bound, 0.0) + count
    return found
