"""Records that the commands show, with a database and over HTTP."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from harness.objects import action_trace, audit_record
from harness.postgres import TestDatabase, connect

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
TRACE = [
    action_trace(
        {"correlationID": "rr-7", "actionType": "restart_pod", "execution": execution,
         "targetRef": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api"}},
        name="trace", uid="6c1f0b7e-21a4-4d8f-8a55-6f2d9b3c7e10", generation=generation,
        creationTimestamp="2026-03-05T12:00:00Z",
    )
    for generation, execution in ((1, {"status": "Executing"}), (2, {"status": "Failed", "error": "denied"}))
]  # fmt: skip
"""Two generations."""
REPEATED = [
    audit_record(
        name=f"of-{namespace}", namespace=namespace, uid="2d4f6b8c-1c3e-4d8f-9a61-5b7d0f8e4c3e",
        creationTimestamp=created,
    )
    for namespace, created in (("left", "2026-03-05T08:00:00Z"), ("right", "2026-03-05T08:00:01Z"))
]  # fmt: skip
"""Records of two namespaces with one uid."""
REPEATED_UID = REPEATED[0]["metadata"]["uid"]


@contextmanager
def changed(filled: TestDatabase) -> Iterator[None]:
    """Change the content of DISK until the end of the block."""

    async def change(sql: str) -> None:
        owner = await connect(filled.owner_url)
        statement = f"UPDATE datastorage.audit_records SET content = {sql} WHERE uid = $1"
        await owner.execute(statement, DISK["metadata"]["uid"])
        await owner.close()

    asyncio.run(change("content || ' '"))
    try:
        yield
    finally:
        asyncio.run(change("substring(content, 1, octet_length(content) - 1)"))
