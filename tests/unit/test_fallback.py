"""Objects for requests: created as they are, within bounds, and never for a request that they differ from."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

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
from datastorage.pipeline.fallback import Fallback, Pace
from datastorage.records.record import Claim
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.reading.requestobject import request_hash
from harness.objects import AUDIT_SPEC
from harness.polling import eventually
from tests.support.tasks import Spawn

METADATA: Mapping[str, Any] = {"namespace": "payments", "labels": {"app": "cart"}}
NEVER = Pace(seconds=60.0)


def claim(number: int = 0, metadata: Mapping[str, Any] = METADATA) -> Claim:
    return Claim(bytes([number]) * 32, request_hash(metadata, AUDIT_SPEC))


@dataclass
class Cluster:
    """An API server that creates objects, and may change them, fail or wait."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    admission: dict[str, Any] = field(default_factory=dict)
    """Fields of the metadata that every object gets."""
    error: ClusterError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def create(
        self, kind: ResourceKind, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        name = body["metadata"]["name"]
        if name in self.objects:
            raise ObjectChangedError(f"{kind.kind} {namespace}/{name}: already exists")
        made = {**body, "metadata": {**body["metadata"], **self.admission}}
        if not dry_run:
            self.objects[name] = made
        return made

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        if name not in self.objects:
            raise ObjectGoneError(f"{kind.kind} {namespace}/{name}: not found")
        return self.objects[name]


async def test_an_object_is_created_once() -> None:
    cluster, created = Cluster(), CreatedObjects(1)
    fallback = Fallback(cluster, created)
    name = await fallback.create({**METADATA, "generateName": "ignored-"}, AUDIT_SPEC, claim())
    assert await fallback.create(METADATA, AUDIT_SPEC, claim()) == name
    [made] = cluster.objects.values()
    assert (made["metadata"], made["spec"]) == ({**METADATA, "name": name}, AUDIT_SPEC)
    assert created.has("payments", name)


@pytest.mark.parametrize("admission", [{"labels": {"injected": "x"}}, {"finalizers": ["example.com/x"]}])
async def test_nothing_is_created_that_admission_would_change(admission: dict[str, Any]) -> None:
    cluster, created = Cluster(admission=admission), CreatedObjects(1)
    with pytest.raises(TransientError, match="admission"):
        await Fallback(cluster, created).create(METADATA, AUDIT_SPEC, claim())
    assert cluster.objects == {}
    assert created.add("payments", "room"), "it does not count"


async def test_an_object_of_another_content_is_another_request() -> None:
    cluster = Cluster()
    fallback = Fallback(cluster, CreatedObjects(9))
    name = await fallback.create(METADATA, AUDIT_SPEC, claim())
    other = {"namespace": "payments"}
    with pytest.raises(IdentifierReusedError):
        await fallback.create(other, AUDIT_SPEC, claim(metadata=other))
    cluster.objects[name]["metadata"]["deletionTimestamp"] = "2026-03-05T10:20:30Z"
    with pytest.raises(TransientError, match="is being deleted"):
        await fallback.create(METADATA, AUDIT_SPEC, claim())


async def test_the_bound_counts_what_is_not_stored() -> None:
    cluster, created = Cluster(), CreatedObjects(1)
    fallback = Fallback(cluster, created)
    name = await fallback.create(METADATA, AUDIT_SPEC, claim())
    with pytest.raises(OverloadedError, match="DATASTORAGE_API_FALLBACK_MAX"):
        await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    await fallback.create(METADATA, AUDIT_SPEC, claim())
    created.stored("payments", name)
    await fallback.create(METADATA, AUDIT_SPEC, claim())
    assert not created.has("payments", name), "it was there before"
    await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    assert len(cluster.objects) == 2


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ClusterUnavailableError("AuditRecord a: API server: no connection"), "no connection"),
        (ForbiddenError("AuditRecord a: API server (403): forbidden"), "manifests/components/api-fallback"),
        (NotServedError("AuditRecord a: API server (404)"), "definition"),
        (ObjectGoneError("AuditRecord a: API server (404): namespaces not found"), "namespaces"),
        (ClusterError("AuditRecord a: API server (422): no"), "422"),
    ],
)
async def test_trouble_with_the_cluster_passes(error: ClusterError, says: str) -> None:
    cluster, created = Cluster(error=error), CreatedObjects(1)
    fallback = Fallback(cluster, created)
    with pytest.raises(TransientError, match=says):
        await fallback.create(METADATA, AUDIT_SPEC, claim())
    cluster.error = None
    await fallback.create(METADATA, AUDIT_SPEC, claim(1))


async def test_a_namespace_that_nobody_watches_gets_no_object() -> None:
    cluster = Cluster()
    with pytest.raises(TransientError, match="DATASTORAGE_NAMESPACES"):
        await Fallback(cluster, CreatedObjects(1), namespaces=("shop",)).create(METADATA, AUDIT_SPEC, claim())
    assert cluster.objects == {}


async def test_few_are_created_at_once_and_none_waits_for_ever(spawn: Spawn) -> None:
    cluster = Cluster()
    cluster.gate.clear()
    fallback = Fallback(cluster, CreatedObjects(99), pace=NEVER)
    waiting = [spawn(fallback.create(METADATA, AUDIT_SPEC, claim(n))) for n in range(9)]
    await eventually(lambda: cluster.under_way == Pace().at_once)
    with pytest.raises(TransientError, match="API server"):
        await Fallback(cluster, CreatedObjects(1), pace=Pace(seconds=0.01)).create(
            METADATA, AUDIT_SPEC, claim(50)
        )
    cluster.gate.set()
    await asyncio.gather(*waiting)
    assert cluster.most == Pace().at_once + 1, "the last one has turns of its own"
    assert len(cluster.objects) == 9
