"""Builds custom resources as a client sends them; objects.py builds them as the API server returns them."""

from collections.abc import Mapping
from typing import Any

from datastorage.resources.kinds import ACTION_TRACE, API_VERSION, AUDIT_RECORD, ResourceKind


def manifest(kind: ResourceKind, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return an object of a kind; the keywords are its metadata."""
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": metadata, "spec": dict(spec)}


def audit_record(name: str, **spec: Any) -> dict[str, Any]:
    """Return a valid AuditRecord with the given name; ``spec`` replaces single fields."""
    given = {
        "type": "Remediation",
        "action": "restart-pod",
        "phase": "Completed",
        "correlationID": "rr-0001",
        "startTime": "2026-01-01T00:00:00Z",
        "endTime": "2026-01-01T00:00:05Z",
        "message": f"restarted the pod that {name} is about",
    }
    return manifest(AUDIT_RECORD, given | spec, name=name)


def action_trace(name: str, **spec: Any) -> dict[str, Any]:
    """Return a valid ActionTrace with the given name; ``spec`` replaces single fields."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "checkout"}
    given = {"correlationID": "rr-0001", "actionType": "scale-deployment", "targetRef": target}
    return manifest(ACTION_TRACE, given | spec, name=name)
