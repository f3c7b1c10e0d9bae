"""A small controller that keeps the cluster's Events: each becomes an AuditRecord, and so a lasting row.

Run it with the rights of event-recorder.yaml, in a pod or with KUBECONFIG:

    python examples/event_recorder.py

The controller keeps no state. A watch that starts without a resourceVersion first brings all existing Events,
so that after a restart the controller also records those that came meanwhile. The name of a record comes from
the Event and its version, so recording an Event twice ends in AlreadyExists and changes nothing. That holds
as long as the record is in the cluster: its time to live is therefore longer than that of an Event.
"""

import argparse
import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client, config, watch

GROUP, VERSION, PLURAL = "datastorage.kubernaut.io", "v1alpha1", "auditrecords"
EVENT_LIFETIME = 3600  # seconds that an API server keeps Events, unless its --event-ttl says otherwise
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)  # the last one is repeated
MANAGED_BY = "event-recorder"

log = logging.getLogger("event-recorder")


def audit_record(event: Mapping[str, Any], ttl_seconds: int) -> dict[str, Any]:
    """Return the AuditRecord of an Event."""
    metadata, subject = event["metadata"], event["involvedObject"]
    normal = event.get("type") != "Warning"
    first = event.get("firstTimestamp") or event.get("eventTime") or metadata["creationTimestamp"]
    spec = {
        "type": "Execution",
        "action": (event.get("reason") or "Event")[:100],
        "phase": "Completed" if normal else "Failed",
        "correlationID": subject.get("uid") or subject.get("name") or metadata["uid"],
        "startTime": first,
        "endTime": event.get("lastTimestamp") or first,
        "severity": "info" if normal else "warning",
        "actor": {"kind": "Controller", "name": _component(event)},
        "message": event.get("message") or "",
        "execution": {"success": normal},
        "details": {"event": metadata["name"], "count": event.get("count") or 1},
        "ttlSecondsAfterStored": ttl_seconds,
    }
    if subject.get("kind") and subject.get("name"):
        fields = ("apiVersion", "kind", "namespace", "name", "uid")
        spec["resourceRef"] = {field: subject[field] for field in fields if subject.get(field)}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "AuditRecord",
        "metadata": {
            "name": record_name(metadata),
            "namespace": metadata["namespace"],
            "labels": {"app.kubernetes.io/managed-by": MANAGED_BY},
        },
        "spec": spec,
    }


def record_name(metadata: Mapping[str, Any]) -> str:
    """Return the name of the record of one version of an Event: a recurring Event gets a new version."""
    return f"event-{metadata['uid']}-{metadata['resourceVersion']}"


def _component(event: Mapping[str, Any]) -> str:
    return event.get("reportingComponent") or (event.get("source") or {}).get("component") or "unknown"


def _is_final(error: client.ApiException) -> bool:
    """Return whether a retry would be useless: the record is not valid, or its namespace is being deleted.

    A missing right or a missing definition of AuditRecords is not final: an administrator can add it.
    """
    if error.status in (400, 422):
        return True
    try:
        details = json.loads(error.body or "").get("details") or {}
    except ValueError:
        return False  # not the API server's own answer
    going = any(cause.get("reason") == "NamespaceTerminating" for cause in details.get("causes") or ())
    return going or (error.status == 404 and details.get("kind") == "namespaces")


async def record(api: client.CustomObjectsApi, event: Mapping[str, Any], ttl_seconds: int) -> None:
    """Create the record of an Event, however long that takes.

    A record that the API server will never accept is logged and skipped.
    """
    body, attempt = audit_record(event, ttl_seconds), 0
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    while True:
        try:
            await api.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body)
        except client.ApiException as error:
            if error.status == 409:
                log.info("%s/%s is recorded already", namespace, name)
                return
            if _is_final(error):
                log.error("%s/%s cannot be recorded: %s", namespace, name, error.body)  # noqa: TRY400
                return
            problem = f"{error.status} {error.reason}"
        except (aiohttp.ClientError, OSError) as error:
            problem = repr(error)
        else:
            log.info("recorded %s %s as %s/%s", event.get("reason"), event.get("message"), namespace, name)
            return
        log.warning("%s/%s: %s; trying again", namespace, name, problem)
        await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
        attempt += 1


async def record_all(connection: client.ApiClient, ttl_seconds: int) -> None:
    """Record all existing Events and all new ones, until cancelled."""
    events, records = client.CoreV1Api(connection), client.CustomObjectsApi(connection)
    while True:
        try:
            async with watch.Watch() as changes:  # type: ignore[no-untyped-call]
                async for change in changes.stream(events.list_event_for_all_namespaces):
                    if change["type"] in ("ADDED", "MODIFIED"):
                        await record(records, change["raw_object"], ttl_seconds)
        except (client.ApiException, aiohttp.ClientError, OSError) as error:
            log.warning("the watch broke off, starting over: %r", error)
        await asyncio.sleep(RETRY_SECONDS[1])


async def main() -> None:
    parser = argparse.ArgumentParser(description="Record the cluster's Events as AuditRecords.")
    parser.add_argument(
        "--ttl-seconds",
        type=int,
        default=2 * EVENT_LIFETIME,
        help="how long a stored record stays in the cluster; if this is shorter than the lifetime of "
        "Events, a restart may record an Event again (default: %(default)s)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
    async with client.ApiClient() as connection:
        await record_all(connection, arguments.ttl_seconds)


if __name__ == "__main__":
    asyncio.run(main())
