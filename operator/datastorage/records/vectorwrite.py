"""The writes that storing a record consists of, and their states."""

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


@dataclass(frozen=True, slots=True)
class VectorWrite:
    """The write of a record's vector.

    ``message`` is a sentence for people, ``model`` the name of the model that makes the vector. ``at`` is
    when the state was reached, where that was later than the row.
    """

    state: WriteState
    reason: Reason
    message: str = ""
    model: str | None = None
    at: datetime | None = None


WITHOUT_VECTORS: Final = VectorWrite(WriteState.SKIPPED, Reason.NO_PROVIDER, "no vectors are kept")
WITHOUT_TEXT: Final = VectorWrite(WriteState.SKIPPED, Reason.NO_TEXT, "the record has no words to search by")
NOT_STORED: Final = VectorWrite(WriteState.SKIPPED, Reason.REJECTED, "the record is not stored")
