"""AuditRecord: one thing that a controller did, written once and never changed."""

from typing import Annotated

from pydantic import ConfigDict, Field

from datastorage.resources.kinds import AuditPhase, AuditType
from datastorage.resources.models.base import (
    ATOMIC_MAP,
    CORRELATION_ID,
    IN_ORDER,
    NOT_PRUNED,
    TTL_SECONDS,
    UNSET_TIME,
    Count,
    Fraction,
    FreeJSON,
    Identifier,
    Label,
    Model,
    Seconds,
    TargetRef,
    Text,
    Time,
    rule,
    rules,
)
from datastorage.resources.status import Status


class Actor(Model):
    """The person or program that took the step."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    kind: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="The kind of the actor, such as Controller, ServiceAccount or User."
    )
    name: Identifier = Field(description="Name of the actor.")


class AIAnalysis(Model):
    """The result of an AI analysis, and its cost."""

    analysis_id: Identifier | None = Field(
        None, description="Identifier of the analysis at the service that ran it."
    )
    provider: Label | None = Field(None, description="The provider of the model, such as openai or ollama.")
    model: Label | None = Field(None, description="Name of the model that answered.")
    confidence: Fraction | None = Field(None, description="How sure the model was, from 0 to 1.")
    tokens_used: Count | None = Field(None, description="Tokens of prompt and answer together.")
    duration_ms: Count | None = Field(None, description="How long the analysis took, in milliseconds.")


class Workflow(Model):
    """The progress of a workflow."""

    workflow_id: Identifier | None = Field(None, description="Identifier of the workflow.")
    total_steps: Count | None = Field(None, description="Number of steps that the workflow has.")
    completed_steps: Count | None = Field(None, description="Number of steps that are done.")


class Execution(Model):
    """The result of executing an action."""

    workflow_id: Identifier | None = Field(
        None, description="Identifier of the workflow that asked for the execution."
    )
    execution_id: Identifier | None = Field(None, description="Identifier of the execution.")
    success: bool | None = Field(None, description="Whether the action had the intended effect.")
    duration_ms: Count | None = Field(None, description="How long the execution took, in milliseconds.")


def _only_for(field: str, audit_type: AuditType) -> dict[str, str]:
    return rule(
        f"!has(self.{field}) || self.type == '{audit_type}'",
        f"{field} may only be given when type is {audit_type}",
        field_path=f".{field}",
    )


class AuditRecordSpec(Model):
    """The step, written by the controller that took it. The spec cannot be changed once it is written."""

    model_config = ConfigDict(
        json_schema_extra=ATOMIC_MAP  # immutable as a whole: one managedFields entry is enough
        | rules(
            IN_ORDER,
            _only_for("aiAnalysis", AuditType.AI_ANALYSIS),
            _only_for("workflow", AuditType.WORKFLOW),
            _only_for("execution", AuditType.EXECUTION),
        )
    )

    type: AuditType = Field(
        description="The kind of the step. At most one of aiAnalysis, workflow and execution "
        "may be given, the one that matches the type."
    )
    action: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="The action, in one or a few words, such as scale-deployment."
    )
    phase: AuditPhase = Field(description="The state of the step when the record was written: its outcome.")
    correlation_id: Identifier = Field(description=CORRELATION_ID)
    start_time: Time | None = Field(None, description="When the step began.")
    end_time: Time | None = Field(
        None, description=f"When the step ended, not before startTime. {UNSET_TIME}"
    )
    severity: Label | None = Field(
        None, description="How serious the cause was, such as critical or warning."
    )
    environment: Label | None = Field(
        None, description="The environment of the step, such as production or staging."
    )
    cluster: Label | None = Field(None, description="Name of the cluster in which the step was taken.")
    actor: Actor | None = Field(None, description="The person or program that took the step.")
    resource_ref: TargetRef | None = Field(None, description="The object that the step was about.")
    alert_fingerprint: Label | None = Field(
        None, description="Fingerprint of the alert that triggered the step."
    )
    message: Text | None = Field(None, description="The event, in a sentence for people.")
    error_message: Text | None = Field(None, description="The error, when there was one.")
    ai_analysis: AIAnalysis | None = Field(
        None, description="Findings and cost of the analysis. Only for records of type AIAnalysis."
    )
    workflow: Workflow | None = Field(
        None, description="Progress of the workflow. Only for records of type Workflow."
    )
    execution: Execution | None = Field(
        None, description="Result of the execution. Only for records of type Execution."
    )
    details: FreeJSON | None = Field(
        None,
        description="Further values worth keeping: any JSON value, stored exactly as it is. "
        f"{NOT_PRUNED}, so values that have no field of their own belong here.",
    )
    ttl_seconds_after_stored: Seconds | None = Field(None, description=TTL_SECONDS)


class AuditRecord(Model):
    """One thing that a controller did in the course of a remediation.

    The operator stores it in PostgreSQL, reports that in the status, and then deletes it from the cluster.
    """

    # Only a write to the status subresource can add a status, and the API server ignores the spec in such a
    # write. So the first status write, the only one for most records, skips the comparison, which would take
    # 8% of the API server's time for it.
    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.status) != has(oldSelf.status) || self.spec == oldSelf.spec",
                "an audit record cannot be changed: create a new one",
                field_path=".spec",
            )
        )
    )

    spec: AuditRecordSpec = Field(
        description="The step, written by the controller that took it. It cannot be changed afterwards."
    )
    status: Status | None = Field(None, description="The progress of the archiving, written by the operator.")
