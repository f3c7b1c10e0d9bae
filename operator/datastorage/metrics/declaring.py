"""How a metric is declared: its name, its labels with their values, what it means, and a query that uses it.

A series exists from the moment at which the values of its labels are known, with the value 0: then a ratio is
0 and not absent, and the first event counts in a rate. A value that was not declared is an error.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from math import prod
from typing import Any, Final, Generic, Literal, Self, TypeVar, TypeVarTuple, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

REGISTRY: Final = CollectorRegistry()

# The library would add the time of creation to each counter and histogram, as a series of its own.
disable_created_metrics()  # type: ignore[no-untyped-call]

# What the library adds to the names of series.
_SUFFIXES: Final = {"counter": "_total", "info": "_info"}

Type = Literal["counter", "gauge", "histogram", "info"]
M = TypeVar("M", bound=MetricWrapperBase)
V = TypeVar("V", bound=str)
A = TypeVar("A", bound=str)
B = TypeVar("B", bound=str)
C = TypeVar("C", bound=str)
Ts = TypeVarTuple("Ts")


class Word(StrEnum):
    """A value of a label, with what it means."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        word = str.__new__(cls, value)
        word._value_ = value
        word.meaning = meaning
        return word


@dataclass(frozen=True, slots=True)
class Label(Generic[V]):
    """A label. ``values`` are all that it may have, or none if they are known only at the start.

    ``meaning`` is needed where the values are no words that have a meaning of their own.
    """

    name: str
    values: Sequence[V]
    meaning: str = ""


def words(name: str, values: Iterable[V], meaning: str = "") -> Label[V]:
    """Return a label with all its values, such as an enumeration."""
    return Label(name, tuple(values), meaning)


def known_later(name: str, meaning: str) -> Label[str]:
    """Return a label whose values are known only at the start."""
    return Label(name, (), meaning)


@dataclass(frozen=True, slots=True)
class Labels(Generic[*Ts]):
    """The labels of a metric, in their order."""

    each: tuple[Label[Any], ...]


@overload
def by(first: Label[A], /) -> Labels[A]: ...
@overload
def by(first: Label[A], second: Label[B], /) -> Labels[A, B]: ...
@overload
def by(first: Label[A], second: Label[B], third: Label[C], /) -> Labels[A, B, C]: ...
def by(*labels: Label[Any]) -> Labels[*tuple[Any, ...]]:
    """Return the labels of a metric."""
    return Labels(labels)


@dataclass(frozen=True, slots=True)
class About:
    """What a person needs to know about a metric."""

    meaning: str
    """One sentence without its full stop, which is also the help text in `/metrics`."""
    normal: str
    """What is normal, and when to look."""
    query: str
    """A query in PromQL that uses the metric."""
    appears: str = ""
    """When its series appear, if not all are there when this package is imported. ``declare`` makes them."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as it is declared; ``name`` is that of its series, without the suffixes of a histogram's."""

    name: str
    type: Type
    about: About
    labels: tuple[Label[Any], ...]
    lines: int
    """Lines in `/metrics` for each combination of the labels' values."""
    family: "Family[Any, *tuple[Any, ...]] | None"

    @property
    def most(self) -> int:
        """The number of its lines in `/metrics`, with all that was declared or may be."""
        return self.lines * (1 if self.family is None else self.family.most)


class UndeclaredSeriesError(Exception):
    """A value of a label was used that is not declared: a fault of this program."""


class Family(Generic[M, *Ts]):
    """A metric with labels, and a series for each declared combination of their values."""

    def __init__(self, metric: M, labels: Labels[*Ts], *, is_made: bool, most: int | None) -> None:
        """``is_made``: whether all series are made at once, as the values of all labels are known.

        ``most`` is the number of combinations, where the labels do not tell.
        """
        self._metric = metric
        self._labels = labels.each
        self._series: dict[tuple[str, ...], M] = {}
        self._most = most
        if is_made:
            for values in product(*(label.values for label in self._labels)):
                self._add(values)

    @property
    def most(self) -> int:
        """The greatest number of combinations."""
        return self._most or prod(len(label.values) for label in self._labels) or len(self._series)

    @property
    def name(self) -> str:
        """The name in `/metrics`."""
        return exposed_name(self._metric)

    @property
    def combinations(self) -> Sequence[tuple[str, ...]]:
        """The combinations of values that have a series."""
        return list(self._series)

    def declare(self, *values: *Ts) -> M:
        """Make the series of these values unless it is there, and return it.

        Raises UndeclaredSeriesError if a label has only certain values, and this is none of them.
        """
        named = tuple(str(value) for value in values)
        for label, value in zip(self._labels, named, strict=True):
            if label.values and value not in label.values:
                raise UndeclaredSeriesError(f"the label {label.name} of a metric can't be {value!r}")
        return self._add(named)

    def labels(self, *values: *Ts) -> M:
        """Return the series of these values. Raises UndeclaredSeriesError."""
        series = self._series.get(values)  # type: ignore[arg-type]  # the words are texts
        if series is None:
            raise UndeclaredSeriesError(f"no series of a metric is declared for {values}")
        return series

    def _add(self, values: tuple[str, ...]) -> M:
        if values not in self._series:
            self._series[values] = self._metric.labels(*values)
        return self._series[values]


@dataclass
class Chapter:
    """Metrics about one subject, in the order in which the reference shows them."""

    title: str
    metrics: list[Declared] = field(default_factory=list)

    def counter(self, name: str, about: About) -> Counter:
        """Declare a counter without labels."""
        metric = Counter(name, about.meaning, registry=REGISTRY)
        self._note(name, "counter", about)
        return metric

    def counters(
        self, name: str, labels: Labels[*Ts], about: About, *, most: int | None = None
    ) -> Family[Counter, *Ts]:
        """Declare a counter with labels."""
        metric = Counter(name, about.meaning, _names(labels), registry=REGISTRY)
        family = Family(metric, labels, is_made=not about.appears, most=most)
        self._note(name, "counter", about, labels.each, family=family)
        return family

    def gauge(self, name: str, about: About) -> Gauge:
        """Declare a gauge without labels."""
        metric = Gauge(name, about.meaning, registry=REGISTRY)
        self._note(name, "gauge", about)
        return metric

    def gauges(
        self, name: str, labels: Labels[*Ts], about: About, *, most: int | None = None
    ) -> Family[Gauge, *Ts]:
        """Declare a gauge with labels."""
        metric = Gauge(name, about.meaning, _names(labels), registry=REGISTRY)
        family = Family(metric, labels, is_made=not about.appears, most=most)
        self._note(name, "gauge", about, labels.each, family=family)
        return family

    def histogram(self, name: str, buckets: Sequence[float], about: About) -> Histogram:
        """Declare a histogram without labels."""
        metric = Histogram(name, about.meaning, registry=REGISTRY, buckets=buckets)
        self._note(name, "histogram", about, lines=_lines(buckets))
        return metric

    def histograms(
        self, name: str, labels: Labels[*Ts], buckets: Sequence[float], about: About
    ) -> Family[Histogram, *Ts]:
        """Declare a histogram with labels."""
        metric = Histogram(name, about.meaning, _names(labels), registry=REGISTRY, buckets=buckets)
        family = Family(metric, labels, is_made=not about.appears, most=None)
        self._note(name, "histogram", about, labels.each, lines=_lines(buckets), family=family)
        return family

    def info(self, name: str, label: Label[str], value: str, about: About) -> Info:
        """Declare a metric that is always 1, and whose label says something about the process."""
        metric = Info(name.removesuffix("_info"), about.meaning, registry=REGISTRY)
        metric.info({label.name: value})
        self._note(name, "info", about, (label,))
        return metric

    def _note(
        self,
        name: str,
        type: Type,  # noqa: A002  # Prometheus' word
        about: About,
        labels: tuple[Label[Any], ...] = (),
        *,
        lines: int = 1,
        family: Any = None,
    ) -> None:
        self.metrics.append(Declared(name, type, about, labels, lines, family))


def exposed_name(metric: MetricWrapperBase) -> str:
    """Return the name in `/metrics`; that of a histogram is without the suffixes of its series."""
    [described] = metric.describe()
    return described.name + _SUFFIXES.get(described.type, "")


def _names(labels: Labels[*Ts]) -> list[str]:
    return [label.name for label in labels.each]


def _lines(buckets: Sequence[float]) -> int:
    return len(buckets) + 3  # the bucket +Inf, the sum and the count


class Share:
    """One component's share of a gauge, which is the sum of all shares."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0.0

    def set(self, value: float) -> None:
        """Change the share; the gauge changes by the difference."""
        self._gauge.inc(value - self._value)
        self._value = value

    def close(self) -> None:
        """Remove the share when its component ends."""
        self.set(0.0)


class Combined:
    """A gauge that is the sum, or the greatest, of what several components say when it is read."""

    def __init__(self, gauge: Gauge, combine: Callable[[Iterable[float]], float]) -> None:
        """``combine`` is ``sum`` or ``max``. The gauge is 0 without a component."""
        self._parts: list[Callable[[], float]] = []
        self._combine = combine
        gauge.set_function(self._value)

    def add(self, part: Callable[[], float]) -> None:
        """Add a component's function; it is called at each scrape."""
        self._parts.append(part)

    def remove(self, part: Callable[[], float]) -> None:
        """Remove the function when its component ends."""
        self._parts.remove(part)

    def _value(self) -> float:
        return self._combine([part() for part in self._parts]) if self._parts else 0.0
