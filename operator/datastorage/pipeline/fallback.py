"""Creates the record of a request as a custom resource while PostgreSQL is away, so that etcd keeps it.

The object stands for the request (resources/reading/requestobject.py). Once PostgreSQL is back, it is stored
like any other object, and takes the request's identifier. If the request was stored before it, it is deleted.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from datastorage import metrics
from datastorage.errors import (
    ClusterError,
    ClusterUnavailableError,
    ForbiddenError,
    IdentifierReusedError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    OverloadedError,
    TransientError,
)
from datastorage.pipeline.createdobjects import CreatedObjects
from datastorage.records.record import Claim
from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD, ResourceKind
from datastorage.resources.reading.requestobject import claim_of, name_of

_log = logging.getLogger(__name__)

_SENT_METADATA: Final = ("namespace", "labels", "annotations")


class Cluster(Protocol):
    """The requests that are needed here (kube/objects.py)."""

    async def create(
        self, kind: ResourceKind, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]: ...
    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Pace:
    """How many objects are created at once, and how long a request waits for its own."""

    at_once: int = 4
    """Each is two or three small requests to the API server, which has other work."""
    seconds: float = 5.0
    """With the waiting for a turn. An API server that works takes some milliseconds."""


class Fallback:
    """Creates objects for requests."""

    def __init__(
        self,
        cluster: Cluster,
        created: CreatedObjects,
        *,
        namespaces: tuple[str, ...] = (),
        pace: Pace = Pace(),
    ) -> None:
        """``namespaces`` are those that the operator serves; empty for all."""
        self._cluster = cluster
        self._created = created
        self._namespaces = namespaces
        self._pace = pace
        self._turns = asyncio.Semaphore(pace.at_once)
        # The last refusal that was logged: an outage has many requests, and each may meet the same one.
        self._refusal: str | None = None

    async def create(self, metadata: Mapping[str, Any], spec: Mapping[str, Any], claim: Claim) -> str:
        """Return the name of the object that stands for a request, which is created if it is not there.

        ``metadata`` and ``spec`` are those of the request, and ``claim`` is its claim. Raises
        IdentifierReusedError if the object has another content, OverloadedError if the bound is reached, and
        TransientError if the object can't be created. After an error it may exist all the same, and is stored
        in its time: the same request finds it.
        """
        namespace = metadata["namespace"]
        if self._namespaces and namespace not in self._namespaces:
            raise TransientError(
                f"the operator does not watch namespace {namespace} (DATASTORAGE_NAMESPACES), so it would "
                "never store a custom resource there"
            )
        sent = {field: metadata[field] for field in _SENT_METADATA if metadata.get(field)}
        name = name_of(claim.identifier_hash)
        body = {
            "apiVersion": API_VERSION,
            "kind": AUDIT_RECORD.kind,
            "metadata": {**sent, "name": name},
            "spec": spec,
        }
        try:
            async with asyncio.timeout(self._pace.seconds), self._turns:
                outcome = await self._counted(namespace, name, body, claim)
        except TimeoutError:
            metrics.FALLBACK_TOTAL.labels("failed").inc()
            raise ClusterUnavailableError(
                f"the API server did not create a custom resource within {self._pace.seconds:g} s"
            ) from None
        except (ClusterError, TransientError, IdentifierReusedError) as error:
            metrics.FALLBACK_TOTAL.labels("failed").inc()
            raise self._translated(error) from error
        metrics.FALLBACK_TOTAL.labels(outcome).inc()
        return name

    async def _counted(self, namespace: str, name: str, body: Mapping[str, Any], claim: Claim) -> str:
        """Create the object within the bound; return ``created``, or ``repeated`` if it is there already."""
        is_counted = self._created.has(namespace, name)
        if not is_counted and not self._created.add(namespace, name):
            raise OverloadedError(
                f"{self._created.most:,} custom resources of requests wait to be stored "
                "(DATASTORAGE_API_FALLBACK_MAX): send the request again later"
            )
        outcome = None
        try:
            outcome = await self._create(namespace, name, body, claim)
        finally:
            # One that was there before is counted by the process that has created it.
            if outcome != "created" and not is_counted:
                self._created.stored(namespace, name)
        return outcome

    async def _create(self, namespace: str, name: str, body: Mapping[str, Any], claim: Claim) -> str:
        try:
            # Admission may change the object, and then the same request would not be the same any more.
            planned = await self._cluster.create(AUDIT_RECORD, namespace, body, dry_run=True)
            _require_unchanged(planned, claim)
            made = await self._cluster.create(AUDIT_RECORD, namespace, body)
            _require_unchanged(made, claim)
        except ObjectChangedError:
            await self._require_same(namespace, name, claim)
            return "repeated"
        return "created"

    async def _require_same(self, namespace: str, name: str, claim: Claim) -> None:
        """Check the object that has the name already. Raises IdentifierReusedError if it differs."""
        there = await self._cluster.get(AUDIT_RECORD, namespace, name)
        if claim_of(there) != claim:
            raise IdentifierReusedError
        if "deletionTimestamp" in there["metadata"]:
            raise TransientError(f"AuditRecord {namespace}/{name}, which stands for it, is being deleted")

    def _translated(self, error: Exception) -> Exception:
        """Return the error for the request: the cluster's trouble passes, or an administrator ends it."""
        match error:
            case TransientError() | IdentifierReusedError():
                return error
            case NotServedError():
                return TransientError("the cluster has no AuditRecords now: their definition is missing")
            case ObjectGoneError():
                return TransientError(f"{error}: send the request again")
            case _:
                if str(error) != self._refusal:
                    self._refusal = str(error)
                    _log.error("Custom resource of a request refused", extra={"error": str(error)})
                if not isinstance(error, ForbiddenError):
                    return TransientError(str(error))
                return TransientError(
                    f"{error}; the operator needs the right to create auditrecords "
                    "(manifests/components/api-fallback)"
                )


def _require_unchanged(body: Mapping[str, Any], claim: Claim) -> None:
    if claim_of(body) != claim or body["metadata"].get("finalizers"):
        raise TransientError(
            "an admission policy or webhook of the cluster changes such custom resources, or the request has "
            "labels or annotations that a custom resource can't have"
        )
