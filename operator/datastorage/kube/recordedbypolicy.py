"""Looks whether the API server itself stamps objects with their author: the policy of manifests/components.

A policy that exists, was never changed and is ours has stamped every write since it was created. The time of
creation and the generation are the API server's own, so a policy that was removed or changed for a while is
recognised when it is back.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from datastorage.errors import ClusterUnavailableError
from datastorage.kube.admissionpolicies import (
    PolicyProblemError,
    Source,
    policy_and_binding,
    read,
    spec_hash,
)
from datastorage.kube.answers import metadata_of
from datastorage.kube.apirequest import Target
from datastorage.kube.transport import Transport
from datastorage.records.times import time_in
from datastorage.resources.kinds import RECORDED_BY_POLICY

_POLICY, _BINDING = policy_and_binding("Mutating", RECORDED_BY_POLICY)
SPECS: Final = {
    _POLICY: "551dae7b26de21dd656dafc16fe5221de07ad4183e58b78f853a8860419e41db",
    _BINDING: "c2f04ca5256fc4e48bc4963cda59524a82f5870026de1e0e088979926195b44d",
}
"""The specs that stamp every object: SHA-256 of their canonical JSON. A unit test compares them with the
manifests, and shows the new values after a change. A policy that is changed needs another name as well."""
_SOURCE: Final = Source(
    "manifests/components/recorded-by",
    "Kubernetes 1.36 or later is needed: set DATASTORAGE_RECORDED_BY_POLICY to false",
)


@dataclass(frozen=True, slots=True)
class InForce:
    """Since when the API server has stamped every write without a break.

    ``since`` is None if it does not, and ``problem`` then says why and what to do.
    """

    since: datetime | None
    problem: str | None = None


class RecordedByPolicy:
    """Reads the policy and its binding."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def look(self) -> InForce:
        """Return whether the policy is in force now. Raises ClusterUnavailableError if nobody says so."""
        try:
            policy, binding = await asyncio.gather(self._created_at(_POLICY), self._created_at(_BINDING))
        except PolicyProblemError as error:
            return InForce(None, str(error))
        return InForce(max(policy, binding))

    async def _created_at(self, target: Target) -> datetime:
        found = await read(self._transport, target, _SOURCE)
        metadata = metadata_of(found, target)
        created_at = time_in(metadata, "creationTimestamp")
        if created_at is None:
            raise ClusterUnavailableError(f"{target}: the answer has no time of creation")
        if metadata.get("generation") != 1 or spec_hash(found) != SPECS[target]:
            raise PolicyProblemError(
                f"{target}: it is another one than in {_SOURCE.folder}/policy.yaml, or was changed after it "
                "was created; delete it and apply the component again"
            )
        return created_at
