"""Cases for the API server: objects that it accepts, and mistakes that it refuses.

A case creates `manifest`, then writes `status` (if any), then applies `change` as a merge patch (if any).
The last of these steps is refused with a message that contains `refused`, or accepted when that is None.
"""

from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from datastorage.records.reasons import Reason
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from datastorage.resources.status import stored_status
from harness.manifests import manifest

Object = dict[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    kind: ResourceKind
    manifest: Object
    change: Object | None = None
    status: Object | None = None
    refused: str | None = None


REF = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "namespace": "payments",
    "name": "checkout",
    "uid": "0d2f5c1e-6f0b-4a52-9a39-0a5a1c7d7e11",
}

AUDIT_SPEC: Object = {
    "type": "AIAnalysis",
    "action": "analyse-alert",
    "phase": "Completed",
    "correlationID": "remediation-7f3a",
    "startTime": "2026-03-01T10:00:00Z",
    "endTime": "2026-03-01T10:00:02.5Z",
    "severity": "critical",
    "environment": "production",
    "cluster": "eu-west-1",
    "actor": {"kind": "Controller", "name": "ai-analysis"},
    "resourceRef": REF,
    "alertFingerprint": "c0ffee",
    "message": "checkout was killed for lack of memory",
    "errorMessage": "",
    "aiAnalysis": {
        "analysisID": "analysis-1",
        "provider": "ollama",
        "model": "granite",
        "confidence": 0.9,
        "tokensUsed": 812,
        "durationMs": 2500,
    },
    "details": {"any": ["JSON", 1, 2.5, None, True, {"deep": {}}]},
    "ttlSecondsAfterStored": 60,
}

TRACE_SPEC: Object = {
    "correlationID": "remediation-7f3a",
    "actionType": "scale_deployment",
    "targetRef": REF,
    "parameters": {"replicas": 4},
    "alert": {
        "name": "KubePodCrashLooping",
        "severity": "critical",
        "fingerprint": "c0ffee",
        "firingTime": "2026-03-01T09:59:00Z",
        "labels": {"namespace": "payments"},
        "annotations": {"summary": "checkout keeps restarting"},
    },
    "model": {
        "name": "granite",
        "confidence": 0.8,
        "routingTier": "small",
        "reasoning": "more replicas share the load",
        "alternatives": [{"actionType": "restart_pod", "confidence": 0.1, "reasoning": "would come back"}],
    },
    "execution": {
        "status": "Executing",
        "startTime": "2026-03-01T10:00:03Z",
        "operations": [
            {
                "verb": "scale",
                "resourceRef": REF,
                "time": "2026-03-01T10:00:03Z",
                "success": True,
                "message": "ok",
            }
        ],
    },
    "stateBefore": {"replicas": 2},
    "stateAfter": {"replicas": 4},
    "effectiveness": {
        "score": 0.7,
        "method": "alert-resolved",
        "criteria": {"alertResolved": True, "latency": 0.4},
        "dueTime": "2026-03-01T10:30:00Z",
        "assessedAt": "2026-03-01T10:31:00Z",
        "notes": "quiet since",
        "followUps": [{"actionType": "raise_memory_limit", "reason": "recurs weekly", "traceName": "next"}],
    },
    "ttlSecondsAfterStored": 0,
}

STORED = stored_status(
    uid="1b0c",
    generation=1,
    stored_at=datetime(2026, 3, 1, 10, 0, 4, tzinfo=UTC),
    content_hash=b"\xaa" * 32,
    expires_at=datetime(2026, 3, 1, 11, 0, 4, tzinfo=UTC),
    vector=VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="wordllama/l2_supercat_256"),
)


def build(kind: ResourceKind, spec: Object) -> Object:
    return manifest(kind, spec, generateName="case-")


def audit_record(changes: Object | None = None, *, without: tuple[str, ...] = ()) -> Object:
    """Build a complete AuditRecord; `changes` replaces fields of the spec, `without` leaves some out."""
    spec = deepcopy(AUDIT_SPEC) | (changes or {})
    return build(AUDIT_RECORD, {key: value for key, value in spec.items() if key not in without})


def action_trace(changes: Object | None = None, *, without: tuple[str, ...] = ()) -> Object:
    """Build a complete ActionTrace; `changes` replaces fields of the spec, `without` leaves some out."""
    spec = deepcopy(TRACE_SPEC) | (changes or {})
    return build(ACTION_TRACE, {key: value for key, value in spec.items() if key not in without})


def _spec(**fields: Any) -> Object:
    return {"spec": fields}


def _audit(name: str, manifest: Object, refused: str | None = None, change: Object | None = None) -> Case:
    return Case(name, AUDIT_RECORD, manifest, change, refused=refused)


def _trace(
    name: str,
    manifest: Object,
    refused: str | None = None,
    change: Object | None = None,
    status: Object | None = None,
) -> Case:
    return Case(name, ACTION_TRACE, manifest, change, status, refused)


def _executing(old: str, new: str, refused: str | None = None) -> Case:
    return _trace(
        f"execution goes from {old} to {new}",
        action_trace({"execution": {"status": old}}),
        refused,
        _spec(execution={"status": new}),
    )


NO_RESULT = ("aiAnalysis",)
UNCHANGEABLE = "an audit record cannot be changed"
BACKWARD = "execution moves forward only"
# Go's zero time, in UTC and in local zones.
GO_ZEROS = ("0001-01-01T00:00:00Z", "0001-01-01T02:00:00.000+02:00", "0000-12-31T19:03:58-04:56")

AUDIT_RECORD_CASES = [
    _audit("complete", audit_record()),
    _audit(
        "least",
        build(AUDIT_RECORD, {"type": "Remediation", "action": "a", "phase": "Pending", "correlationID": "c"}),
    ),
    _audit(
        "workflow matches its type",
        audit_record(
            {"type": "Workflow", "workflow": {"workflowID": "w", "totalSteps": 3, "completedSteps": 1}},
            without=NO_RESULT,
        ),
    ),
    _audit(
        "execution matches its type",
        audit_record(
            {"type": "Execution", "execution": {"success": False, "durationMs": 1}}, without=NO_RESULT
        ),
    ),
    _audit("end equals start", audit_record({"endTime": AUDIT_SPEC["startTime"]})),
    _audit("longest message", audit_record({"message": 16384 * "ü"})),
    *(
        _audit(f"details may be {label}", audit_record({"details": value}))
        for label, value in [("text", "x"), ("a number", 1.5), ("a list", [1, "a", None]), ("false", False)]
    ),
    *(
        _audit(f"{field} is missing", audit_record(without=(field,)), f"spec.{field}: Required value")
        for field in ("type", "action", "phase", "correlationID")
    ),
    _audit(
        "spec is missing", {k: v for k, v in audit_record().items() if k != "spec"}, "spec: Required value"
    ),
    _audit("unknown type", audit_record({"type": "Guess"}), 'spec.type: Unsupported value: "Guess"'),
    _audit("unknown phase", audit_record({"phase": "Done"}), 'spec.phase: Unsupported value: "Done"'),
    _audit(
        "empty action", audit_record({"action": ""}), "spec.action in body should be at least 1 chars long"
    ),
    _audit(
        "action too long",
        audit_record({"action": 101 * "a"}),
        "spec.action: Too long: may not be more than 100",
    ),
    _audit(
        "empty correlationID",
        audit_record({"correlationID": ""}),
        "spec.correlationID in body should be at least 1",
    ),
    _audit(
        "correlationID too long", audit_record({"correlationID": 256 * "c"}), "spec.correlationID: Too long"
    ),
    _audit("message too long", audit_record({"message": 16385 * "m"}), "spec.message: Too long"),
    _audit(
        "not a time",
        audit_record({"startTime": "yesterday"}),
        "spec.startTime in body must be of type date-time",
    ),
    _audit(
        "end before start",
        audit_record({"endTime": "2026-03-01T09:59:59.999Z"}),
        "spec.endTime: Invalid value: endTime must not be before startTime",
    ),
    _audit(
        "end before start across time zones",
        audit_record({"startTime": "2026-03-01T10:00:00Z", "endTime": "2026-03-01T10:30:00+01:00"}),
        "endTime must not be before startTime",
    ),
    _audit(
        "analysis on another type",
        audit_record({"type": "Remediation"}),
        "spec.aiAnalysis: Invalid value: aiAnalysis may only be given when type is AIAnalysis",
    ),
    _audit(
        "workflow beside the analysis",
        audit_record({"workflow": {"totalSteps": 1}}),
        "spec.workflow: Invalid value: workflow may only be given when type is Workflow",
    ),
    _audit(
        "execution on a workflow",
        audit_record({"type": "Workflow", "execution": {"success": True}}, without=NO_RESULT),
        "spec.execution: Invalid value: execution may only be given when type is Execution",
    ),
    _audit(
        "confidence above 1",
        audit_record({"aiAnalysis": {"confidence": 1.01}}),
        "spec.aiAnalysis.confidence in body should be less than or equal to 1",
    ),
    _audit(
        "negative duration",
        audit_record({"aiAnalysis": {"durationMs": -1}}),
        "spec.aiAnalysis.durationMs in body should be greater than or equal to 0",
    ),
    _audit(
        "negative time to live",
        audit_record({"ttlSecondsAfterStored": -1}),
        "spec.ttlSecondsAfterStored in body should be greater than or equal to 0",
    ),
    _audit(
        "reference without a name",
        audit_record({"resourceRef": {"kind": "Pod"}}),
        "spec.resourceRef.name: Required",
    ),
    _audit("phase changed", audit_record(), UNCHANGEABLE, _spec(phase="Failed")),
    _audit("details changed", audit_record(), UNCHANGEABLE, _spec(details={"any": 1})),
    _audit(
        "deep details changed",
        audit_record(),
        UNCHANGEABLE,
        _spec(details={"any": ["JSON", 1, 2.5, None, False]}),
    ),
    _audit("field added", audit_record(without=("cluster",)), UNCHANGEABLE, _spec(cluster="late")),
    _audit("details removed", audit_record(), UNCHANGEABLE, _spec(details=None)),
    _audit("time to live changed", audit_record(), UNCHANGEABLE, _spec(ttlSecondsAfterStored=0)),
    _audit(
        "changed while pretending to write the first status",
        audit_record(),
        UNCHANGEABLE,
        _spec(phase="Failed") | {"status": STORED},
    ),
    Case(
        "changed while pretending to remove the status",
        AUDIT_RECORD,
        audit_record(),
        _spec(phase="Failed") | {"status": None},
        STORED,
        UNCHANGEABLE,
    ),
    Case(
        "changed after it is stored",
        AUDIT_RECORD,
        audit_record(),
        _spec(phase="Failed"),
        STORED,
        UNCHANGEABLE,
    ),
    _audit(
        "time in lower case",
        audit_record({"startTime": "2026-03-01t10:00:00z"}, without=("endTime",)),
        "spec.startTime in body should match",
    ),
    _audit("year one", audit_record({"startTime": "0001-01-01T00:00:00Z"})),
    *(_audit(f"an end that was never set: {time}", audit_record({"endTime": time})) for time in GO_ZEROS),
    _audit(
        "an end in the year of Go's zero",
        audit_record({"endTime": "0001-01-01T00:01:00Z"}),
        "spec.endTime: Invalid value: endTime must not be before startTime",
    ),
    _audit("labels may change", audit_record(), None, {"metadata": {"labels": {"a": "b"}}}),
]

ACTION_TRACE_CASES = [
    _trace("complete", action_trace()),
    _trace(
        "least",
        build(
            ACTION_TRACE, {"correlationID": "c", "actionType": "a", "targetRef": {"kind": "Pod", "name": "p"}}
        ),
    ),
    *(
        _trace(f"{field} is missing", action_trace(without=(field,)), f"spec.{field}: Required value")
        for field in ("correlationID", "actionType", "targetRef")
    ),
    _trace("actionType too long", action_trace({"actionType": 51 * "a"}), "spec.actionType: Too long"),
    _trace(
        "score above 1",
        action_trace({"effectiveness": {"score": 2}}),
        "spec.effectiveness.score in body should be",
    ),
    _trace(
        "parameters are no object",
        action_trace({"parameters": [1]}),
        "spec.parameters in body must be of type object",
    ),
    _trace(
        "too many alternatives",
        action_trace({"model": {"alternatives": 33 * [{"actionType": "a"}]}}),
        "spec.model.alternatives: Too many: 33: must have at most 32 items",
    ),
    _trace(
        "too many labels",
        action_trace({"alert": {"name": "a", "labels": {f"l{n}": "" for n in range(65)}}}),
        "spec.alert.labels: Too many: 65: must have at most 64 items",
    ),
    _trace(
        "unknown execution status",
        action_trace({"execution": {"status": "Running"}}),
        'spec.execution.status: Unsupported value: "Running"',
    ),
    _trace(
        "execution ends before it starts",
        action_trace(
            {
                "execution": {
                    "status": "Failed",
                    "startTime": "2026-03-01T10:00:00Z",
                    "endTime": "2026-03-01T09:00:00Z",
                }
            }
        ),
        "spec.execution.endTime: Invalid value: endTime must not be before startTime",
    ),
    *(
        _trace(
            f"an execution's end that was never set: {time}",
            action_trace(
                {"execution": {"status": "Executing", "startTime": "2026-03-01T10:00:00Z", "endTime": time}}
            ),
        )
        for time in GO_ZEROS
    ),
    _trace(
        "correlationID changed",
        action_trace(),
        "correlationID cannot be changed",
        _spec(correlationID="other"),
    ),
    _trace("actionType changed", action_trace(), "actionType cannot be changed", _spec(actionType="other")),
    _trace(
        "target changed", action_trace(), "targetRef cannot be changed", _spec(targetRef={"name": "other"})
    ),
    _trace(
        "target made less precise",
        action_trace(),
        "targetRef cannot be changed",
        _spec(targetRef={"uid": None}),
    ),
    _trace("execution removed", action_trace(), "execution cannot be removed", _spec(execution=None)),
    _executing("Pending", "Executing"),
    _executing("Pending", "Completed"),
    _executing("Pending", "Failed"),
    _executing("Executing", "Completed"),
    _executing("Executing", "Failed"),
    _executing("Executing", "RolledBack"),
    _executing("Completed", "RolledBack"),
    _executing("Failed", "RolledBack"),
    _executing(
        "Executing",
        "Pending",
        f"{BACKWARD}: Pending, Executing, Completed or Failed, RolledBack; it cannot go",
    ),
    _executing("Completed", "Pending", "it cannot go from Completed to Pending"),
    _executing("Completed", "Executing", "it cannot go from Completed to Executing"),
    _executing("Completed", "Failed", "it cannot go from Completed to Failed"),
    _executing("Failed", "Completed", "it cannot go from Failed to Completed"),
    _executing("RolledBack", "Completed", "it cannot go from RolledBack to Completed"),
    _executing("RolledBack", "Pending", "it cannot go from RolledBack to Pending"),
    _trace(
        "grows while it runs", action_trace(), None, _spec(stateAfter={"replicas": 5}), {"phase": "Recording"}
    ),
    _trace(
        "grows while degraded", action_trace(), None, _spec(stateAfter={"replicas": 5}), {"phase": "Degraded"}
    ),
    _trace("mended after a rejection", action_trace(), None, _spec(stateAfter=None), {"phase": "Rejected"}),
    _trace(
        "free JSON changed after it is stored",
        action_trace(),
        "the trace is Stored and can no longer be changed",
        _spec(stateAfter={"replicas": 5}),
        STORED,
    ),
    _trace(
        "rolled back after it is stored",
        action_trace({"execution": {"status": "Completed"}}),
        "the trace is Stored and can no longer be changed",
        _spec(execution={"status": "RolledBack"}),
        STORED,
    ),
    _trace("labelled after it is stored", action_trace(), None, {"metadata": {"labels": {"a": "b"}}}, STORED),
]

CASES = AUDIT_RECORD_CASES + ACTION_TRACE_CASES

BAD_STATUSES: list[tuple[str, Object, str]] = [
    ("unknown phase", {"phase": "Gone"}, 'status.phase: Unsupported value: "Gone"'),
    ("hash without a prefix", {"contentHash": 64 * "a"}, "contentHash in body should match"),
    (
        "unknown state",
        {"writes": {"vector": {"state": "Lost"}}},
        "status.writes.vector.state: Unsupported value",
    ),
    ("not a time", {"expiresAt": "soon"}, "expiresAt in body must be of type date-time"),
]
