"""The items that travel from the intake to the commit: a record, and where it came from.

Nothing here knows of Kubernetes: a record may also come from a request over HTTP.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from datastorage.logs import TRACE_ID, object_fields
from datastorage.records.record import Record, StoredRecord
from datastorage.resources.reading.registry import correlation_id_of, kind_of
from datastorage.tracing import TakenIn

# The memory that an item takes besides its content: columns, references, the entries that point to it.
_OVERHEAD_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Rejection:
    """The archive could not take a record as a row; its bytes are kept, with this reason."""

    reason: str


Outcome = StoredRecord | Rejection


class Origin(Protocol):
    """The source of a record. One of the two methods is called, at most once."""

    async def committed(self, outcome: Outcome) -> None:
        """Take the outcome of the commit. This call may wait, and the committer waits with it."""

    def given_up(self, reason: str) -> None:
        """Note that the record was not committed, and has been dropped from memory."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The name that an object gives as its author. It counts only if authors.py finds that it is genuine.

    ``author`` is None if the object names nobody. ``read_at``: when the object had been read, in monotonic
    seconds.
    """

    author: str | None
    read_at: float


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A record on its way to the commit. ``stamp`` is None if the record did not come from an object.

    ``taken_in`` is what its trace needs; None while no traces are made.
    """

    record: Record
    origin: Origin
    stamp: Stamp | None = None
    taken_in: TakenIn | None = None

    @property
    def size(self) -> int:
        """The memory that the item takes, in bytes, approximately."""
        return len(self.record.content) + _OVERHEAD_BYTES

    @property
    def title(self) -> str:
        """Kind, namespace and name, for people."""
        return f"{kind_of(self.record.table).kind} {self.record.namespace}/{self.record.name}"

    def as_log_fields(self) -> dict[str, str]:
        """Return the fields that name the record's object, and its trace, in a log entry."""
        fields = log_fields(self.record)
        trace_id = None if self.taken_in is None else self.taken_in.trace_id
        return fields if trace_id is None else fields | {TRACE_ID: trace_id}


def log_fields(record: Record) -> dict[str, str]:
    """Return the fields that name a record's object in a log entry."""
    return object_fields(
        kind=kind_of(record.table).kind,
        namespace=record.namespace,
        name=record.name,
        uid=record.key.uid,
        correlation_id=correlation_id_of(record),
    )
