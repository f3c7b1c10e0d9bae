"""Objects for requests: created as they are, within bounds, and never for a request that they differ from."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from datastorage.resources.kinds import Phase, ResourceKind
from datastorage.resources.reading.requestobject import request_hash
from harness.objects import AUDIT_SPEC
from harness.polling import eventually
from tests.support.tasks import Spawn

METADATA: Mapping[str, Any] = {"namespace": "payments", "labels": {"app": "cart"}}
NEVER = Pace(seconds=60.0)
AT_ONCE = Pace(look_again_seconds=0.0)


def claim(number: int = 0, metadata: Mapping[str, Any] = METADATA) -> Claim:
    return Claim(bytes([number]) * 32, request_hash(metadata, AUDIT_SPEC))


@dataclass
class Cluster:
    """An API server that creates objects, and may change them, fail or wait."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    admission: dict[str, Any] = field(default_factory=dict)
    """Fields of the metadata that every object gets."""
    error: ClusterError | None = None
    unseen: ClusterError | None = None
    """The error of every look at an object."""
    looks: list[str] = field(default_factory=list)
    """The names of the objects that were looked at."""
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
        own = {"uid": f"uid-of-{name}", "generation": 1}
        made = {**body, "metadata": {**body["metadata"], **own, **self.admission}}
        if not dry_run:
            self.objects[name] = made
        return made

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        self.looks.append(name)
        if self.unseen is not None:
            raise self.unseen
        if name not in self.objects:
            raise ObjectGoneError(f"{kind.kind} {namespace}/{name}: not found")
        return self.objects[name]

    def settle(self, name: str, phase: Phase = Phase.STORED, generation: int = 1) -> None:
        """Write a status, as any replica may."""
        self.objects[name]["status"] = {"phase": phase, "observedGeneration": generation}


async def test_an_object_is_created_once() -> None:
    cluster, created = Cluster(), CreatedObjects(1)
    fallback = Fallback(cluster, created)
    name = await fallback.create({**METADATA, "generateName": "ignored-"}, AUDIT_SPEC, claim())
    assert await fallback.create(METADATA, AUDIT_SPEC, claim()) == name
    [made] = cluster.objects.values()
    own = {"name": name, "uid": f"uid-of-{name}", "generation": 1}
    assert (made["metadata"], made["spec"]) == ({**METADATA, **own}, AUDIT_SPEC)
    assert created.has("payments", name)


@pytest.mark.parametrize("admission", [{"labels": {"injected": "x"}}, {"finalizers": ["example.com/x"]}])
async def test_nothing_is_created_that_admission_would_change(admission: dict[str, Any]) -> None:
    cluster, created = Cluster(admission=admission), CreatedObjects(1)
    with pytest.raises(TransientError, match="admission"):
        await Fallback(cluster, created).create(METADATA, AUDIT_SPEC, claim())
    assert cluster.objects == {}
    assert created.has_room, "it does not count"


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
    fallback = Fallback(cluster, created, pace=AT_ONCE)
    name = await fallback.create(METADATA, AUDIT_SPEC, claim())
    with pytest.raises(OverloadedError, match="DATASTORAGE_API_FALLBACK_MAX"):
        await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    await fallback.create(METADATA, AUDIT_SPEC, claim())
    elsewhere = CreatedObjects(1)
    await Fallback(cluster, elsewhere).create(METADATA, AUDIT_SPEC, claim())
    assert not elsewhere.has("payments", name), "it was there before"
    cluster.settle(name)
    await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    assert len(cluster.objects) == 2
    assert not created.has("payments", name)


async def test_an_object_that_is_stored_here_leaves_its_place_at_once() -> None:
    cluster, created = Cluster(), CreatedObjects(1)
    fallback = Fallback(cluster, created)
    created.stored("payments", await fallback.create(METADATA, AUDIT_SPEC, claim()))
    assert created.has_room
    created.stored("payments", "of another process")
    await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    assert cluster.looks == []


@pytest.mark.parametrize(
    ("phase", "generation", "is_free"),
    [
        (Phase.STORED, 1, True),
        (Phase.DEGRADED, 1, True),
        (Phase.REJECTED, 1, True),
        (Phase.PENDING, 1, False),
        (Phase.DEGRADED, 0, False),
    ],
)
async def test_an_object_keeps_its_place_until_its_status_says_that_it_is_settled(
    phase: Phase, generation: int, *, is_free: bool
) -> None:
    cluster = Cluster()
    fallback = Fallback(cluster, CreatedObjects(1))
    cluster.settle(await fallback.create(METADATA, AUDIT_SPEC, claim()), phase, generation)
    with nullcontext() if is_free else pytest.raises(OverloadedError):
        await fallback.create(METADATA, AUDIT_SPEC, claim(1))


async def test_an_object_that_is_gone_leaves_its_place() -> None:
    cluster = Cluster()
    fallback = Fallback(cluster, CreatedObjects(1))
    for number in range(3):
        del cluster.objects[await fallback.create(METADATA, AUDIT_SPEC, claim(number))]


async def test_looks_for_room_are_few_and_come_to_every_object() -> None:
    """One look reads few objects, the next one waits, and one that finds room ends there."""
    cluster, created = Cluster(), CreatedObjects(5)
    fallback = Fallback(cluster, created, pace=Pace(looked_at=2))
    names = [await fallback.create(METADATA, AUDIT_SPEC, claim(number)) for number in range(5)]
    assert cluster.looks == [], "there was room"
    for _ in range(3):
        with pytest.raises(OverloadedError):
            await fallback.create(METADATA, AUDIT_SPEC, claim(9))
    assert cluster.looks == names[:2]
    cluster.looks.clear()
    patient = Fallback(cluster, created, pace=Pace(looked_at=2, look_again_seconds=0.0))
    cluster.settle(names[0])
    cluster.settle(names[1])
    with pytest.raises(OverloadedError):
        await patient.create(METADATA, AUDIT_SPEC, claim(9))
    await patient.create(METADATA, AUDIT_SPEC, claim(9))
    await patient.create(METADATA, AUDIT_SPEC, claim(10))
    assert cluster.looks == [*names[2:], *names[:2]]


@pytest.mark.parametrize(
    "error", [ClusterUnavailableError("payments/a: no"), NotServedError("payments/a: no")]
)
async def test_an_object_that_can_not_be_seen_keeps_its_place(
    error: ClusterError, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    fallback = Fallback(cluster, CreatedObjects(1), pace=AT_ONCE)
    name = await fallback.create(METADATA, AUDIT_SPEC, claim())
    cluster.unseen = error
    with pytest.raises(OverloadedError) as refused:
        await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    assert "payments" not in str(refused.value), "the object belongs to another request"
    assert "Can't see" in caplog.text
    cluster.unseen = None
    with pytest.raises(OverloadedError):
        await fallback.create(METADATA, AUDIT_SPEC, claim(1))
    cluster.settle(name)
    await fallback.create(METADATA, AUDIT_SPEC, claim(1))


@dataclass
class _World:
    """A cluster that takes its time, and loses answers; other replicas store and delete its objects.

    ``unstored`` are the objects that the process has created, and that are there unstored.
    """

    random: random.Random
    most: int
    phases: dict[str, Phase | None] = field(default_factory=dict)
    bodies: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    unstored: set[str] = field(default_factory=set)
    loses: bool = True

    async def _while(self) -> None:
        for _ in range(self.random.randint(0, 3)):
            await asyncio.sleep(0)

    async def create(
        self, kind: ResourceKind, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        del kind, namespace
        name = body["metadata"]["name"]
        await self._while()
        if name in self.phases:
            raise ObjectChangedError(name)
        if not dry_run:
            body = {**body, "metadata": {**body["metadata"], "uid": f"uid-of-{name}", "generation": 1}}
            self.phases[name] = None
            self.bodies[name] = body
            self.unstored.add(name)
            assert len(self.unstored) <= self.most
        await self._answer(name)
        return dict(body)

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        del kind, namespace
        await self._while()
        phase, body = self.phases.get(name), self.bodies.get(name)
        await self._answer(name)
        if body is None:
            raise ObjectGoneError(name)
        status = {} if phase is None else {"phase": phase, "observedGeneration": 1}
        return {**body, "status": status}

    async def _answer(self, name: str) -> None:
        await self._while()
        if self.loses and not self.random.randint(0, 9):
            raise ClusterUnavailableError(f"{name}: no answer")

    async def others(self, steps: int, created: CreatedObjects) -> None:
        """Store and delete objects at random. Some are stored by the process itself, which hears of it."""
        for _ in range(steps):
            await self._while()
            if not self.phases:
                continue
            name = self.random.choice(sorted(self.phases))
            self.unstored.discard(name)
            if self.random.randint(0, 1):
                self.phases[name] = Phase.STORED
                if self.random.randint(0, 1):
                    created.stored("payments", name)
            else:
                del self.phases[name], self.bodies[name]


@given(seed=st.integers(0, 2**32), most=st.integers(1, 3), looked_at=st.integers(1, 3))
def test_never_more_wait_than_allowed_and_every_place_comes_back(
    seed: int, most: int, looked_at: int
) -> None:
    async def live() -> None:
        randomness = random.Random(seed)
        world, created = _World(randomness, most), CreatedObjects(most)
        pace = Pace(at_once=3, looked_at=looked_at, look_again_seconds=0.0)
        fallback = Fallback(world, created, pace=pace)

        async def request() -> None:
            for _ in range(4):
                with suppress(TransientError):
                    await fallback.create(METADATA, AUDIT_SPEC, claim(randomness.randint(0, 4)))

        await asyncio.gather(world.others(12, created), *(request() for _ in range(5)))
        assert all(created.has("payments", name) for name in world.unstored)
        world.loses = False
        for name in world.phases:
            world.phases[name] = Phase.STORED
        world.unstored.clear()
        for number in range(most):
            await fallback.create(METADATA, AUDIT_SPEC, claim(100 + number))
        with pytest.raises(OverloadedError):
            await fallback.create(METADATA, AUDIT_SPEC, claim(99))

    asyncio.run(live())


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


class Refusing(Cluster):
    """Refuses to create any object, and names each as the API server does."""

    async def create(
        self, kind: ResourceKind, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        del dry_run
        name = body["metadata"]["name"]
        raise ForbiddenError(f'{kind.kind} {namespace}/{name}: API server (403): "{name}" is forbidden')


async def test_what_refuses_all_requests_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fallback = Fallback(Refusing(), CreatedObjects(1))
    for number in range(3):
        with pytest.raises(TransientError):
            await fallback.create(METADATA, AUDIT_SPEC, claim(number))
    assert caplog.text.count("Custom resource of a request refused") == 1


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
