"""The schema of the records that are sent, made from the definition of the custom resource.

So the document can't differ from the rules that the API server and this API go by.
"""

from collections.abc import Mapping
from typing import Any, Final

from datastorage.api.answerschemas import SCHEMAS_AT
from datastorage.resources.crd import crd
from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD
from datastorage.resources.models.base import RULES_KEY

RECORD: Final = "AuditRecord"
_SPEC: Final = "AuditRecordSpec"
_METADATA: Final = "RecordMetadata"
# The API server itself adds these facts to its schemas; JSON schema has no such keys.
_FOREIGN: Final = "x-kubernetes-"


def request_schemas() -> dict[str, Any]:
    """Return the schemas of a record and its members by their names."""
    [version] = crd(AUDIT_RECORD)["spec"]["versions"]
    spec = _plain(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    spec["required"] = [name for name in spec["required"] if name != "type"]
    spec["properties"]["type"]["description"] = (
        "The kind of the step. It may be left out, since the path says it, and must not differ from "
        "the path. At most one of aiAnalysis, workflow and execution may be given, the one that matches "
        "the type."
    )
    return {RECORD: _record(), _METADATA: _metadata(), _SPEC: spec}


def _record() -> dict[str, Any]:
    return {
        "description": "A record, in the form of the custom resource. Unknown fields are refused. null stands"
        " for a field that is left out.",
        "type": "object",
        "required": ["metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "May be left out."},
            "kind": {"const": AUDIT_RECORD.kind, "description": "May be left out."},
            "metadata": {"$ref": SCHEMAS_AT + _METADATA},
            "spec": {"$ref": SCHEMAS_AT + _SPEC},
            "status": {
                "type": ["object", "null"],
                "description": "Ignored, so that an object may be sent as it is read.",
            },
        },
        "examples": [EXAMPLE],
    }


def _metadata() -> dict[str, Any]:
    texts = _optional({"type": "object", "additionalProperties": {"type": ["string", "null"]}})
    return {
        "description": "Metadata of a Kubernetes object. The other fields that objects have are accepted and "
        "ignored.",
        "type": "object",
        "required": ["namespace"],
        "properties": {
            "namespace": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                "description": "The namespace that the record belongs to. The caller needs the right there.",
            },
            "name": {
                "type": ["string", "null"],
                "maxLength": 253,
                "description": "Name of the record; made from type and uid if it is left out.",
            },
            "uid": {
                "type": ["string", "null"],
                "format": "uuid",
                "description": "The identifier under which the same record may be sent again.",
            },
            "labels": {**texts, "description": "Stored with the record."},
            "annotations": {**texts, "description": "Stored with the record."},
            "ownerReferences": {
                "type": ["array", "null"],
                "items": {"type": "object"},
                "description": "Stored with the record.",
            },
        },
    }


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a structural schema in the words of JSON schema, with the messages of its rules as text."""
    rules = [rule["message"] for rule in schema.get(RULES_KEY, ())]
    plain = {
        key: value for key, value in schema.items() if not key.startswith(_FOREIGN) and key != "nullable"
    }
    if rules:
        plain["description"] = f"{plain['description']}\n\nRules: {'; '.join(rules)}."
    if "properties" in plain:
        needed = plain.get("required", ())
        plain["properties"] = {
            name: _plain(each) if name in needed else _optional(_plain(each))
            for name, each in plain["properties"].items()
        }
        plain["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(plain.get(key), Mapping):
            plain[key] = _plain(plain[key])
    return plain


def _optional(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a field that may be left out: as for the API server, null means the same."""
    nullable = dict(schema)
    if "type" in nullable:
        nullable["type"] = [nullable["type"], "null"]
    if "enum" in nullable:
        nullable["enum"] = [*nullable["enum"], None]
    return nullable


UID: Final = "5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41"
EXAMPLE: Final = {
    "metadata": {"namespace": "payments", "uid": UID},
    "spec": {
        "action": "scale-deployment",
        "phase": "Completed",
        "correlationID": "rr-checkout-oom",
        "startTime": "2026-03-14T09:26:53Z",
        "endTime": "2026-03-14T09:27:10Z",
        "severity": "critical",
        "resourceRef": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "namespace": "payments",
            "name": "checkout",
        },
        "message": "Scaled checkout from 2 to 4 replicas after repeated OOM kills",
    },
}
"""A record of any type. Those of single types have members of their own besides."""
