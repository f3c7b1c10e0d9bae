"""The archive in numbers: the records of some time, counted by one or two keys."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from datastorage.errors import InvalidQueryError
from datastorage.query.filters import Filter
from datastorage.records.times import rfc3339
from datastorage.storage.groups import Group, GroupKey, Groups

DEFAULT_DAYS: Final = 7
"""A summary begins this many days ago, at midnight in UTC, unless the question says since when."""
MAX_DAYS: Final = 366
"""The longest time that a summary covers: every row in it is read."""
DEFAULT_GROUPS: Final = 100
_MAX_KEYS: Final = 2


@dataclass(frozen=True, slots=True)
class ArchiveSummary:
    """Groups of records, the later days first, and then those with more records."""

    keys: tuple[GroupKey, ...]
    since: datetime
    until: datetime | None
    """None if the summary ends at the newest record."""
    groups: tuple[Group, ...]
    all_groups: int
    """The number of groups that there are."""
    all_records: int
    """The number of records in all of them."""

    @property
    def is_cut(self) -> bool:
        """Whether there are more groups than are here."""
        return self.all_groups > len(self.groups)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON, with the field names of the interfaces."""
        return {
            "groupBy": [str(key) for key in self.keys],
            "since": rfc3339(self.since),
            "until": None if self.until is None else rfc3339(self.until),
            "records": self.all_records,
            "groups": self.all_groups,
            "truncated": self.is_cut,
            "items": [self._item(group) for group in self.groups],
        }

    def _item(self, group: Group) -> dict[str, Any]:
        return {
            "group": {str(key): value for key, value in zip(self.keys, group.key, strict=True)},
            "records": group.records,
            "failed": group.failed,
            "duration": {
                "records": group.timed,
                "meanSeconds": group.mean_seconds,
                "p50Seconds": group.p50_seconds,
                "p95Seconds": group.p95_seconds,
            },
            "effectiveness": {"records": group.assessed, "mean": group.effectiveness},
        }


def group_keys(names: Sequence[str]) -> tuple[GroupKey, ...]:
    """Return one or two different keys. Raises InvalidQueryError, which lists the known ones."""
    known = {key.lower(): key for key in GroupKey}
    keys = [known.get(name.strip().lower()) for name in names]
    chosen = tuple(key for key in keys if key is not None)
    if len(chosen) < len(keys) or not 1 <= len(chosen) <= _MAX_KEYS or len(set(chosen)) < len(chosen):
        raise InvalidQueryError(
            f"give one or two of {', '.join(GroupKey)} to group by, not {','.join(names)[:50]!r}"
        )
    return chosen


def bounded(filter: Filter, now: datetime) -> Filter:  # noqa: A002  # the word of the interface
    """Return the filter with a beginning. Raises InvalidQueryError for too long a time."""
    filter.criteria()  # refuses times without a time zone
    end = filter.until if filter.until is not None else now
    try:
        since = filter.since
        if since is None:  # whole days, so that the same question soon has the same answer
            since = (end.astimezone(UTC) - timedelta(days=DEFAULT_DAYS)).replace(
                hour=0, minute=0, second=0, microsecond=0
            )
    except OverflowError:
        raise InvalidQueryError(f"until must be at least {DEFAULT_DAYS} days after the year 0") from None
    if end - since > timedelta(days=MAX_DAYS):
        raise InvalidQueryError(f"a summary covers {MAX_DAYS} days at most: give a later since")
    return replace(filter, since=since)


def summary_of_groups(keys: tuple[GroupKey, ...], asked: Filter, found: Groups) -> ArchiveSummary:
    """Return the answer to a question for a summary."""
    assert asked.since is not None  # see ``bounded``
    return ArchiveSummary(keys, asked.since, asked.until, found.groups, found.all_groups, found.all_records)
