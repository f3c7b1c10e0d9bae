"""The numbers to reach, and which of them a run has reached."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.apimetrics import REVIEWS
from benchmarks.countingcost import SHARE as METRICS_SHARE
from benchmarks.results import Result


@dataclass(frozen=True)
class Target:
    """One number of one scenario. ``value`` returns None where the scenario did not measure it."""

    scenario: str
    name: str
    sign: str
    bound: float
    value: Callable[[Result], float | None]

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"{self.sign} {self.bound:g}"

    def is_met(self, value: float) -> bool:
        """Return whether the value is on the right side of the bound."""
        if self.sign == "=":
            return value == self.bound
        return value >= self.bound if self.sign == ">=" else value <= self.bound


@dataclass(frozen=True)
class Verdict:
    """Whether this run has met a target."""

    target: Target
    value: float
    met: bool


def _cpu(result: Result) -> float | None:
    return result.cost.cpu_ms_per_object if result.cost else None


def _writes(result: Result) -> float | None:
    return result.cost.writes_per_object if result.cost else None


def _rss(result: Result) -> float | None:
    return result.cost.peak_rss_mib if result.cost else None


def _p95(result: Result) -> float | None:
    return result.latency.p95_ms if result.latency else None


def _figure(name: str) -> Callable[[Result], float | None]:
    return lambda result: result.figures.get(name)


_OUTAGES: Final = ("h-redis", "h-embedder", "h-vector-server", "h-embedder-and-vector-server")

# The searches by meaning: without a filter, with one that leaves 1 %, and 0.01 % (search_speed.py).
_SEARCHES: Final = ("i1", "i2", "i3")
_WHILE_WRITING: Final = "i8"

_BUSIEST: Final = "CPU of the busiest replica, of one shard's"

TARGETS: Final = (
    Target("b", "drain, share of the limit", ">=", 0.75, lambda result: result.ratio_to_limit),
    Target("b", "API writes per object", "=", 2, _writes),
    Target("b", "operator CPU ms per object", "<=", 2, _cpu),
    Target("c", "API writes per object at ttl 0", "=", 1, _writes),
    Target("d", "p95 of created to Stored, ms", "<=", 250, _p95),
    Target("d", "API writes per object", "=", 2, _writes),
    Target("e", "rows committed per second", ">=", 700, lambda result: result.rates["rows"]),
    Target("e", "peak RSS in MiB", "<=", 300, _rss),
    Target("e", "operator CPU ms per object", "<=", 2, _cpu),
    Target("e", "API writes per object", "=", 2, _writes),
    Target("f10", "share of the drain without vectors", ">=", 0.9, _figure("ratio")),
    Target("f100", "share of the drain without vectors", ">=", 0.8, _figure("ratio")),
    Target("f100", "peak RSS in MiB with everything on", "<=", 400, _rss),
    Target("g-redis", "share of the drain with Redis", ">=", 0.8, _figure("ratio")),
    Target("g-embedder", "share of the drain with the embedder", ">=", 0.8, _figure("ratio")),
    Target("j1", "requests per second", ">=", 600, lambda result: result.rates["requests"]),
    Target("j1", "peak RSS in MiB with everything on", "<=", 400, _figure("peak RSS MiB")),
    Target("j2", "p95 in ms", "<=", 50, _p95),
    Target("j3", "share of a bare insert", ">=", 0.25, _figure("of a bare insert")),
    Target("j4", "requests per second", ">=", 1000, lambda result: result.rates["requests"]),
    Target("j5", "p95 in ms", "<=", 20, _p95),
    Target("j6", "p95 in ms", "<=", 50, _p95),
    Target("j7", "p95 in ms", "<=", 100, _p95),
    Target("j8", "MB per second", ">=", 20, _figure("MB/s")),
    *(
        Target("j1", f"{review} beyond one in 10 s", "=", 0, _figure(f"{review} too many"))
        for review in REVIEWS
    ),
    Target("k1", "requests per second", ">=", 1000, lambda result: result.rates["requests"]),
    Target("k2", "p95 in ms", "<=", 20, _p95),
    Target("k3", "p95 in ms", "<=", 50, _p95),
    Target("k4", "p95 in ms", "<=", 100, _p95),
    Target("k5", "MB per second", ">=", 20, _figure("MB/s")),
    Target("k1", "peak RSS in MiB", "<=", 400, _figure("peak RSS MiB")),
    Target("l", "share of the drain without reads", ">=", 0.9, _figure("of the drain without reads")),
    Target("l", "peak RSS in MiB", "<=", 400, _figure("peak RSS MiB")),
    Target("m", "share of the drain with one shard", ">=", 0.95, _figure("of the drain with one shard")),
    Target("m", _BUSIEST, "<=", 0.7, _figure(_BUSIEST)),
    Target("n", METRICS_SHARE, "<=", 0.02, _figure(METRICS_SHARE)),
    *(Target(case, "recall@10", ">=", 0.95, _figure("recall@10")) for case in _SEARCHES),
    *(Target(case, "p95 in ms", "<=", 100, _figure("p95 ms")) for case in (*_SEARCHES, _WHILE_WRITING)),
    *(Target(case, "times pgvector alone", "<=", 1.5, _figure("times pgvector alone")) for case in _SEARCHES),
    *(
        Target(outage, "s until all is Stored again", "<=", 10, _figure("caught up after, s"))
        for outage in _OUTAGES
    ),
    *(
        Target(outage, "rows stored of the load meanwhile", ">=", 0.8, _figure("of the load"))
        for outage in _OUTAGES
    ),
)


def judge(results: Mapping[str, Result]) -> list[Verdict]:
    """Compare the results with the targets of the scenarios that ran."""
    verdicts: list[Verdict] = []
    for target in TARGETS:
        result = results.get(target.scenario)
        value = target.value(result) if result else None
        if value is not None:
            verdicts.append(Verdict(target, value, target.is_met(value)))
    return verdicts
