"""The names of the custom resources, and the fixed words in their fields."""

from dataclasses import dataclass
from enum import StrEnum

GROUP = "datastorage.kubernaut.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
ARCHIVE_GROUP = f"archive.{GROUP}"
"""The API group of the rights to read the archive. The API server knows no objects of this group."""

LEGAL_HOLD_LABEL = f"{GROUP}/legal-hold"
"""An object that carries this label stays in the cluster, unless the value is "false"."""
RECORDED_BY_ANNOTATION = f"{GROUP}/recorded-by"
"""The annotation in which a policy of the API server notes who recorded an object. Without the policy, it may
say anything."""
RECORDED_BY_POLICY = f"recorded-by.{GROUP}"
"""The name of that policy and of its binding."""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """The names of one custom resource."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]

    @property
    def crd_name(self) -> str:
        """The name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


AUDIT_RECORD = ResourceKind("AuditRecord", "auditrecords", "auditrecord", ("ar",))
ACTION_TRACE = ResourceKind("ActionTrace", "actiontraces", "actiontrace", ("at",))
KINDS = (AUDIT_RECORD, ACTION_TRACE)


class Phase(StrEnum):
    """The phases of archiving an object (`status.phase`)."""

    PENDING = "Pending"
    RECORDING = "Recording"
    STORED = "Stored"
    DEGRADED = "Degraded"
    REJECTED = "Rejected"


ARCHIVED = (Phase.STORED, Phase.DEGRADED)
"""Phases of objects whose last row is stored, so that they leave the cluster when they expire."""


class AuditType(StrEnum):
    """The types of an AuditRecord (`spec.type`)."""

    REMEDIATION = "Remediation"
    AI_ANALYSIS = "AIAnalysis"
    WORKFLOW = "Workflow"
    EXECUTION = "Execution"

    @classmethod
    def of_path(cls, word: str) -> "AuditType | None":
        """Return the type that a word of a path of the REST API names, or None."""
        return next((each for each in cls if each.lower() == word), None)


class AuditPhase(StrEnum):
    """The states of the step that an AuditRecord is about (`spec.phase`)."""

    PENDING = "Pending"
    PROCESSING = "Processing"
    COMPLETED = "Completed"
    FAILED = "Failed"


class ExecutionStatus(StrEnum):
    """The progress of an ActionTrace's action (`spec.execution.status`)."""

    PENDING = "Pending"
    EXECUTING = "Executing"
    COMPLETED = "Completed"
    FAILED = "Failed"
    ROLLED_BACK = "RolledBack"


ENDED = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.ROLLED_BACK})
"""The values of an ActionTrace's `spec.execution.status` that mean that its execution has ended."""
