"""Follows all AuditRecords and ActionTraces of the cluster, as `kubectl get --watch` shows them."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Self

from harness.controlplane import Cluster, ControlPlaneError

KINDS = {"auditrecords": "AuditRecord", "actiontraces": "ActionTrace"}


@dataclass
class Followed:
    """The history of one object, as the watch shows it. Times are of the monotonic clock, in seconds."""

    kind: str
    namespace: str
    name: str
    since: float = field(default_factory=time.monotonic)
    phases: list[tuple[int, str]] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)  # status.contentHash by generation
    stored_after: float | None = None
    gone: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def stored(self) -> bool:
        return any(phase == "Stored" for _, phase in self.phases)


class Observer:
    """Keeps the phases of each object, and reports them as they come.

    Objects that come and go between two looks are not missed, as they would be with `kubectl get`.
    """

    def __init__(self, cluster: Cluster, report: Callable[[str], None]) -> None:
        self.reports_clearing = True
        """Whether objects that leave the cluster are reported, too."""
        self._report = report
        self._objects: dict[tuple[str, str, str], Followed] = {}
        self._lock = threading.Lock()
        self._watches: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        for resource, kind in KINDS.items():
            command = ["get", resource, "--all-namespaces", "--watch", "--output-watch-events", "-o", "json"]
            watch = subprocess.Popen(
                [cluster.kubectl_path, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | cluster.environment,
                process_group=0,  # spared the Ctrl-C of the terminal
            )
            thread = threading.Thread(target=self._follow, args=(kind, watch.stdout), daemon=True)
            thread.start()
            self._watches.append(watch)
            self._threads.append(thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.terminate()
        for thread in self._threads:
            thread.join()
        for watch in self._watches:
            watch.wait()

    def check(self) -> None:
        """Raise ControlPlaneError if a watch has ended."""
        if not all(thread.is_alive() for thread in self._threads):
            raise ControlPlaneError("kubectl get --watch has ended")

    def objects(self, kind: str | None = None) -> list[Followed]:
        """Return all objects seen so far, also those that have gone."""
        with self._lock:
            return [one for one in self._objects.values() if kind in (None, one.kind)]

    def find(self, kind: str, name: str) -> Followed | None:
        """Return the object of that name, if it has been seen."""
        return next((one for one in self.objects(kind) if one.name == name), None)

    def _follow(self, kind: str, lines: IO[str] | None) -> None:
        for line in lines or ():  # one event a line
            event = json.loads(line)
            metadata, status = event["object"]["metadata"], event["object"].get("status", {})
            key = (kind, metadata["namespace"], metadata["name"])
            phase = (status.get("observedGeneration", 0), status.get("phase", ""))
            with self._lock:
                one = self._objects.setdefault(key, Followed(*key))
                text = _note(one, event["type"], metadata["generation"], phase)
                if "contentHash" in status:
                    one.hashes[phase[0]] = status["contentHash"]
            if text and (self.reports_clearing or not one.gone):
                self._report(text)


def _note(one: Followed, change: str, generation: int, phase: tuple[int, str]) -> str | None:
    """Note a change, and return what to report about it."""
    now = time.monotonic()
    if change == "DELETED":
        one.gone = True
        return f"{one} cleared from the cluster"
    if not phase[1]:
        return f"{one} created" if change == "ADDED" else None
    if phase in one.phases:
        one.since = now  # the spec has changed, the status not yet
        return f"{one} changed (generation {generation})" if generation > phase[0] else None
    one.phases.append(phase)
    seconds = now - one.since
    if phase[1] == "Stored":
        one.stored_after = seconds
    about = f" (generation {phase[0]})" if one.kind == "ActionTrace" else ""
    return f"{one} {phase[1]}{about} after {seconds:.2f} s"
