"""The states of the writes that store a record, and the write of its vector."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from datastorage.records.reasons import Reason


class WriteState(StrEnum):
    """The state of a write; the values are those of an object's status."""

    PENDING = "Pending"
    WRITTEN = "Written"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class OutboxState(StrEnum):
    """The state of a vector that was not written with its record."""

    PENDING = "pending"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class VectorWrite:
    """The write of a record's vector.

    ``message`` is a sentence for people, ``model`` the name of the model that makes the vector. ``at`` is the
    time at which the state was reached; None if that was when the row was stored.
    """

    state: WriteState
    reason: Reason
    message: str = ""
    model: str | None = None
    at: datetime | None = None

    @property
    def is_held_up(self) -> bool:
        """Whether the vector is pending for another reason than that it is made in the background."""
        return self.state is WriteState.PENDING and self.reason is not Reason.QUEUED


WITHOUT_VECTORS: Final = VectorWrite(WriteState.SKIPPED, Reason.NO_PROVIDER, "no vectors are kept")
WITHOUT_TEXT: Final = VectorWrite(WriteState.SKIPPED, Reason.NO_TEXT, "the record has no words to search by")
NOT_STORED: Final = VectorWrite(WriteState.SKIPPED, Reason.REJECTED, "the record is not stored")
