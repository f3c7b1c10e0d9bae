"""The trace of a record, as a function of the record's identity.

The steps of a record are hours and restarts apart, and any replica may do any of them: the vector may follow
from the outbox, and the object is deleted days after the commit. So the ids come from the uid alone. Nothing
has to be stored, passed on or agreed on for all steps to be in one trace, and a person who has a uid can
find the trace without the log::

    printf %s UID | sha256sum | cut -c 1-32

The uid itself would not do as an id: samplers take the low 64 bits for random, and in a UUID the highest of
these are always the same. With a ratio of 0.1, no trace would be recorded.
"""

from dataclasses import dataclass
from typing import Final

from datastorage.records.hashes import sha256

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Place:
    """A span in a trace, by its ids. Neither of them is ever 0, which would be no id."""

    trace_id: int
    span_id: int


def trace_id_of(uid: str) -> int:
    """Return the id of the trace of all records that have this uid: all generations of one object."""
    return int.from_bytes(sha256(uid.encode("utf-8", "replace"))[:_TRACE_BYTES]) or 1


def first_span_of(uid: str, generation: int) -> Place:
    """Return the first span of a generation in that trace: all later steps are its children."""
    digest = sha256(f"{uid}/{generation}".encode("utf-8", "replace"))
    return Place(trace_id_of(uid), int.from_bytes(digest[:_SPAN_BYTES]) or 1)
