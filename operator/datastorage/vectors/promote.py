"""Lifts objects whose vectors have been paid: from Degraded to Stored, and their writes from Pending.

The cluster itself says which objects those may be, and the archive what they still owe. So nothing is
forgotten where the payment was another replica's, or a crash came between payment and status.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Announcement
from datastorage.pipeline.kindbykind import KindByKind
from datastorage.pipeline.lookup import Archive as Rows
from datastorage.pipeline.lookup import look_up
from datastorage.pipeline.reading import announcement_of
from datastorage.records.writes import WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import KINDS, Phase, ResourceKind
from datastorage.resources.reading.record import key_of
from datastorage.resources.reading.registry import table_of

_PAGE_SIZE: Final = 500
# Where a vector may be owed.
_OWING: Final = (Phase.DEGRADED, Phase.RECORDING)


class Archive(Rows, Protocol):
    """Where rows and what they owe are looked up (storage/write.py)."""

    async def time(self) -> float: ...


class Cluster(Protocol):
    """The request that is needed here (kube/objects.py)."""

    def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]: ...


@dataclass(frozen=True, slots=True)
class Lifted:
    """What a look at the objects came to."""

    announced: int = 0
    """Status writes that were queued."""
    complete: bool = True
    """False where the cluster could not be listed, a row not looked up, or something was under way."""

    def __add__(self, other: "Lifted") -> "Lifted":
        return Lifted(self.announced + other.announced, self.complete and other.complete)


class Lift:
    """Looks through the cluster for what can be lifted."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        archive: Archive,
        breaker: Breaker,
        intake: Intake,
        announce: Callable[[Announcement], Awaitable[None]],
        default_ttl_seconds: int,
    ) -> None:
        """``breaker`` is that of PostgreSQL; ``announce`` queues a status write (statuswriter.py)."""
        self._cluster = cluster
        self._archive = archive
        self._breaker = breaker
        self._intake = intake
        self._announce = announce
        self._default_ttl_seconds = default_ttl_seconds
        self._kind_by_kind = KindByKind("Listing the objects whose vectors were owed")

    async def __call__(self) -> Lifted:
        """Queue the status of everything that is paid."""
        lifted = Lifted()

        async def lift_kind(kind: ResourceKind) -> None:
            nonlocal lifted
            for phase in _OWING:
                async for page in self._cluster.pages(
                    kind, field_selector=f"status.phase={phase}", page_size=_PAGE_SIZE
                ):
                    lifted += await self._lift(kind, [body for body in page if _owes(body)])

        failed = await self._kind_by_kind.run(KINDS, lift_kind)
        return replace(lifted, complete=False) if failed else lifted

    async def _lift(self, kind: ResourceKind, bodies: Sequence[Mapping[str, Any]]) -> Lifted:
        if not bodies:
            return Lifted()
        announced = 0
        keys = [key_of(kind, body) for body in bodies]
        answer = await look_up(self._archive, self._breaker, table_of(kind), keys)
        skipped = bool(answer.unanswered)
        # Beside stored_at in the status, which is PostgreSQL's time too.
        now = datetime.fromtimestamp(await self._breaker.run(self._archive.time), UTC)
        for body, key in zip(bodies, keys, strict=True):
            stored = answer.found.get(key)
            if stored is None or stored.vector.state is WriteState.PENDING:
                continue
            # Not twice at once: the second would only find that the first has changed the object.
            if not self._intake.begin(key):
                skipped = True
                continue
            outcome = replace(stored, vector=replace(stored.vector, at=now))
            await self._announce(
                announcement_of(kind, body, outcome, default_ttl_seconds=self._default_ttl_seconds)
            )
            announced += 1
        return Lifted(announced, complete=not skipped)


def _owes(body: Mapping[str, Any]) -> bool:
    status = body["status"]
    vector = status.get("writes", {}).get("vector", {})
    if status.get("observedGeneration") != body["metadata"]["generation"]:
        return False  # nobody has stored what it is now
    return bool(vector.get("state") == WriteState.PENDING)
