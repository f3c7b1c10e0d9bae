"""The archive's rows as values: what one stored generation of one object is."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

NO_TEXT: Final = hashlib.sha256(b"").digest()
"""The hash of the empty text, which all records without words share, and nothing else."""


class Table(StrEnum):
    """The two archive tables; each has its own typed columns beside the common ones."""

    AUDIT_RECORDS = "audit_records"
    ACTION_TRACES = "action_traces"


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What makes a stored record unique: which generation of which object, and what it says.

    ``created_at`` selects the partition and never changes for a uid. ``spec_hash`` is the SHA-256 of the
    canonical spec: after a cluster was restored from a backup, or cloned, the same generation may come with
    another spec. ``generation`` counts the specs of the object (``spec_generation`` in pipeline/extract.py).
    """

    uid: str
    generation: int
    created_at: datetime
    spec_hash: bytes = field(repr=False)


def key_columns(keys: Sequence[RecordKey]) -> tuple[list[str], list[int], list[datetime], list[bytes]]:
    """Return the keys as columns, in the order of the primary key."""
    return (
        [key.uid for key in keys],
        [key.generation for key in keys],
        [key.created_at for key in keys],
        [key.spec_hash for key in keys],
    )


def key_in(row: Mapping[str, Any]) -> RecordKey:
    """Return the key in a row of an answer."""
    return RecordKey(str(row["uid"]), row["generation"], row["created_at"], row["spec_hash"])


@dataclass(frozen=True, slots=True)
class Text:
    """A text and its SHA-256, by which its vector is found. An empty text has no vector."""

    hash: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One generation of one object, ready to be stored.

    ``content`` is the evidence, ``content_hash`` the SHA-256 of exactly those bytes. ``index`` holds the
    typed columns extracted for filters, in the order of the table's insert statement; a value that
    can't be expressed in its column is None there and still exact in ``content``. ``text`` is what the
    record means, in words, and what its vector is made of; None where no vectors are kept.
    ``resource_version`` tells which of two objects of a cluster was written first; 0 where that is not known.
    """

    table: Table
    key: RecordKey
    namespace: str
    name: str
    content: bytes = field(repr=False)
    content_hash: bytes = field(repr=False)
    index: tuple[Any, ...] = field(repr=False)
    text: Text | None = field(default=None, repr=False)
    resource_version: int = 0


class VectorState(StrEnum):
    """What has become of the vector of a stored record; the values are those of its status."""

    WRITTEN = "Written"
    PENDING = "Pending"
    FAILED = "Failed"
    SKIPPED = "Skipped"


@dataclass(frozen=True, slots=True)
class VectorWrite:
    """The second of the two writes. ``reason`` is a word for programs, ``message`` a sentence for people."""

    state: VectorState
    reason: str
    message: str = ""
    model: str | None = None


WITHOUT_VECTORS = VectorWrite(VectorState.SKIPPED, "NoProvider", "no vectors are kept")
WITHOUT_TEXT = VectorWrite(VectorState.SKIPPED, "NoText", "the record has no words to search by")


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What the archive holds for a key: hash of the stored bytes, the commit's time stamp, the vector.

    ``vector_at``: when the vector was written, where that was later than the row. ``diverged``: when the row
    came, another content was stored under its uid and generation already. ``is_new``: the row was added by
    the statement that returned this.
    """

    content_hash: bytes
    stored_at: datetime
    vector: VectorWrite = WITHOUT_VECTORS
    vector_at: datetime | None = None
    diverged: bool = False
    is_new: bool = field(default=False, compare=False)
