"""Groups of records in numbers, and the keys by which records are grouped.

This module needs no connection: answers of a server have the same values.
"""

from dataclasses import dataclass
from enum import StrEnum


class GroupKey(StrEnum):
    """The keys by which records are grouped."""

    TYPE = "type"
    """The type of an AuditRecord; "ActionTrace" for the other kind."""
    NAMESPACE = "namespace"
    ACTION = "action"
    """The action of an AuditRecord, the actionType of an ActionTrace."""
    TARGET_KIND = "targetKind"
    """The kind of the object that a record is about."""
    DAY = "day"
    """The day of creation, in UTC."""


@dataclass(frozen=True, slots=True)
class Group:
    """The records that have the same values of the keys."""

    key: tuple[str | None, ...]
    """The values, in the order of the keys; None for records that have no such value."""
    records: int
    failed: int
    """AuditRecords whose phase is Failed, and ActionTraces whose execution has failed or was rolled back."""
    timed: int
    """Records with a start and an end, of which the durations are."""
    mean_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    assessed: int
    """ActionTraces with an effectiveness score."""
    effectiveness: float | None
    """The mean score, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups, and the totals of all groups that there are."""

    groups: tuple[Group, ...]
    all_groups: int
    all_records: int
