"""Runs the event recorder while a Deployment is created and scaled, at first with the operator frozen."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from examples.demo.checks import Seen
from examples.demo.scene import Demo
from examples.demo.stage import EXAMPLES
from examples.demo.story import find_row
from examples.event_recorder import MANAGED_BY, record_name
from harness.controlplane.processes import Component, ProcessGroup

NAMESPACE = "payments"
DEPLOYMENT = "deployment/checkout"
STOP_TIMEOUT = 10.0  # seconds


def play_events(demo: Demo) -> None:
    """Record the Events of a Deployment: the operator frozen, the recorder killed, then both at work."""
    cluster, checks, narrator = demo.stage.cluster, demo.checks, demo.narrator
    narrator.heading("A real controller: examples/event_recorder.py turns Events into AuditRecords")
    cluster.apply(EXAMPLES / "event-recorder.yaml")
    narrator.say("The operator is frozen (SIGSTOP), as if its node hung: nothing is stored meanwhile")
    demo.stage.operator.pause()
    with _recorder(demo) as (recorder, group):
        narrator.say("Creating a Deployment with 3 replicas")
        cluster.apply(EXAMPLES / "checkout-deployment.yaml")
        _check_recorded(demo, "The recorder has recorded every Event", pods=3)
        _check_deletion_refused(demo)
        narrator.say("The recorder is killed (SIGKILL), and the Deployment scaled to 5 while it is away")
        recorder.signal(signal.SIGKILL)
        recorder.wait()
        cluster.kubectl("scale", DEPLOYMENT, "-n", NAMESPACE, "--replicas=5")
        checks.that("The Events of scaling up are there", "5 SuccessfulCreate", lambda: _seen_events(demo, 5))
        recorder.start(group)
        _check_recorded(demo, "Back again, it has recorded what it missed, and nothing twice", pods=5)
        narrator.say("The operator goes on (SIGCONT)")
        demo.stage.operator.resume()
        _check_all_stored(demo, "Everything that waited is stored")
        narrator.say("Scaling to 2, with everything running")
        cluster.kubectl("scale", DEPLOYMENT, "-n", NAMESPACE, "--replicas=2")
        _check_recorded(demo, "The Events of scaling down are recorded", pods=5, killed=3)
        _check_all_stored(demo, "And stored at once")


@contextmanager
def _recorder(demo: Demo) -> Iterator[tuple[Component, ProcessGroup]]:
    """Run the recorder under its own ServiceAccount."""
    kubeconfig = demo.stage.cluster.service_account_kubeconfig("event-recorder", "event-recorder")
    command = [sys.executable, str(EXAMPLES / "event_recorder.py"), f"--ttl-seconds={demo.ttl}"]
    log = demo.stage.directory / "operator" / "event-recorder.log"
    recorder = Component("event-recorder", ["env", f"KUBECONFIG={kubeconfig}", *command], log)
    group = ProcessGroup()
    try:
        recorder.start(group)
        yield recorder, group
        recorder.check()
    finally:
        recorder.stop(STOP_TIMEOUT)
        group.kill()


def _events(demo: Demo) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = demo.stage.cluster.get("events", "--all-namespaces")["items"]
    return items


def _seen_events(demo: Demo, pods: int, killed: int = 0) -> Seen:
    """Look whether the Deployment's Events are there, for this many Pods created and killed."""
    ours = [event for event in _events(demo) if event["metadata"]["namespace"] == NAMESPACE]
    counts = {
        reason: sum(event["reason"] == reason for event in ours)
        for reason in ("ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete")
    }
    right = (counts["SuccessfulCreate"], counts["SuccessfulDelete"]) == (pods, killed)
    return Seen(right, ", ".join(f"{count} {reason}" for reason, count in counts.items() if count))


def _check_recorded(demo: Demo, name: str, *, pods: int, killed: int = 0) -> None:
    def look() -> Seen:
        if not (seen := _seen_events(demo, pods, killed)).right:
            return seen
        events = _events(demo)
        known = {one.name for one in demo.observer.objects("AuditRecord")}
        missing = [event["message"] for event in events if record_name(event["metadata"]) not in known]
        if missing:
            return Seen(right=False, what=f"{len(events)} Events, not recorded: {missing}")
        if twice := _recorded_twice(demo):
            return Seen(right=False, what=f"recorded twice: {twice}")
        return Seen(right=True, what=f"{len(events)} Events in all namespaces, each has its AuditRecord")

    expected = f"{pods} Pods created and {killed} deleted, one AuditRecord for each Event"
    demo.checks.that(name, expected, look)


def _recorded_twice(demo: Demo) -> list[str]:
    """Return the Events that have two records of the same occurrence."""
    listed = demo.stage.cluster.get("auditrecords", "-A", "-l", f"app.kubernetes.io/managed-by={MANAGED_BY}")
    records = Counter(
        (item["metadata"]["namespace"], item["spec"]["details"]["event"], item["spec"]["details"]["count"])
        for item in listed["items"]
    )
    return [f"{namespace}/{event}" for (namespace, event, _), count in records.items() if count > 1]


def _check_deletion_refused(demo: Demo) -> None:
    cluster = demo.stage.cluster
    name, namespace = next(
        (one.name, one.namespace)
        for one in demo.observer.objects("AuditRecord")
        if one.name.startswith("event-") and one.namespace == NAMESPACE
    )

    def look() -> Seen:
        refused = cluster.kubectl("delete", "auditrecord", name, "-n", namespace, check=False)
        still = cluster.kubectl("get", "auditrecord", name, "-n", namespace, "-o", "name", check=False)
        stored = find_row(demo, "AuditRecord", name) is not None
        right = refused.returncode != 0 and "not stored it yet" in refused.stderr and not stored
        if not right or still.returncode != 0:
            return Seen(right=False, what=refused.stderr.strip() or refused.stdout.strip())
        demo.narrator.say(f"$ kubectl delete auditrecord {name} -n {namespace}")
        demo.narrator.quote(refused.stderr)
        return Seen(right=True, what="refused by the API server, and the record is still there")

    # This is tried only once: a deletion that is not refused removes the record.
    demo.checks.that(
        "Deleting a record that is not stored yet is refused", "a refusal that says why", look, within=0
    )


def _check_all_stored(demo: Demo, name: str) -> None:
    def look() -> Seen:
        objects = demo.observer.objects()
        waiting = [str(one) for one in objects if not one.stored]
        if waiting:
            return Seen(right=False, what=f"{len(waiting)} of {len(objects)} not stored: {waiting[:3]} …")
        return Seen(right=True, what=f"{len(objects)} of {len(objects)} objects")

    demo.checks.that(name, "phase Stored for every object", look)
