"""The conditions of a question as a person or a program gives them, and the checks on them.

Each name in FILTERS (resources/reading) is a field of ``Filter``.
"""

import uuid
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from datastorage.errors import InvalidQueryError
from datastorage.records.record import Table, Via
from datastorage.resources.kinds import AuditPhase, AuditType, ExecutionStatus
from datastorage.resources.reading.fields import MAX_INDEXED_CHARACTERS
from datastorage.resources.reading.kindreading import FILTERS, FilterName
from datastorage.resources.reading.registry import READINGS
from datastorage.storage.criteria import Criteria

MAX_LIMIT: Final = 1_000
_MAX_GENERATION: Final = 2**63 - 1
_TABLES: Final = {reading.kind.kind: reading.table for reading in READINGS}
_PHASES: Final = tuple(dict.fromkeys([*map(str, AuditPhase), *map(str, ExecutionStatus)]))


class SearchMode(StrEnum):
    """The way in which a search finds records."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions on records; None means no condition. Kinds, types and phases may be in any case.

    ``kind`` is AuditRecord or ActionTrace. ``type`` is the type of an AuditRecord or, together with the kind
    ActionTrace, an actionType. ``phase`` is that of an AuditRecord, or the status of the execution of an
    ActionTrace. ``action`` is the action of an AuditRecord, or the actionType of an ActionTrace.
    ``target_…`` is the object that the record is about. ``via`` is the way by which the record came, and
    ``recorded_by`` the user who recorded it, by the word of the API server. ``since`` and ``until`` bound
    the time of creation. ActionTraces have no environment, cluster and actor, so a condition on these leaves
    AuditRecords only.
    """

    kind: str | None = None
    namespace: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    phase: str | None = None
    severity: str | None = None
    target_kind: str | None = None
    target_namespace: str | None = None
    target_name: str | None = None
    alert_fingerprint: str | None = None
    action: str | None = None
    environment: str | None = None
    cluster: str | None = None
    actor_kind: str | None = None
    actor_name: str | None = None
    via: str | None = None
    recorded_by: str | None = None

    def criteria(self) -> Criteria:
        """Return the criteria for the archive. Raises InvalidQueryError, which says what to change."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                check_value(field.name, value)
        kind = None if self.kind is None else _one_of("kind", self.kind, tuple(_TABLES))
        since, until = _utc("since", self.since), _utc("until", self.until)
        if since is not None and until is not None and since >= until:
            raise InvalidQueryError(f"since ({since.isoformat()}) must be before until ({until.isoformat()})")
        tables, type_ = self._tables_and_type(kind)
        equal: dict[FilterName, str | None] = {name: getattr(self, name) for name in FILTERS}
        equal["type"] = type_
        equal["phase"] = None if self.phase is None else _one_of("phase", self.phase, _PHASES)
        equal["via"] = None if self.via is None else _one_of("via", self.via, tuple(map(str, Via)))
        return Criteria(
            tables=tables,
            namespace=self.namespace,
            since=since,
            until=until,
            equal={name: value for name, value in equal.items() if value is not None},
        )

    def _tables_and_type(self, kind: str | None) -> tuple[frozenset[Table], str | None]:
        if self.type is None:
            return frozenset(Table) if kind is None else frozenset({_TABLES[kind]}), None
        if kind is not None and _TABLES[kind] is Table.ACTION_TRACES:
            return frozenset({Table.ACTION_TRACES}), self.type
        hint = "" if kind else "; for an actionType, also set the kind to ActionTrace"
        type_ = _one_of("type", self.type, tuple(map(str, AuditType)), hint)
        return frozenset({Table.AUDIT_RECORDS}), type_


def check_limit(limit: int) -> None:
    """Raise InvalidQueryError unless this many records can be asked for at once."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQueryError(f"limit must be from 1 to {MAX_LIMIT:,}, not {limit:,}")


def check_value(name: str, value: str) -> None:
    """Raise InvalidQueryError for a value that no column can hold."""
    if not value:
        raise InvalidQueryError(f"{name} is empty: leave it out, or give it a value")
    if len(value) > MAX_INDEXED_CHARACTERS:
        raise InvalidQueryError(
            f"{name} has {len(value):,} characters: the limit is {MAX_INDEXED_CHARACTERS}"
        )
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidQueryError(f"{name} has a character that is not text: remove it")


def checked_uid(uid: str) -> str:
    """Return a uid in its canonical spelling. Raises InvalidQueryError for any other text."""
    try:
        return str(uuid.UUID(uid))
    except ValueError:
        raise InvalidQueryError(f"uid must be a UUID, such as {uuid.UUID(int=0)}, not {uid[:50]!r}") from None


def checked_generation(generation: int) -> int:
    """Return the number of a generation. Raises InvalidQueryError for a number that no object can have."""
    if not 0 <= generation <= _MAX_GENERATION:
        raise InvalidQueryError(f"generation must be 0 to {_MAX_GENERATION}, not {generation}")
    return generation


def _one_of(name: str, value: str, known: tuple[str, ...], hint: str = "") -> str:
    for word in known:
        if word.lower() == value.lower():
            return word
    raise InvalidQueryError(f"{name} must be one of {', '.join(known)}, not {value[:50]!r}{hint}")


def _utc(name: str, time: datetime | None) -> datetime | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise InvalidQueryError(f"{name} has no time zone: add Z or an offset")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidQueryError(f"{name} is outside the years 1 to 9999") from None
