"""Looks up the reading and the table of each kind."""

from typing import Final

from datastorage.records.record import Record, Table
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.reading import action_trace, audit_record
from datastorage.resources.reading.kindreading import Reading

READINGS: Final = (audit_record.READING, action_trace.READING)

_BY_KIND: Final = {reading.kind: reading for reading in READINGS}
_BY_NAME: Final = {reading.kind.kind: reading for reading in READINGS}
_BY_TABLE: Final = {reading.table: reading for reading in READINGS}
# The place of the correlation ID in the index of a record.
_CORRELATION: Final = {
    reading.table: [column.name for column in reading.columns].index("correlation_id") for reading in READINGS
}


def reading_of(kind: ResourceKind) -> Reading:
    """Return the reading of a kind."""
    return _BY_KIND[kind]


def reading_named(kind: str) -> Reading:
    """Return the reading of the kind with this name."""
    return _BY_NAME[kind]


def reading_of_table(table: Table) -> Reading:
    """Return the reading of the objects in a table."""
    return _BY_TABLE[table]


def table_of(kind: ResourceKind) -> Table:
    """Return the archive table of a kind."""
    return _BY_KIND[kind].table


def kind_of(table: Table) -> ResourceKind:
    """Return the kind of the objects in a table."""
    return _BY_TABLE[table].kind


def correlation_id_of(record: Record) -> str | None:
    """Return the incident that a record belongs to, as its column holds it; None if it names none."""
    found: str | None = record.index[_CORRELATION[record.table]]
    return found
