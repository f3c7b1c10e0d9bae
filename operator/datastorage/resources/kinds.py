"""Names of the custom resources and the question whether an object is final."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from datastorage.records.times import is_given

GROUP = "datastorage.kubernaut.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LEGAL_HOLD_LABEL = f"{GROUP}/legal-hold"
"""An object that carries this label with the value "true" stays in the cluster."""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


AUDIT_RECORD = ResourceKind("AuditRecord", "auditrecords", "auditrecord", ("ar",))
ACTION_TRACE = ResourceKind("ActionTrace", "actiontraces", "actiontrace", ("at",))
KINDS = (AUDIT_RECORD, ACTION_TRACE)


class Phase(StrEnum):
    """How far the archiving of one object has come (`status.phase`)."""

    PENDING = "Pending"
    RECORDING = "Recording"
    STORED = "Stored"
    DEGRADED = "Degraded"
    REJECTED = "Rejected"


ARCHIVED = (Phase.STORED, Phase.DEGRADED)
"""Phases of objects whose row is final and that leave the cluster at their time."""

ENDED = frozenset({"Completed", "Failed", "RolledBack"})
"""Values of an ActionTrace's `spec.execution.status` after which nothing more is carried out."""


def is_final(kind: ResourceKind, spec: Mapping[str, Any]) -> bool:
    """Whether no further generation of the object is expected, so that it may become Stored and expire.

    An AuditRecord is final from the start: its spec cannot change. An ActionTrace is final when

    - its execution has ended: `execution.status` is Completed, Failed or RolledBack, and
    - no assessment is outstanding: `effectiveness.dueTime` is absent or `effectiveness.assessedAt` is set.
      Go's zero time counts as absent in both.

    Who wants to assess later must therefore set `dueTime` no later than the step that ends the execution.
    """
    if kind.kind == AUDIT_RECORD.kind:
        return True
    execution = spec.get("execution") or {}
    if execution.get("status") not in ENDED:
        return False
    effectiveness = spec.get("effectiveness") or {}
    return not is_given(effectiveness.get("dueTime")) or is_given(effectiveness.get("assessedAt"))
