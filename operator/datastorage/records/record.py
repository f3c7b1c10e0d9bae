"""The archive's rows as values: one stored generation of one object."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from datastorage.records.hashes import text_hash
from datastorage.records.vectorwrite import WITHOUT_VECTORS, VectorWrite


class Table(StrEnum):
    """The two archive tables; each has its own typed columns in addition to the common ones."""

    AUDIT_RECORDS = "audit_records"
    ACTION_TRACES = "action_traces"


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The key of a stored record: its object, its generation and its spec.

    ``created_at`` selects the partition and never changes for a uid. ``spec_hash`` is the SHA-256 of the
    canonical spec: after a cluster was restored from a backup, or cloned, the same generation may come with
    another spec. ``generation`` counts the specs of the object (``spec_generation`` in
    resources/reading/objectrecord.py).
    """

    uid: str
    generation: int
    created_at: datetime
    spec_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A text and its SHA-256, by which its vector is found. An empty text has no vector."""

    hash: bytes
    text: str

    @classmethod
    def of(cls, text: str) -> "Text":
        """Return a text with its hash."""
        return cls(text_hash(text), text)


class Via(StrEnum):
    """The way by which a record came in."""

    CLUSTER = "cluster"
    """A custom resource, which the operator has watched."""
    API = "api"
    """A request over HTTP."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A client's own identifier of a record, under which it may send the record again.

    ``identifier_hash`` is the SHA-256 of the identifier, which counts within the record's namespace.
    ``request_hash`` is that of what the client has sent: the same identifier with another request is refused.
    """

    identifier_hash: bytes
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """The record that a claim belongs to since an earlier request, and whether that request was the same."""

    key: RecordKey
    same_request: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One generation of one object, ready to be stored.

    ``content`` is the evidence, ``content_hash`` the SHA-256 of exactly those bytes. ``index`` holds the
    typed values to filter by, in the order of the columns that resources/reading declares for the table; a
    value that its column can't hold is None there and still exact in ``content``. ``text`` is the meaning of
    the record in words, from which its vector is made; None if no vectors are kept. ``resource_version``
    orders the writes of one cluster; 0 if it is not known. ``recorded_by`` is the name of the user who
    sent the request or wrote the object, by the word of the API server; None if it does not vouch for one.
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
    via: Via = Via.CLUSTER
    recorded_by: str | None = None
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """The row that the archive holds for a key: hash of the bytes, time of the commit, state of the vector.

    ``diverged`` means that a different content was already stored under its uid and generation. ``is_new``
    means that this write added the row. ``claimed`` is set where the record's claim belongs to an earlier
    record: the answer is about that one, and nothing was written.
    """

    content_hash: bytes
    stored_at: datetime
    vector: VectorWrite = WITHOUT_VECTORS
    diverged: bool = False
    is_new: bool = field(default=False, compare=False)
    claimed: Claimed | None = field(default=None, compare=False)
