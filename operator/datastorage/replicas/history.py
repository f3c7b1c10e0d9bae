"""What a replica has said lately: the last two pages, and what was counted in the last minute.

A counter begins at 0 again when its process starts again. Then all that it shows was counted since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from datastorage.metrics import LIMITS_HIT, LOOP_HELD, STORED_SECONDS
from datastorage.replicas.page import BUCKETS, Labels, Metric, Page, Series, has_words, name_of

RECENT_SECONDS: Final = 60.0
"""What happens seldom is counted over so long."""
# Counted over the last minute, by the suffixes of their series.
_RECENT: Final[Sequence[tuple[Metric, str]]] = (
    (STORED_SECONDS, BUCKETS),
    (LOOP_HELD, BUCKETS),
    (LIMITS_HIT, ""),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A page, and when it was read."""

    at: float
    """By a clock that only goes forward, in seconds."""
    page: Page


@dataclass(frozen=True, slots=True)
class _Interval:
    """What was counted between two readings."""

    began: float
    increases: Mapping[str, Series]
    """By the names of the metrics."""


@dataclass(frozen=True, slots=True)
class History:
    """The readings of one replica. It is never changed: ``with_reading`` returns a longer one."""

    latest: Reading | None = None
    before: Reading | None = None
    _intervals: tuple[_Interval, ...] = field(default=(), repr=False)

    def with_reading(self, reading: Reading) -> Self:
        """Return the history after one more reading, without what is older than a minute."""
        if self.latest is None:
            return type(self)(reading)
        increases = {
            name_of(metric): increase_of(self.latest.page, reading.page, metric, suffix)
            for metric, suffix in _RECENT
        }
        intervals = (*self._intervals, _Interval(self.latest.at, increases))
        kept = tuple(one for one in intervals if one.began >= reading.at - RECENT_SECONDS) or intervals[-1:]
        return type(self)(reading, self.latest, kept)

    @property
    def seconds(self) -> float | None:
        """The time between the last two readings; None with fewer."""
        if self.latest is None or self.before is None or self.latest.at <= self.before.at:
            return None
        return self.latest.at - self.before.at

    @property
    def recent_seconds(self) -> float:
        """The time over which ``recent`` counts; 0 with fewer than two readings."""
        return self.latest.at - self._intervals[0].began if self.latest and self._intervals else 0.0

    def rate(self, metric: Metric, *words: str) -> float | None:
        """Return how much a counter grew in a second, between the last two readings; None with fewer.

        Only series count whose labels have all these words.
        """
        if self.latest is None or self.before is None or self.seconds is None:
            return None
        grown = increase_of(self.before.page, self.latest.page, metric)
        return sum(value for labels, value in grown.items() if has_words(labels, words)) / self.seconds

    def recent(self, metric: Metric) -> Series:
        """Return by how much each series of a metric has grown in the last minute."""
        total: dict[Labels, float] = {}
        for interval in self._intervals:
            for labels, value in interval.increases.get(name_of(metric), {}).items():
                total[labels] = total.get(labels, 0.0) + value
        return total


def increase_of(before: Page, after: Page, metric: Metric, suffix: str = "") -> Series:
    """Return by how much each series of a counter, or of a histogram's part, grew between two pages."""
    earlier, later = before.of(metric, suffix), after.of(metric, suffix)
    if before.started != after.started or any(later[key] < earlier.get(key, 0.0) for key in later):
        # The process has started again. A single series may have overtaken its earlier value since.
        return later
    return {key: value - earlier.get(key, 0.0) for key, value in later.items()}
