"""One page of `/metrics` as values, found by the declaration of a metric and the words of its labels."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from datastorage.errors import TransientError
from datastorage.metrics import BUILD_INFO, PROCESS_START, Family, exposed_name

Metric = MetricWrapperBase | Family[Any, *tuple[Any, ...]]
Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""
Series = Mapping[Labels, float]

BUCKETS: Final = "_bucket"
"""What the library adds to the name of a histogram for the series of its buckets."""
_NOTHING: Final[Series] = {}


@dataclass(frozen=True, slots=True)
class Page:
    """The series of one process, by name."""

    series: Mapping[str, Series]

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Return the page. Raises TransientError if this program has not written it."""
        found: dict[str, dict[Labels, float]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if math.isfinite(sample.value):
                        found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        except (ValueError, IndexError, KeyError, AttributeError):  # the library's parser checks little
            raise TransientError("the answer is no page of metrics") from None
        if exposed_name(BUILD_INFO) not in found:
            raise TransientError("the answer has no metrics of Data Storage")
        return cls(found)

    def of(self, metric: Metric, suffix: str = "") -> Series:
        """Return the series of a metric; none if the page does not have it."""
        return self.series.get(name_of(metric) + suffix, _NOTHING)

    def values(self, metric: Metric, *words: str) -> list[float]:
        """Return the values of the series whose labels have all these words."""
        return [value for labels, value in self.of(metric).items() if has_words(labels, words)]

    def by_word(self, family: Metric) -> Iterator[tuple[str, float]]:
        """Return the values of a metric with one label, with the label's words."""
        return ((labels[0][1], value) for labels, value in self.of(family).items() if len(labels) == 1)

    @property
    def version(self) -> str:
        """The version of the program; empty if it does not say."""
        return next((value for labels in self.of(BUILD_INFO) for _, value in labels), "")

    @property
    def started(self) -> datetime | None:
        """When the process began, by its own clock; None where the system does not say."""
        seconds = self.series.get(PROCESS_START, _NOTHING).get(())
        try:
            return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return None


def name_of(metric: Metric) -> str:
    """Return the name of a metric in a page."""
    return metric.name if isinstance(metric, Family) else exposed_name(metric)


def has_words(labels: Labels, words: tuple[str, ...]) -> bool:
    """Return whether each word is the value of a label."""
    values = {value for _, value in labels}
    return values.issuperset(words)
