"""Creates the record of a request as a custom resource while PostgreSQL is away, so that etcd keeps it.

The object stands for the request (resources/reading/requestobject.py). Once PostgreSQL is back, it is stored
like any other object, and takes the request's identifier. If the request was stored before it, it is deleted.
"""

import asyncio
import logging
import math
import time
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
from datastorage.metrics import FallbackOutcome
from datastorage.pipeline.clusterobject import is_settled, ref_of
from datastorage.pipeline.createdobjects import CreatedObjects, Place
from datastorage.records.record import Claim
from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD, ResourceKind
from datastorage.resources.reading.requestobject import claim_of, name_of
from datastorage.tracing import NO_TRACES, Traces, current_request

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
    """How many objects are created at once, how long a request waits for its own, and the looks for room."""

    at_once: int = 4
    """Each is two or three small requests to the API server, which has other work."""
    seconds: float = 5.0
    """With the waiting for a turn. An API server that works takes some milliseconds."""
    looked_at: int = 10
    """Objects that a look for room reads at most, one after the other. It ends with the first that is stored
    or gone: in the long run that is one more request for each object."""
    look_again_seconds: float = 2.0
    """After a look that found no room, as while PostgreSQL is away. Looks are 5 requests a second then. A
    client is asked to wait as long before it tries again."""


class Fallback:
    """Creates objects for requests."""

    def __init__(
        self,
        cluster: Cluster,
        created: CreatedObjects,
        *,
        namespaces: tuple[str, ...] = (),
        traces: Traces = NO_TRACES,
        pace: Pace = Pace(),
    ) -> None:
        """``namespaces`` are those that the operator serves; empty for all."""
        self._cluster = cluster
        self._created = created
        self._namespaces = namespaces
        self._traces = traces
        self._pace = pace
        self._turns = asyncio.Semaphore(pace.at_once)
        self._look = asyncio.Lock()
        self._next_look_at = -math.inf
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
            metrics.FALLBACK_TOTAL.labels(FallbackOutcome.FAILED).inc()
            raise ClusterUnavailableError(
                f"the API server did not create a custom resource within {self._pace.seconds:g} s"
            ) from None
        except (ClusterError, TransientError, IdentifierReusedError) as error:
            metrics.FALLBACK_TOTAL.labels(FallbackOutcome.FAILED).inc()
            raise self._translated(error, name) from error
        metrics.FALLBACK_TOTAL.labels(outcome).inc()
        return name

    async def _counted(
        self, namespace: str, name: str, body: Mapping[str, Any], claim: Claim
    ) -> FallbackOutcome:
        """Create the object within the bound; return whether it is new or was there already."""
        created = self._created
        if not created.has(namespace, name):
            await self._make_room()
        # Nothing may wait between the check and the taking of the place.
        if not created.has_room and not created.has(namespace, name):
            raise OverloadedError(
                f"{created.most:,} custom resources of requests wait to be stored "
                "(DATASTORAGE_API_FALLBACK_MAX): send the request again later"
            )
        with created.place(namespace, name) as place:
            return await self._create(place, body, claim)

    async def _create(self, place: Place, body: Mapping[str, Any], claim: Claim) -> FallbackOutcome:
        namespace, started_ns, outcome = place.namespace, self._traces.now_ns(), FallbackOutcome.CREATED
        try:
            # Admission may change the object, and then the same request would not be the same any more.
            planned = await self._cluster.create(AUDIT_RECORD, namespace, body, dry_run=True)
            _require_unchanged(planned, claim)
            made = await self._create_in(place, body)
            _require_unchanged(made, claim)
        except ObjectChangedError:
            made, outcome = await self._same(namespace, place.name, claim), FallbackOutcome.REPEATED
        ref, generation = ref_of(AUDIT_RECORD, made), made["metadata"]["generation"]
        self._traces.object_created(current_request(), ref.uid, generation, ref.as_log_fields, started_ns)
        return outcome

    async def _create_in(self, place: Place, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create the object; its place is taken unless it was there before."""
        is_there = False
        try:
            return await self._cluster.create(AUDIT_RECORD, place.namespace, body)
        except ObjectChangedError:
            is_there = True  # so that it has a place in the process that has created it
            raise
        finally:
            # After any other error the object may exist all the same.
            place.is_taken |= not is_there

    async def _make_room(self) -> None:
        """If there is no room, look for an object that is stored or gone: any replica may have stored it."""
        async with self._look:
            if self._created.has_room or time.monotonic() < self._next_look_at:
                return
            self._next_look_at = time.monotonic() + self._pace.look_again_seconds
            try:
                for place in self._created.longest_unseen(self._pace.looked_at):
                    await self._look_at(place)
                    if self._created.has_room:
                        self._next_look_at = -math.inf
                        return
            except ClusterError as error:
                # The request's own answer must not name the object of another one.
                _log.warning("Can't see which custom resources are stored", extra={"error": str(error)})

    async def _look_at(self, place: Place) -> None:
        """Free the place if its object is stored or gone."""
        self._created.seen(place)
        is_waiting = True
        with self._created.place(place.namespace, place.name):
            # A creation that ends before the answer takes the place again: the answer may not know of it.
            place.is_taken = False
            try:
                found = await self._cluster.get(AUDIT_RECORD, place.namespace, place.name)
                is_waiting = not is_settled(found)
            except NotServedError:
                raise  # the objects may come back with their definition
            except ObjectGoneError:
                is_waiting = False
            finally:
                place.is_taken |= is_waiting

    async def _same(self, namespace: str, name: str, claim: Claim) -> dict[str, Any]:
        """Return the object that has the name already. Raises IdentifierReusedError if it differs."""
        there = await self._cluster.get(AUDIT_RECORD, namespace, name)
        if claim_of(there) != claim:
            raise IdentifierReusedError
        if "deletionTimestamp" in there["metadata"]:
            raise TransientError(f"AuditRecord {namespace}/{name}, which stands for it, is being deleted")
        return there

    def _translated(self, error: Exception, name: str) -> Exception:
        """Return the error for the request of the object: its trouble passes, or an administrator ends it."""
        match error:
            case TransientError() | IdentifierReusedError():
                return error
            case NotServedError():
                return TransientError("the cluster has no AuditRecords now: their definition is missing")
            case ObjectGoneError():
                return TransientError(f"{error}: send the request again")
            case _:
                # Without the name, which differs for each request.
                refusal = str(error).replace(name, "")
                if refusal != self._refusal:
                    self._refusal = refusal
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
