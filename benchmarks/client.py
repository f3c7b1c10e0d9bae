"""A bare client of the API server: the operator's requests, counted, with the least work for each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmarks.progress import Progress
from datastorage.records.reasons import Reason
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.status import stored_status
from harness.bulk import LIST_METADATA_ONLY, BulkClient, path

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Created:
    """An object in the cluster, at the version that its last write returned."""

    name: str
    uid: str
    version: str


class Client:
    """Requests AuditRecords. Every method raises RequestError when the API server refuses."""

    def __init__(self, client: BulkClient) -> None:
        self._client = client
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """How many requests were made, by (resource, subresource, verb as the API server counts it)."""

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        """Open a client; it is closed with the context."""
        async with BulkClient.connect(kubeconfig) as client:
            yield cls(client)

    async def create(self, namespace: str, body: dict[str, Any]) -> Created:
        """Create an object."""
        self._count("POST")
        answer = await self._client.create(AUDIT_RECORD, namespace, body, metadata_only=True)
        metadata = answer["metadata"]
        return Created(metadata["name"], metadata["uid"], metadata["resourceVersion"])

    async def write_stored(self, namespace: str, target: Created) -> Created:
        """Patch the status to Stored, with the bytes that the operator would send; return the new version."""
        at = datetime(2026, 1, 1, tzinfo=UTC)
        vector = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="wordllama/l2_supercat_256")
        status = stored_status(
            uid=target.uid, generation=1, stored_at=at, content_hash=bytes(32), expires_at=at,
            vector=vector,
        )  # fmt: skip
        self._count("PATCH", "status")
        body = {"metadata": {"uid": target.uid}, "status": status}
        answer = await self._client.patch_status(AUDIT_RECORD, namespace, target.name, body)
        return Created(target.name, target.uid, answer["metadata"]["resourceVersion"])

    async def delete(self, namespace: str, target: Created) -> None:
        """Delete the object, with the preconditions that the operator would send."""
        self._count("DELETE")
        preconditions = {"uid": target.uid, "resourceVersion": target.version}
        await self._client.delete(AUDIT_RECORD, namespace, target.name, preconditions=preconditions)

    async def count(self, namespace: str, *, phase: str | None = None) -> int:
        """Return how many objects are there, by a list of one; those in one phase by a list of all."""
        self._count("LIST")
        # With a selector the server does not say how many remain.
        query = "limit=1" if phase is None else f"fieldSelector=status.phase%3D{phase}"
        url = f"{path(AUDIT_RECORD, namespace)}?{query}"
        answer = await self._client.request("GET", url, accept=LIST_METADATA_ONLY)
        return len(answer["items"] or ()) + int(answer["metadata"].get("remainingItemCount", 0))

    async def watch(self, namespace: str, opened: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects that change from now on, as any client gets them; set ``opened`` before."""
        self._count("LIST")
        self._count("WATCH")
        async for _, body in self._client.watch(AUDIT_RECORD, namespace, opened=opened):
            yield body

    def _count(self, verb: str, subresource: str = "") -> None:
        self.requests[AUDIT_RECORD.plural, subresource, verb] += 1


async def for_each(
    items: Iterable[T],
    action: Callable[[T], Awaitable[R]],
    *,
    concurrency: int,
    progress: Progress | None = None,
) -> list[R]:
    """Apply the action to all items, at most ``concurrency`` at a time; return the results, in no order."""
    waiting = iter(items)
    results: list[R] = []

    async def work() -> None:
        for item in waiting:
            results.append(await action(item))
            if progress is not None:
                progress.update(len(results))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return results
