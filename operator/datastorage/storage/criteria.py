"""Which records a question is about, as conditions that every statement of the archive shares."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from datastorage.records.record import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Conditions on the columns; None sets none. A record has to meet all of them.

    Where the two tables name a thing differently, one name stands for both: ``type`` is also the
    actionType of an ActionTrace, ``phase`` the status of its execution, ``target`` the resourceRef of an
    AuditRecord.
    """

    tables: frozenset[Table] = frozenset(Table)
    namespace: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    """The earliest time of creation."""
    until: datetime | None = None
    """Created before this."""
    phase: str | None = None
    severity: str | None = None
    target_kind: str | None = None
    target_namespace: str | None = None
    target_name: str | None = None
    alert_fingerprint: str | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What stands for $1 to $13 in a statement made by ``with_conditions``."""
        return (
            Table.AUDIT_RECORDS in self.tables, Table.ACTION_TRACES in self.tables, self.namespace, self.type,
            self.correlation_id, self.since, self.until, self.phase, self.severity, self.target_kind,
            self.target_namespace, self.target_name, self.alert_fingerprint,
        )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether every record meets it."""
        return set(self.tables) == set(Table) and all(value is None for value in self.arguments[2:])


# What a statement needs beside these begins at $14. A condition that is not set is gone once the statement is
# planned for its values (see reading.py), and the bounds on created_at leave out whole months.
_COMMON: Final = """
    AND ($3::text IS NULL OR r.namespace = $3)
    AND ($5::text IS NULL OR r.correlation_id = $5)
    AND r.created_at >= coalesce($6::timestamptz, '-infinity')
    AND r.created_at < coalesce($7::timestamptz, 'infinity')
    AND ($13::text IS NULL OR r.alert_fingerprint = $13)"""
_AUDIT_RECORDS: Final = """$1::boolean {common}
    AND ($4::text IS NULL OR r.type = $4)
    AND ($8::text IS NULL OR r.phase = $8)
    AND ($9::text IS NULL OR r.severity = $9)
    AND ($10::text IS NULL OR r.resource_kind = $10)
    AND ($11::text IS NULL OR r.resource_namespace = $11)
    AND ($12::text IS NULL OR r.resource_name = $12)"""
_ACTION_TRACES: Final = """$2::boolean {common}
    AND ($4::text IS NULL OR r.action_type = $4)
    AND ($8::text IS NULL OR r.execution_status = $8)
    AND ($9::text IS NULL OR r.alert_severity = $9)
    AND ($10::text IS NULL OR r.target_kind = $10)
    AND ($11::text IS NULL OR r.target_namespace = $11)
    AND ($12::text IS NULL OR r.target_name = $12)"""
# As a value to compare with, it is looked up by the primary key for each row that meets the rest. As NOT
# EXISTS it could become a join with the whole table. An AuditRecord can't change, and needs no condition. A
# row that diverged is the newest that is known of its own history.
_NEWEST: Final = """(r.diverged OR r.generation = (SELECT max(n.generation)
        FROM datastorage.action_traces AS n WHERE n.uid = r.uid AND n.created_at = r.created_at))"""
_PLACES: Final = {
    "{of_audit_records}": _AUDIT_RECORDS.replace("{common}", _COMMON),
    "{of_action_traces}": _ACTION_TRACES.replace("{common}", _COMMON),
    "{newest}": _NEWEST,
}


def with_conditions(sql: str) -> str:
    """Return a statement with the conditions in their places, for rows "r".

    The places are {of_audit_records} and {of_action_traces}, and {newest}: that an ActionTrace is the newest
    generation of its object.
    """
    for place, condition in _PLACES.items():
        sql = sql.replace(place, condition)
    return sql
