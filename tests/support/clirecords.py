"""Records that the commands show, with a database and over HTTP."""

from harness.objects import audit_record

MEMORY = audit_record(
    {"type": "Remediation", "action": "restart-deployment", "phase": "Completed", "correlationID": "rr-7",
     "message": "the container ran out of memory\x1b[31m", "severity": "critical",
     "alertFingerprint": "a1b2c3", "environment": "production", "cluster": "eu-1",
     "actor": {"kind": "User", "name": "jo"},
     "resourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "checkout"}},
    name="memory", namespace="shop", creationTimestamp="2026-03-05T10:00:00Z",
)  # fmt: skip
DISK = audit_record(
    {"type": "Execution", "action": "resize", "phase": "Failed", "correlationID": "rr-8",
     "message": "no space left on the volume of the database",
     "startTime": "2026-03-05T11:00:00Z", "endTime": "2026-03-05T11:01:30Z",
     "details": {"n": 2**62, "ratio": 0.1, "surrogate": "\udc00", "text": "ä€\u2028"}},
    name="disk", creationTimestamp="2026-03-05T11:00:00.123456Z",
)  # fmt: skip
DIVERGED = [
    audit_record(
        {"type": "Execution", "action": "cordon", "phase": "Completed", "correlationID": "rr-9",
         "message": f"pods {what}"},
        name="twice", namespace="restored", uid="5b7d1c3e-0f8e-4c3e-9a61-2d4f6b8c0e12",
        creationTimestamp="2026-03-05T09:00:00Z",
    )
    for what in ("cordoned", "drained")
]  # fmt: skip
"""Two contents of one generation."""
