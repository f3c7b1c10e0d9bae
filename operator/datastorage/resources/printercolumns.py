"""The columns that kubectl prints for the custom resources."""

from dataclasses import dataclass
from typing import Final, Literal

from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, RECORDED_BY_ANNOTATION, ResourceKind


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """A column of `kubectl get`: the value at a JSON path. A wide one is shown only with `-o wide`."""

    name: str
    path: str
    description: str
    type: Literal["string", "date"] = "string"
    wide: bool = False


_STATUS: Final = (
    PrinterColumn("Phase", ".status.phase", "The progress of the archiving."),
    PrinterColumn("Vector", ".status.writes.vector.state", "Whether the record can be found by meaning."),
    PrinterColumn("Age", ".metadata.creationTimestamp", "Time since the object was created.", "date"),
    PrinterColumn("Record ID", ".status.recordID", "Identifier of the stored record.", wide=True),
    PrinterColumn(
        "Correlation", ".spec.correlationID", "The remediation that the object belongs to.", wide=True
    ),
    # This is not of type date, because kubectl would show a time in the future as <invalid>.
    PrinterColumn("Expires", ".status.expiresAt", "When the object leaves the cluster.", wide=True),
    PrinterColumn(
        "Recorded By",
        ".metadata.annotations." + RECORDED_BY_ANNOTATION.replace(".", r"\."),
        "The user who recorded it, where the recorded-by policy is installed.",
        wide=True,
    ),
)
_COLUMNS: Final = {
    AUDIT_RECORD: (
        PrinterColumn("Type", ".spec.type", "The kind of the step."),
        PrinterColumn("Action", ".spec.action", "The action."),
        PrinterColumn("Outcome", ".spec.phase", "How the step ended."),
        PrinterColumn("Target", ".spec.resourceRef.name", "The object that the step was about."),
        *_STATUS,
    ),
    ACTION_TRACE: (
        PrinterColumn("Action", ".spec.actionType", "The action that was chosen."),
        PrinterColumn("Outcome", ".spec.execution.status", "The progress of the action."),
        PrinterColumn("Target", ".spec.targetRef.name", "The object that the action is for."),
        *_STATUS,
    ),
}


def printer_columns(kind: ResourceKind) -> tuple[PrinterColumn, ...]:
    """Return the columns of a kind, in the order in which they are printed."""
    return _COLUMNS[kind]
