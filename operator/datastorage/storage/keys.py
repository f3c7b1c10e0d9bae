"""Converts keys of records into arguments of statements, and rows of results into keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from datastorage.records.record import RecordKey


def key_columns(keys: Sequence[RecordKey]) -> tuple[list[str], list[int], list[datetime], list[bytes]]:
    """Return the keys as columns, in the order of the primary key."""
    return (
        [key.uid for key in keys],
        [key.generation for key in keys],
        [key.created_at for key in keys],
        [key.spec_hash for key in keys],
    )


def key_in(row: Mapping[str, Any]) -> RecordKey:
    """Return the key in a row of a result."""
    return RecordKey(str(row["uid"]), row["generation"], row["created_at"], row["spec_hash"])
