"""The intake of the cluster's objects, with all components before the commit."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datastorage.metrics import Verdict
from datastorage.pipeline.createdobjects import CreatedObjects
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import WorkItem
from datastorage.pipeline.objectintake import ObjectIntake
from datastorage.pipeline.register import Register
from datastorage.pipeline.statusqueue import StatusQueue
from harness.objects import TTL_SECONDS, kind_of
from harness.polling import DEADLINE_SECONDS


@dataclass
class Entrance:
    """The intake as the operator builds it, with room for a thousand records."""

    max_items: int = 1000
    max_bytes: int = 2**24
    register: Register = field(default_factory=Register)
    statuses: StatusQueue = field(default_factory=StatusQueue)
    created: CreatedObjects = field(default_factory=lambda: CreatedObjects(1))
    overflows: int = 0
    """How often the intake had no room."""

    def __post_init__(self) -> None:
        self.intake = Intake(max_items=self.max_items, max_bytes=self.max_bytes)
        self.objects = ObjectIntake(
            intake=self.intake,
            register=self.register,
            statuses=self.statuses,
            default_ttl_seconds=TTL_SECONDS,
            on_overflow=self._count,
            created=self.created,
        )

    def _count(self) -> None:
        self.overflows += 1

    def offer(self, body: Mapping[str, Any]) -> Verdict:
        """Offer an object as the watch does."""
        return self.objects.offer(kind_of(body), body)

    def offer_last_copy(self, body: Mapping[str, Any]) -> Verdict:
        """Offer an object as the watch does when it was deleted."""
        return self.objects.offer_last_copy(kind_of(body), body)

    async def put(self, body: Mapping[str, Any], *, read_at: float = 0.0, force: bool = False) -> Verdict:
        """Put an object in as the sweep does."""
        return await self.objects.put(kind_of(body), body, read_at=read_at, force=force)

    async def take(self, items: int = 1000, size: int = 2**30) -> list[WorkItem]:
        """Take a batch out as the committer does. Raises TimeoutError where nothing comes."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.intake.take(max_items=items, max_bytes=size, linger_seconds=0)

    async def take_names(self, items: int = 1000, size: int = 2**30) -> list[str]:
        """Take a batch out; return the names of its objects."""
        return [item.record.name for item in await self.take(items, size)]
