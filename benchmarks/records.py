"""Realistic AuditRecords: a remediation's four kinds of step, with specs of 0.8 to 1.2 KB."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from datastorage.resources.kinds import AUDIT_RECORD
from harness.manifests import manifest

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SERVICES: Final = ("checkout", "payments", "ledger", "inventory", "search", "notifications", "gateway")
_CAUSES: Final = (
    "container exceeded its memory limit and was killed; restarts grew from 2 to 11 within ten minutes",
    "readiness probe failed on every replica since the last rollout; the service has no ready endpoints",
    "node reported disk pressure and evicted pods with best-effort quality of service",
    "request latency at the 99th percentile stayed above 2.5 s while the processor was throttled",
)
_STEPS: Final = (
    ("Remediation", "open-remediation", "remediation-controller"),
    ("AIAnalysis", "analyse-root-cause", "ai-analysis-controller"),
    ("Workflow", "run-workflow", "workflow-controller"),
    ("Execution", "scale-deployment", "execution-controller"),
)


def audit_record(
    name: str, number: int, *, ttl_seconds: int | None = None, texts: int | None = None
) -> dict[str, Any]:
    """Return the ``number``-th record; equal numbers make equal specs.

    ``texts`` is how many different texts there are among them; without it some hundred, as events recur.
    """
    step = number % len(_STEPS)
    remediation = number // len(_STEPS)
    kind, action, actor = _STEPS[step]
    service = _SERVICES[remediation % len(_SERVICES)]
    cause = _CAUSES[remediation % len(_CAUSES)]
    started = _EPOCH + timedelta(seconds=number)
    spec: dict[str, Any] = {
        "type": kind,
        "action": action,
        "phase": "Completed",
        "correlationID": f"remediation-{remediation:08d}",
        "startTime": _rfc3339(started),
        "endTime": _rfc3339(started + timedelta(milliseconds=350 + number % 900)),
        "severity": "critical" if remediation % 3 == 0 else "warning",
        "environment": "production",
        "cluster": "eu-central-1a",
        "actor": {"kind": "Controller", "name": actor},
        "resourceRef": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "namespace": f"team-{service}",
            "name": f"{service}-api",
            "uid": f"7d1f0a52-33c4-4a0e-9d55-{remediation:012d}",
        },
        "alertFingerprint": f"{remediation * 2654435761 % 2**64:016x}",
        "message": f"{action} for deployment {service}-api in namespace team-{service}: {cause}",
        "details": _details(number, service),
        **_result(kind, number),
    }
    if texts is not None:
        # The message is the whole text of the event, so that texts differ exactly where it does.
        event = number % texts
        spec |= {"type": "Remediation", "action": "open-remediation", "message": _event(event)}
        spec["resourceRef"] = {**spec["resourceRef"], "namespace": "team-shop", "name": "shop-api"}
        for result in ("aiAnalysis", "workflow", "execution"):
            spec.pop(result, None)
    if ttl_seconds is not None:
        spec["ttlSecondsAfterStored"] = ttl_seconds
    return manifest(AUDIT_RECORD, spec, name=name, labels={"app.kubernetes.io/part-of": "kubernaut"})


def _event(number: int) -> str:
    cause, service = _CAUSES[number % len(_CAUSES)], _SERVICES[number % len(_SERVICES)]
    # Few digits at a time: a long number is an identifier, which the text that is embedded leaves out.
    return f"{cause}; {number % 1000} requests to {service} waited and {number // 1000} were dropped"


def _result(kind: str, number: int) -> dict[str, Any]:
    match kind:
        case "AIAnalysis":
            return {
                "aiAnalysis": {
                    "analysisID": f"analysis-{number:08d}",
                    "provider": "local",
                    "model": "granite-3.3-8b",
                    "confidence": 0.5 + number % 50 / 100,
                    "tokensUsed": 900 + number % 700,
                    "durationMs": 1200 + number % 3000,
                }
            }
        case "Workflow":
            return {"workflow": {"workflowID": f"wf-{number:08d}", "totalSteps": 5, "completedSteps": 5}}
        case "Execution":
            return {"execution": {"workflowID": f"wf-{number - 1:08d}", "success": True, "durationMs": 840}}
        case _:
            return {}


def _details(number: int, service: str) -> dict[str, Any]:
    return {
        "replicas": {"before": 2, "after": 4},
        "memory": {"limitBytes": 536870912, "peakBytes": 536000000 + number % 870912},
        "restarts": number % 17,
        "dashboards": [f"https://grafana.example.com/d/{service}/overview?var-deployment={service}-api"],
        "notes": "limits raised within the bounds of the namespace quota; rollback is kept for one hour",
    }


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
