"""Builds custom resources as the API server returns them, and reads from them what the operator reads."""

import itertools
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from datastorage.records.record import Record, RecordKey
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from datastorage.resources.reading import objectrecord as record
from harness.manifests import manifest

CREATED: Final = "2026-03-05T10:20:30Z"
TTL_SECONDS: Final = 3600
_names = itertools.count()

AUDIT_SPEC: Final[Mapping[str, Any]] = {
    "type": "Remediation",
    "action": "restart-deployment",
    "phase": "Completed",
    "correlationID": "rr-2026-0042",
}
TRACE_SPEC: Final[Mapping[str, Any]] = {
    "correlationID": "rr-2026-0042",
    "actionType": "ScaleDeployment",
    "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "payments", "name": "api"},
}


def audit_record(spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """Return an AuditRecord as the API server returns it; the keywords replace fields of its metadata."""
    return served(AUDIT_RECORD, AUDIT_SPEC if spec is None else spec, **metadata)


def action_trace(spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """Return an ActionTrace as the API server returns it; the keywords replace fields of its metadata."""
    return served(ACTION_TRACE, TRACE_SPEC if spec is None else spec, **metadata)


def served(kind: ResourceKind, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return an object as the API server returns it; the keywords replace fields of its metadata."""
    given = {
        "name": f"object-{next(_names)}",
        "namespace": "payments",
        "uid": str(uuid.uuid4()),
        "generation": 1,
        "resourceVersion": "100",
        "creationTimestamp": CREATED,
        "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
        **metadata,
    }
    return manifest(kind, spec, **given)


def with_status(body: Mapping[str, Any], **status: Any) -> dict[str, Any]:
    """Return the object with a status for its current generation."""
    return {**body, "status": {"observedGeneration": body["metadata"]["generation"], **status}}


def kind_of(body: Mapping[str, Any]) -> ResourceKind:
    """Return the kind of an object."""
    return AUDIT_RECORD if body["kind"] == AUDIT_RECORD.kind else ACTION_TRACE


def record_of(body: Mapping[str, Any]) -> Record:
    """Return the record of an object."""
    return record.record_of(kind_of(body), body)


def identity_of(body: Mapping[str, Any]) -> tuple[str, int]:
    """Return uid and generation."""
    return body["metadata"]["uid"], body["metadata"]["generation"]


def key_of_body(body: Mapping[str, Any]) -> RecordKey:
    """Return the key under which an object is stored."""
    return record.key_of(kind_of(body), body)


def utc(text: str) -> datetime:
    """Read an RFC 3339 time."""
    return datetime.fromisoformat(text).astimezone(UTC)
