"""AuditRecords that the demo itself creates, beside those in files."""

from typing import Any

import yaml

from datastorage.resources.kinds import AUDIT_RECORD
from examples.demo.checks import Seen
from examples.demo.scene import Demo
from harness.manifests import manifest

NAMESPACE = "payments"


def audit_record(name: str, **spec: Any) -> dict[str, Any]:
    """Return the manifest of an AuditRecord."""
    return manifest(AUDIT_RECORD, spec, name=name, namespace=NAMESPACE)


def create(demo: Demo, *records: dict[str, Any], ttl: int | None = None) -> list[str]:
    """Create AuditRecords that leave the cluster after `ttl` seconds, or the demo's; return their names."""
    for record in records:
        record["spec"]["ttlSecondsAfterStored"] = demo.ttl if ttl is None else ttl
    demo.stage.cluster.kubectl("create", "-f", "-", input=yaml.safe_dump_all(records))
    return [record["metadata"]["name"] for record in records]


def wait_until_stored(demo: Demo, names: list[str]) -> None:
    """Wait until the watch has shown that they are Stored."""

    def look() -> Seen:
        known = {one.name for one in demo.observer.objects("AuditRecord") if one.stored}
        waiting = [name for name in names if name not in known]
        return Seen(not waiting, f"not Stored: {waiting}" if waiting else "Stored")

    demo.checks.wait(f"{len(names)} AuditRecords are stored", "phase Stored", look)
