"""A steady flow of records that all say something new, so that each needs a vector of its own."""

import subprocess
import threading
from types import TracebackType
from typing import Any, NamedTuple, Self

from examples.demo.observer import Followed
from examples.demo.records import NAMESPACE, audit_record, create
from examples.demo.scene import Demo
from harness.controlplane import ControlPlaneError, KubectlError

PAUSE = 0.6  # seconds between two records
# Seconds that a record stays at least: a Degraded one is also deleted on time, and could be gone before it is
# seen Stored.
LEAST_TTL = 30
CORRELATION = "rr-outage"


class Incident(NamedTuple):
    """The content of a record of the flow."""

    action: str
    message: str


# 11 and 7 have no common divisor: a pair recurs only after all 77.
SERVICES = (
    "search", "catalogue", "shipping", "mail", "wishlist", "reviews", "vouchers", "accounts", "pricing",
    "returns", "reports",
)  # fmt: skip
INCIDENTS = (
    Incident("rotate-credentials", "Its password for the database had expired; it was given a new one"),
    Incident("scale-deployment", "Its queue had grown for an hour; it was scaled from 3 to 6 replicas"),
    Incident("fix-dns", "It could not resolve the name of the message broker; CoreDNS was restarted"),
    Incident("move-pods", "Its node reported disk pressure; its Pods were moved to another node"),
    Incident("raise-limit", "Its CPU was throttled for most of the time; its limit was raised to 2 cores"),
    Incident("break-circuit", "The bank's interface timed out; calls to it are refused for a minute"),
    Incident("resync-clock", "Its tokens were refused since a node's clock was 4 minutes ahead"),
)


class Flow:
    """Creates records at a steady pace while its block runs."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self._ttl = max(demo.ttl, LEAST_TTL)
        self._created: list[str] = []
        self._error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def names(self) -> list[str]:
        """Return the names of all records that the API server has accepted, in order.

        Raises:
            ControlPlaneError: it has refused one.
        """
        if self._error is not None:
            raise ControlPlaneError(f"a record could not be created: {self._error}")
        return list(self._created)

    def objects(self, after: int = 0) -> list[Followed]:
        """Return what has been seen of the records, without the first ``after`` of them."""
        names = self.names()[after:]
        return [one for one in self._demo.observer.objects("AuditRecord") if one.name in names]

    def _run(self) -> None:
        number = 0
        try:
            while not self._stopped.is_set():
                self._created += create(self._demo, _record(number), ttl=self._ttl)
                number += 1
                self._stopped.wait(PAUSE)
        except (KubectlError, OSError, subprocess.SubprocessError) as error:
            self._error = error


def _record(number: int) -> dict[str, Any]:
    service, incident = SERVICES[number % len(SERVICES)], INCIDENTS[number % len(INCIDENTS)]
    return audit_record(
        f"outage-{number + 1:02}-{service}",
        type="Remediation",
        action=incident.action,
        phase="Completed",
        correlationID=CORRELATION,
        resourceRef={"apiVersion": "apps/v1", "kind": "Deployment", "namespace": NAMESPACE, "name": service},
        message=incident.message,
    )
