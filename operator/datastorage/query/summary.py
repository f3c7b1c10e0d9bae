"""A record in a few words, for one line of a table."""

from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.resources.reading.registry import reading_named


def outcome_of(record: ArchivedRecord) -> str:
    """Return the phase of an AuditRecord, or the execution status of an ActionTrace."""
    return reading_named(record.kind).outcome(record.spec)


def target_of(record: ArchivedRecord) -> str:
    """Return the object that the record is about."""
    return reading_named(record.kind).target(record.spec)


def summary_of(record: ArchivedRecord) -> str:
    """Return what was done, and the remark on it."""
    return reading_named(record.kind).summary(record.spec)
