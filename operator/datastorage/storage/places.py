"""Rows as readers get them: their places in the tables, their positions in a page, and their columns.

This module needs no connection: answers of a server have the same values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from datastorage.records.record import RecordKey, Table, Via
from datastorage.storage.keys import key_columns, key_in


@dataclass(frozen=True, slots=True)
class Place:
    """The table and the key of a row."""

    table: Table
    key: RecordKey


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a row in the order of a page: by the times, and then by the numbers.

    A position never changes and belongs to one row only, so that the next page can begin there even if rows
    were stored meanwhile.
    """

    times: tuple[datetime, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """The last number of a row's position: in a timeline, and in a list."""

    of_row: int
    of_object: int


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row of a page."""

    place: Place
    position: Position


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row as it is stored; the content is not checked against its hash yet."""

    place: Place
    namespace: str
    name: str
    stored_at: datetime
    content: bytes = field(repr=False)
    content_hash: bytes = field(repr=False)
    diverged: bool
    """Whether different content was stored under its uid and generation before."""
    via: Via
    recorded_by: str | None


@dataclass(frozen=True, slots=True)
class Outline:
    """The columns of a row, without its content. A long text is cut (MAX_INDEXED_CHARACTERS)."""

    place: Place
    namespace: str
    name: str
    stored_at: datetime
    content_hash: bytes = field(repr=False)
    diverged: bool
    via: Via
    recorded_by: str | None
    correlation_id: str | None
    type: str | None
    """The type of an AuditRecord."""
    action: str | None
    phase: str | None
    """The phase of an AuditRecord, or the status of the execution of an ActionTrace."""
    severity: str | None
    target: tuple[str | None, str | None, str | None]
    """Kind, namespace and name of the object that it is about."""


def place_columns(places: Sequence[Place]) -> tuple[list[Any], ...]:
    """Return places as columns: the tables, and the keys in the order of the primary key."""
    return [place.table.value for place in places], *key_columns([place.key for place in places])


def place_of(row: Any) -> Place:
    """Return the place of a row of a result."""
    return Place(Table(row["table_name"]), key_in(row))
