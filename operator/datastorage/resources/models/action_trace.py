"""ActionTrace: one action that an AI chose for one object, followed from choice to assessment."""

from typing import Annotated

from pydantic import ConfigDict, Field

from datastorage.resources.kinds import ExecutionStatus, Phase
from datastorage.resources.models.base import (
    ATOMIC_LIST,
    ATOMIC_MAP,
    CORRELATION_ID,
    IN_ORDER,
    NOT_PRUNED,
    TTL_SECONDS,
    UNSET_TIME,
    Fraction,
    FreeObject,
    Identifier,
    Label,
    Model,
    Name,
    Seconds,
    TargetRef,
    Text,
    Time,
    rule,
    rules,
)
from datastorage.resources.status import Status

ActionType = Annotated[str, Field(min_length=1, max_length=50)]
StringMap = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    Field(max_length=64, json_schema_extra=ATOMIC_MAP),
]


_FORWARD = "execution moves forward only: Pending, Executing, Completed or Failed, RolledBack"

# Steps may be skipped, since a controller may see only the last of several changes. An execution that has
# ended can only be rolled back.
FORWARD_ONLY = rules(
    rule(
        "self == oldSelf || oldSelf == 'Pending' || (oldSelf == 'Executing' && self != 'Pending')"
        " || (oldSelf in ['Completed', 'Failed'] && self == 'RolledBack')",
        _FORWARD,
        dynamic=f"'{_FORWARD}; it cannot go from ' + oldSelf + ' to ' + self",
    )
)


class Alert(Model):
    """The alert that triggered the action."""

    name: Name = Field(description="Name of the alert, such as KubePodCrashLooping.")
    severity: Label | None = Field(None, description="Severity of the alert, such as critical or warning.")
    fingerprint: Label | None = Field(None, description="Fingerprint of the alert, as Alertmanager gives it.")
    firing_time: Time | None = Field(None, description="When the alert began to fire.")
    labels: StringMap | None = Field(None, description="Labels of the alert.")
    annotations: StringMap | None = Field(None, description="Annotations of the alert.")


class Alternative(Model):
    """An action that was considered and not chosen."""

    action_type: ActionType = Field(description="The kind of action that was considered.")
    confidence: Fraction | None = Field(
        None, description="How sure the model was of this action, from 0 to 1."
    )
    reasoning: Text | None = Field(
        None, description="Why the action was considered, or why it was not chosen."
    )


class ModelChoice(Model):
    """The model that chose the action, and why."""

    name: Label | None = Field(None, description="Name of the model.")
    confidence: Fraction | None = Field(
        None, description="How sure the model was of its choice, from 0 to 1."
    )
    routing_tier: Label | None = Field(
        None, description="The tier of models that the request was routed to, such as small or large."
    )
    reasoning: Text | None = Field(None, description="Why the model chose this action.")
    alternatives: Annotated[list[Alternative], Field(max_length=32)] | None = Field(
        None, description="Actions that were considered and not chosen.", json_schema_extra=ATOMIC_LIST
    )


class Operation(Model):
    """One call that the execution made."""

    verb: ActionType = Field(description="The verb of the call, such as patch, delete or scale.")
    resource_ref: TargetRef | None = Field(None, description="The object that the call was made on.")
    time: Time | None = Field(None, description="When the call was made.")
    success: bool | None = Field(None, description="Whether the call succeeded.")
    message: Text | None = Field(None, description="The result, in a sentence.")


class Execution(Model):
    """The execution of the action."""

    model_config = ConfigDict(json_schema_extra=rules(IN_ORDER))

    status: ExecutionStatus = Field(
        description="The progress of the action. It moves forward only: Pending, Executing, then Completed "
        "or Failed, and from any of these RolledBack; steps may be skipped. Completed, Failed and RolledBack "
        "end the execution. With no assessment outstanding (see effectiveness.dueTime) the trace is then "
        "final: it becomes Stored, and its spec can no longer be changed. To leave room for a rollback, set "
        "effectiveness.dueTime no later than the step that ends the execution.",
        json_schema_extra=FORWARD_ONLY,
    )
    start_time: Time | None = Field(None, description="When the execution began.")
    end_time: Time | None = Field(
        None, description=f"When the execution ended, not before startTime. {UNSET_TIME}"
    )
    error: Text | None = Field(None, description="The error, when the execution failed.")
    operations: Annotated[list[Operation], Field(max_length=256)] | None = Field(
        None, description="The individual calls that were made, in order.", json_schema_extra=ATOMIC_LIST
    )


class FollowUp(Model):
    """An action that the assessment calls for."""

    action_type: ActionType = Field(description="The kind of action that is called for.")
    reason: Text | None = Field(None, description="Why the action is called for.")
    trace_name: Label | None = Field(
        None, description="Name of the ActionTrace of the follow-up action, once it exists."
    )


class Effectiveness(Model):
    """Whether the action helped."""

    score: Fraction | None = Field(
        None, description="How well the action worked, from 0 (not at all) to 1 (fully)."
    )
    method: Label | None = Field(
        None,
        description="How the action was assessed, such as alert-resolved, metrics or a person's judgement.",
    )
    criteria: FreeObject | None = Field(
        None,
        description="The results of the assessment by name of the criterion; each may be any JSON value.",
    )
    assessed_at: Time | None = Field(
        None,
        description="When the assessment was made. An assessment is then no longer outstanding. "
        f"{UNSET_TIME}",
    )
    due_time: Time | None = Field(
        None,
        description="When the assessment is to be made. While it is set and assessedAt is not, an assessment "
        "is outstanding and the trace is not final, even when the execution has ended. Set it no later than "
        f"the step that ends the execution; remove it to do without an assessment. {UNSET_TIME}",
    )
    notes: Text | None = Field(None, description="Remarks on the assessment.")
    follow_ups: Annotated[list[FollowUp], Field(max_length=32)] | None = Field(
        None, description="Actions that the assessment calls for.", json_schema_extra=ATOMIC_LIST
    )


class ActionTraceSpec(Model):
    """The action, from choice to assessment. The spec grows while the action runs."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(oldSelf.execution) || has(self.execution)",
                "execution cannot be removed",
                field_path=".execution",
            )
        )
    )

    correlation_id: Identifier = Field(
        description=f"{CORRELATION_ID} It cannot be changed.",
        json_schema_extra=rules(rule("self == oldSelf", "correlationID cannot be changed")),
    )
    action_type: ActionType = Field(
        description="The chosen action, such as scale_deployment or restart_pod. It cannot be changed.",
        json_schema_extra=rules(rule("self == oldSelf", "actionType cannot be changed")),
    )
    target_ref: TargetRef = Field(
        description="The object that the action is for. It cannot be changed.",
        json_schema_extra=rules(rule("self == oldSelf", "targetRef cannot be changed")),
    )
    parameters: FreeObject | None = Field(
        None, description="The arguments of the action: any JSON object, stored exactly as it is."
    )
    alert: Alert | None = Field(None, description="The alert that triggered the action.")
    model: ModelChoice | None = Field(None, description="The model that chose the action, and why.")
    execution: Execution | None = Field(
        None, description="The execution of the action. It cannot be removed."
    )
    state_before: FreeObject | None = Field(
        None,
        description="The target as it was before the action: any JSON object, stored exactly as it is.",
    )
    state_after: FreeObject | None = Field(
        None,
        description="The target as it was after the action: any JSON object, stored exactly as it is.",
    )
    effectiveness: Effectiveness | None = Field(None, description="Whether the action helped.")
    ttl_seconds_after_stored: Seconds | None = Field(None, description=TTL_SECONDS)


class ActionTrace(Model):
    """One action that an AI chose for one object, followed while it runs.

    Every generation is stored as a row of its own. When the execution has ended and no assessment is
    outstanding the trace is final: it becomes Stored and is cleared from the cluster.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(oldSelf.status) || !has(oldSelf.status.phase)"
                f" || oldSelf.status.phase != '{Phase.STORED}' || self.spec == oldSelf.spec",
                "the trace is Stored and can no longer be changed: create a new ActionTrace",
                field_path=".spec",
            )
        )
    )

    spec: ActionTraceSpec = Field(
        description="The action, from choice to assessment. The spec grows while the action runs, "
        f"and every generation is kept. {NOT_PRUNED}."
    )
    status: Status | None = Field(None, description="The progress of the archiving, written by the operator.")
