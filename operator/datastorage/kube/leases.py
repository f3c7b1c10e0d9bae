"""Reads and writes Leases, with which the replicas agree on who does what (coordination.k8s.io/v1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from datastorage.errors import ObjectGoneError
from datastorage.kube.answers import version_of
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import GROUP

_LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
_LABELS: Final = {"app.kubernetes.io/name": "datastorage"}
_REQUESTED_BY: Final = f"{GROUP}/requested-by"
_OFFERED: Final = f"{GROUP}/offered"
_LARGEST: Final = 2**31 - 1
"""Of the numbers in a Lease. Anybody with the right may have written others than ours, which the API server
would refuse to take back."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What a Lease says."""

    holder: str
    """Empty if nobody holds it."""
    duration_seconds: int
    """Others may take it when it was not renewed for this long."""
    acquired_at: str
    renewed_at: str
    """By the holder's clock. It shows only that the Lease was renewed: clocks differ, and jump."""
    transitions: int
    requested_by: str = ""
    """Another process that asks the holder to hand the Lease over; empty if none does."""
    offered: bool = False
    """Whether the holder can't do the work, and leaves it to a process that asks for the Lease."""
    version: str | None = None
    """The resourceVersion; None for a Lease that is not there yet."""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The metadata as it was read: labels and the like that others have written are written back."""


class Leases:
    """The Leases of one namespace. Every method raises a ClusterError that names the Lease."""

    def __init__(self, transport: Transport, namespace: str) -> None:
        self._transport = transport
        self._namespace = namespace

    async def get(self, name: str, *, seconds: float) -> LeaseState | None:
        """Return the Lease, or None if there is none."""
        target = self._target(name)
        try:
            answer = await self._call(ApiRequest("GET", target), seconds)
        except ObjectGoneError:
            return None
        return _state(answer, version_of(answer, target))

    async def put(self, name: str, state: LeaseState, *, seconds: float) -> LeaseState:
        """Create the Lease if ``state`` has no version, or replace it; return it with its new version.

        Raises ObjectChangedError if it has another version, or is there already.
        """
        target = self._target(name)
        ours = {_REQUESTED_BY: state.requested_by, _OFFERED: "true" if state.offered else ""}
        annotations = {**_mapping(state.metadata.get("annotations")), **ours}
        metadata: dict[str, Any] = {
            **state.metadata,
            "name": name,
            "namespace": self._namespace,
            "labels": {**_mapping(state.metadata.get("labels")), **_LABELS},
            "annotations": {key: value for key, value in annotations.items() if value or key not in ours},
        }
        metadata.pop("managedFields", None)  # the API server keeps them
        if state.version is not None:
            metadata["resourceVersion"] = state.version
        times = {"acquireTime": state.acquired_at, "renewTime": state.renewed_at}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": state.holder,
                "leaseDurationSeconds": min(max(state.duration_seconds, 1), _LARGEST),
                "leaseTransitions": min(max(state.transitions, 0), _LARGEST),
                **{name: time for name, time in times.items() if time},
            },
        }
        method = "POST" if state.version is None else "PUT"
        answer = await self._call(ApiRequest(method, target, body=body), seconds)
        return _state(answer, version_of(answer, target))

    def _target(self, name: str) -> Target:
        return Target(_LEASES, self._namespace, name)

    async def _call(self, request: ApiRequest, seconds: float) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=seconds)
        return await self._transport.call(request, timeout=timeout, review_right=True)


def now() -> str:
    """Return the time as a Lease has it, with microseconds."""
    return rfc3339(datetime.now(UTC), "microseconds")


def _state(answer: Mapping[str, Any], version: str) -> LeaseState:
    spec, annotations = _mapping(answer.get("spec")), _mapping(answer["metadata"].get("annotations"))
    return LeaseState(
        holder=str(spec.get("holderIdentity") or ""),
        duration_seconds=_number(spec.get("leaseDurationSeconds")),
        acquired_at=str(spec.get("acquireTime") or ""),
        renewed_at=str(spec.get("renewTime") or ""),
        transitions=_number(spec.get("leaseTransitions")),
        requested_by=str(annotations.get(_REQUESTED_BY) or ""),
        offered=annotations.get(_OFFERED) == "true",
        version=version,
        metadata=answer["metadata"],
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
