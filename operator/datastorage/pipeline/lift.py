"""Lifts objects whose vectors have been paid: from Degraded to Stored, and their writes from Pending.

The cluster itself says which objects those may be, and the archive what they still owe. So nothing is
forgotten where the payment was another replica's, or a crash came between payment and status.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

from datastorage.breaker import Breaker
from datastorage.errors import ObjectGoneError, RequestRefusedError, TransientError
from datastorage.pipeline.extract import announcement_of, key_of, table_of
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.workitem import Announcement
from datastorage.resources import KINDS, Phase, ResourceKind, WriteState
from datastorage.storage.records import RecordKey, StoredRecord, Table, VectorState

_log = logging.getLogger(__name__)

_PAGE_SIZE: Final = 500
# Where a vector may be owed.
_OWING: Final = (Phase.DEGRADED, Phase.RECORDING)


class Archive(Protocol):
    """Where rows and what they owe are looked up (storage/archive.py)."""

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]: ...


class Cluster(Protocol):
    """The request that is needed here (kube/client.py)."""

    def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]: ...


@dataclass(frozen=True, slots=True)
class Lifted:
    """What a look at the objects came to."""

    announced: int = 0
    """Status writes that were queued."""
    complete: bool = True
    """False where the cluster could not be listed, or something was under way already."""

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

    async def __call__(self) -> Lifted:
        """Queue the status of everything that is paid."""
        lifted = Lifted()
        try:
            for kind in KINDS:
                for phase in _OWING:
                    async for page in self._cluster.pages(
                        kind, field_selector=f"status.phase={phase}", page_size=_PAGE_SIZE
                    ):
                        lifted += await self._lift(kind, [body for body in page if _owes(body)])
        except (TransientError, ObjectGoneError, RequestRefusedError) as error:
            _log.warning(
                "Listing the objects whose vectors were owed failed; it will be repeated",
                extra={"error": str(error)},
            )
            return replace(lifted, complete=False)
        return lifted

    async def _lift(self, kind: ResourceKind, bodies: Sequence[Mapping[str, Any]]) -> Lifted:
        if not bodies:
            return Lifted()
        announced, skipped = 0, False
        keys = [key_of(kind, body) for body in bodies]
        found = await self._breaker.run(partial(self._archive.find, table_of(kind), keys))
        now = datetime.now(UTC)
        for body, key in zip(bodies, keys, strict=True):
            stored = found.get(key)
            if stored is None or stored.vector.state is VectorState.PENDING:
                continue
            # Not twice at once: the second would only find that the first has changed the object.
            if not self._intake.begin(key):
                skipped = True
                continue
            outcome = replace(stored, vector_at=now)
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
