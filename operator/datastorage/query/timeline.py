"""The records of one remediation in the order in which things happened."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from datastorage.query.records import ArchivedRecord
from datastorage.resources import ACTION_TRACE


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A record, and when that happened which it tells."""

    at: datetime
    record: ArchivedRecord


@dataclass(frozen=True, slots=True)
class Timeline:
    """A remediation."""

    entries: tuple[TimelineEntry, ...]
    complete: bool
    """False where there are more records than one answer holds; those created last are missing."""


def in_order(records: Iterable[ArchivedRecord]) -> tuple[TimelineEntry, ...]:
    """Return the records in order.

    An AuditRecord stands at its startTime, else at its creation. A generation of an ActionTrace stands where
    its newest news is: the last of its creation, the start and the end of its execution, and its assessment.
    A generation without news (a change of the parameters, say) stands with the one before it. So a trace
    reads as chosen, begun, ended, assessed, whenever the archive came to know of it.
    """
    entries = [TimelineEntry(_time_of(record), record) for record in records]
    return tuple(sorted(entries, key=_order))


def _order(entry: TimelineEntry) -> tuple[datetime, datetime, str, int]:
    record = entry.record
    return entry.at, record.created_at, record.uid, record.generation


def _time_of(record: ArchivedRecord) -> datetime:
    if record.kind != ACTION_TRACE.kind:
        return _time(record.spec, "startTime") or record.created_at
    execution, effectiveness = _mapping(record.spec, "execution"), _mapping(record.spec, "effectiveness")
    news = (
        _time(execution, "startTime"),
        _time(execution, "endTime"),
        _time(effectiveness, "assessedAt"),
    )
    return max([record.created_at, *(time for time in news if time is not None)])


def _mapping(parent: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = parent.get(field)
    return value if isinstance(value, Mapping) else {}


def _time(parent: Mapping[str, Any], field: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(parent[field])
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None  # the calendar here lacks leap seconds and the year 0
