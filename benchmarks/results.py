"""The measured values, as they stand in the JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """The scenario's cost: CPU, memory, and writes to the API server by its own count.

    CPU times are ms per object: the operator's, and those of PostgreSQL and of API server with etcd, whose
    work for the benchmark's own polls is included.
    """

    cpu_ms_per_object: float
    postgres_cpu_ms_per_object: float
    control_plane_cpu_ms_per_object: float
    peak_rss_mib: float
    writes_per_object: float
    requests: dict[str, int]


@dataclass(frozen=True)
class Latency:
    """Seconds from the answer to a create to the watch event that shows the object Stored, in ms."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Result:
    """One scenario. Rates are objects per second."""

    scenario: str
    title: str
    objects: int
    rates: dict[str, float]
    ratio_to_limit: float | None = None
    cost: Cost | None = None
    latency: Latency | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures, by names that say what and in which unit."""
    others_cpu_share: float = 0.0
    """How much of the machine's CPU time others used meanwhile, from 0 to 1."""


def latency_of(seconds: Sequence[float]) -> Latency:
    """Return the percentiles of a set of latencies."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return Latency(at(0.5), at(0.95), at(0.99), round(1000 * ordered[-1], 1))
