"""Looks up rows: many at once, or fewer if PostgreSQL takes too long for many."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from datastorage.records.record import RecordKey, StoredRecord, Table
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import in_halves


class Archive(Protocol):
    """The look-up of rows (storage/write.py)."""

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows that were found, and the keys that PostgreSQL gave no answer for, with the reason."""

    found: dict[RecordKey, StoredRecord] = field(default_factory=dict)
    unanswered: dict[RecordKey, str] = field(default_factory=dict)


async def look_up(archive: Archive, breaker: Breaker, table: Table, keys: Sequence[RecordKey]) -> Answer:
    """Look up rows; wait while PostgreSQL is away."""
    answer = Answer()
    if not keys:
        return answer

    def unanswered(key: RecordKey, error: Exception) -> None:
        answer.unanswered[key] = str(error)

    for rows in await in_halves(breaker, partial(archive.find, table), keys, unanswered):
        answer.found.update(rows)
    return answer
