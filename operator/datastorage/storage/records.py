"""The archive's rows as values: what one stored generation of one object is."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Table(StrEnum):
    """The two archive tables; each has its own typed columns beside the common ones."""

    AUDIT_RECORDS = "audit_records"
    ACTION_TRACES = "action_traces"


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What makes a stored record unique. ``created_at`` selects the partition and never changes for a uid."""

    uid: str
    generation: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """One generation of one object, ready to be stored.

    ``content`` is the evidence, ``content_hash`` the SHA-256 of exactly those bytes. ``index`` holds the
    typed columns extracted for filters, in the order of the table's insert statement; a value that
    can't be expressed in its column is None there and still exact in ``content``.
    """

    table: Table
    key: RecordKey
    namespace: str
    name: str
    content: bytes = field(repr=False)
    content_hash: bytes = field(repr=False)
    index: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What the archive holds for a key: hash of the stored bytes and the commit's time stamp.

    ``is_new``: the row was added by the statement that returned this.
    """

    content_hash: bytes
    stored_at: datetime
    is_new: bool = field(default=False, compare=False)
