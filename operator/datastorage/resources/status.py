"""What the operator writes back: the model of the status, and builders for the statuses it writes.

The builders are on the hot path (one status per object) and return plain dicts, meant to be sent as a JSON
merge patch: a key with None clears what an earlier generation left behind.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from datastorage.resources.base import ATOMIC_MAP, TEXT_LIMIT, Count, Label, Model, Text, Time
from datastorage.resources.kinds import Phase

STORED_CONDITION = "Stored"
EMBEDDED_CONDITION = "Embedded"


class WriteState(StrEnum):
    PENDING = "Pending"
    WRITTEN = "Written"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class PostgresWrite(Model):
    """The write of the row."""

    state: WriteState = Field(
        description="Written: the row is committed. Failed: the object cannot be stored as a row, its bytes "
        "are kept in the table of rejected objects. Pending: not tried yet."
    )
    at: Time | None = Field(None, description="When this state was reached.")


class VectorWrite(Model):
    """The write of the vector that makes the record findable by meaning."""

    state: WriteState = Field(
        description="Written: the vector is committed. Pending: it is still owed and will be made up for. "
        "Skipped: no vectors are kept. Failed: no vector can be made of this object."
    )
    at: Time | None = Field(None, description="When this state was reached.")
    model: Label | None = Field(None, description="The embedding model that made the vector.")


class Writes(Model):
    """The single writes that storing consists of."""

    postgres: PostgresWrite | None = Field(None, description="The row in PostgreSQL.")
    vector: VectorWrite | None = Field(None, description="The vector for searching by meaning.")


class Condition(Model):
    """One aspect of the state of the object."""

    type: Annotated[str, Field(min_length=1, max_length=316)] = Field(
        description="Stored: the object is archived for good. Embedded: it can be found by meaning."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: Count | None = Field(
        None, description="The metadata.generation that this is said of."
    )
    last_transition_time: Time = Field(description="When the condition last changed.")
    reason: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="Why the condition is so, in one word for programs."
    )
    message: Text = Field(description="Why the condition is so, in a sentence for people. May be empty.")


class Status(Model):
    """How far the archiving of the object has come."""

    # The operator alone writes it. Without one managedFields entry per field, objects are 400 bytes smaller
    # and the API server spends about a tenth less on the status write.
    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    phase: Phase | None = Field(
        None,
        description="Pending: not stored yet. Recording: this generation is stored, more may come "
        "(ActionTrace only). Stored: final, everything is written. Degraded: safe in PostgreSQL, the vector "
        "is still owed. Rejected: it cannot be stored, the message says why; the bytes are kept in the table "
        "of rejected objects.",
    )
    observed_generation: Count | None = Field(
        None, description="The metadata.generation that this status is about."
    )
    record_id: Label | None = Field(
        None, description="Identifier of the stored record: the UID of this object."
    )
    stored_at: Time | None = Field(
        None, description="When the observed generation was committed in PostgreSQL."
    )
    content_hash: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$", max_length=71)] | None = Field(
        None, description="SHA-256 of the stored bytes, written as sha256:<hex>."
    )
    expires_at: Time | None = Field(
        None, description="When the object will be cleared from the cluster. The stored record stays."
    )
    writes: Writes | None = Field(None, description="The single writes that storing consists of.")
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = Field(
        None,
        description="Conditions in the usual form, for kubectl wait --for=condition=Stored.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    message: Text | None = Field(None, description="The state of things in a sentence for people.")


@dataclass(frozen=True, slots=True)
class VectorStatus:
    """What a status says of the vector. ``at`` is an RFC 3339 time, None while nothing was written."""

    state: WriteState
    reason: str
    message: str
    model: str | None = None
    at: str | None = None

    @property
    def owed(self) -> bool:
        """Whether the vector is still to come."""
        return self.state is WriteState.PENDING

    def as_write(self) -> dict[str, Any]:
        """Return the entry below ``writes``."""
        return {"state": self.state.value, "at": self.at, "model": self.model}

    def as_condition(self, generation: int, since: str) -> dict[str, Any]:
        """Return the condition Embedded."""
        status = "True" if self.state is WriteState.WRITTEN else "False"
        return _condition(EMBEDDED_CONDITION, status, self.reason, generation, since, self.message)


_DIVERGED = (
    "the archive has another content of this generation, too, and keeps both (a restored or cloned cluster?)"
)
NOT_STORED = VectorStatus(WriteState.SKIPPED, "Rejected", "the record is not stored")


def _condition(kind: str, status: str, reason: str, generation: int, at: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": at,
        "reason": reason,
        "message": message[:TEXT_LIMIT],
    }


def stored_status(
    *,
    uid: str,
    generation: int,
    stored_at: str,
    content_hash: str,
    expires_at: str,
    vector: VectorStatus,
    diverged: bool = False,
    held: bool = False,
) -> dict[str, Any]:
    """Status of an object whose last generation is stored: Stored, or Degraded while its vector is owed.

    `stored_at` and `expires_at` are RFC 3339 times, `content_hash` is "sha256:<hex>". With `diverged`
    another content is stored under the same uid and generation. With `held` the object leaves the cluster no
    earlier than its legal hold is lifted.
    """
    when = "when its legal hold is lifted, no earlier than " if held else "at "
    what = f"stored, its vector is owed ({vector.message})" if vector.owed else "stored"
    if diverged:
        what = f"{what}; {_DIVERGED}"
    return {
        "phase": "Degraded" if vector.owed else "Stored",
        "observedGeneration": generation,
        "recordID": uid,
        "storedAt": stored_at,
        "contentHash": content_hash,
        "writes": _writes(stored_at, vector),
        "conditions": [
            _condition(STORED_CONDITION, "True", "Written", generation, stored_at, ""),
            vector.as_condition(generation, vector.at or stored_at),
        ],
        "expiresAt": expires_at,
        "message": f"{what}; leaves the cluster {when}{expires_at}"[:TEXT_LIMIT],
    }


def recording_status(
    *,
    uid: str,
    generation: int,
    stored_at: str,
    content_hash: str,
    vector: VectorStatus,
    diverged: bool = False,
) -> dict[str, Any]:
    """Status of an ActionTrace of which this generation is stored and more may come."""
    message = "the trace is not final yet"
    return {
        "phase": "Recording",
        "observedGeneration": generation,
        "recordID": uid,
        "storedAt": stored_at,
        "contentHash": content_hash,
        "writes": _writes(stored_at, vector),
        "conditions": [
            _condition(STORED_CONDITION, "False", "Recording", generation, stored_at, message),
            vector.as_condition(generation, vector.at or stored_at),
        ],
        "message": f"generation {generation} stored; {f'{_DIVERGED}; ' if diverged else ''}{message}",
    }


def rejected_status(*, uid: str, generation: int, at: str, message: str) -> dict[str, Any]:
    """Status of an object that cannot be stored, with the reason in `message` (cut to the schema's limit)."""
    return {
        "phase": "Rejected",
        "observedGeneration": generation,
        "recordID": uid,
        "storedAt": None,
        "contentHash": None,
        "expiresAt": None,
        "writes": {"postgres": {"state": "Failed", "at": at}, "vector": NOT_STORED.as_write()},
        "conditions": [
            _condition(STORED_CONDITION, "False", "Rejected", generation, at, message),
            NOT_STORED.as_condition(generation, at),
        ],
        "message": message[:TEXT_LIMIT],
    }


def _writes(stored_at: str, vector: VectorStatus) -> dict[str, Any]:
    return {"postgres": {"state": "Written", "at": stored_at}, "vector": vector.as_write()}
