"""Two shards in one process: each looks after its own objects, and one goes on when the other is stopped."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from datastorage.assembly.replica import Replica, open_replica
from datastorage.assembly.shard import Shard, open_shard
from datastorage.metrics import REGISTRY
from datastorage.resilience.cancellation import end_tasks
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.selection import Selection
from datastorage.runtime.runningshard import RunningShard
from datastorage.settings import Settings
from datastorage.settingsgroups import EmbeddingSettings
from e2e.workbench import Workbench
from harness.bulk import BulkClient
from harness.embeddings import OpenAIService
from harness.manifests import audit_record
from harness.polling import until

# So many that each shard has some, but for one run in millions: a uid decides which shard has it.
_RECORDS = 50
_FLUSH_SECONDS = 30.0

Objects = list[dict[str, Any]]


@asynccontextmanager
async def _opened(replica: Replica, shard: int, shards: int) -> AsyncIterator[Shard]:
    selection = Selection(replica.settings.namespaces, shard, shards)
    async with open_shard(replica, selection, on_watch_started=lambda: None) as opened:
        yield opened


async def _create(client: BulkClient, namespace: str, prefix: str) -> Objects:
    return [
        await client.create(AUDIT_RECORD, namespace, audit_record(f"{prefix}-{number}"))
        for number in range(_RECORDS)
    ]


def _of(shard: Shard, objects: Sequence[dict[str, Any]]) -> set[str]:
    return {body["metadata"]["name"] for body in objects if shard.selection.has(body)}


async def _in_phase(client: BulkClient, namespace: str, phase: str) -> set[str]:
    found = await client.list(AUDIT_RECORD, namespace, field_selector=f"status.phase={phase}")
    return {body["metadata"]["name"] for body in found}


async def _stored(client: BulkClient, namespace: str) -> set[str]:
    return await _in_phase(client, namespace, "Stored")


async def _until_stored(client: BulkClient, namespace: str, names: set[str]) -> None:
    async def all_are() -> bool:
        return names <= await _stored(client, namespace)

    await until(all_are, what="the shard's objects are stored")


async def _until_swept(shard: Shard) -> None:
    before = shard.sweep.last_success

    async def swept() -> bool:
        return shard.sweep.last_success != before

    await until(swept, what="the shard has looked at every object")


def _scheduled() -> float:
    return REGISTRY.get_sample_value("datastorage_gc_scheduled") or 0.0


async def _until_scheduled(count: float) -> None:
    # A schedule is a moment behind the status that the cluster shows.
    async def are() -> bool:
        return _scheduled() == count

    await until(are, what=f"{count} objects are scheduled")


async def test_each_shard_archives_its_own_objects_and_outlives_the_other(
    workbench: Workbench, client: BulkClient, settings: Settings
) -> None:
    namespace, others = workbench.namespace, _scheduled()  # of earlier tests in this process
    # Not the first of the shards: that one also looks after the others' objects.
    async with open_replica(settings) as replica, _opened(replica, 2, 3) as second:
        async with _opened(replica, 1, 3) as first:
            before = await _create(client, namespace, "before")
            assert _of(first, before)
            assert _of(second, before)
            running = RunningShard(first)
            try:
                await _until_stored(client, namespace, _of(first, before))
                watched = await _create(client, namespace, "watched")
                await _until_stored(client, namespace, _of(first, watched))
                await _until_swept(first)
                assert await _stored(client, namespace) == _of(first, [*before, *watched])
                await _until_scheduled(others + len(_of(first, [*before, *watched])))

                other = RunningShard(second)
                await _until_stored(client, namespace, _of(second, [*before, *watched]))
                both = [*before, *watched]
                await _until_scheduled(others + len(_of(first, both)) + len(_of(second, both)))
                await running.flush(_FLUSH_SECONDS)
            finally:
                await end_tasks(running.tasks)
        try:
            await _until_scheduled(others + len(_of(second, [*before, *watched])))
            after = await _create(client, namespace, "after")
            await _until_stored(client, namespace, _of(second, after))
            await _until_swept(second)
            assert await _stored(client, namespace) & _of(first, after) == set()
            assert all(not task.done() for task in other.tasks)
            await other.flush(_FLUSH_SECONDS)
        finally:
            await end_tasks(other.tasks)


async def test_vectors_that_are_written_later_promote_the_objects_of_every_shard(
    workbench: Workbench, client: BulkClient, settings: Settings
) -> None:
    """The process has one outbox to drain, whichever shard a pending vector comes from."""
    namespace = workbench.namespace
    service = OpenAIService(8)
    service.is_away = True
    await service.start()
    embedding = EmbeddingSettings(provider="openai", url=service.url, model="tiny", dimensions=8)
    # The interval is so long that only a request can cause a look in time.
    settings = settings.model_copy(update={"embedding": embedding, "sweep_interval_seconds": 3600})
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with (
            open_replica(settings) as replica,
            _opened(replica, 0, 2) as first,
            _opened(replica, 1, 2) as second,
        ):
            assert replica.backfill is not None
            running = [RunningShard(first), RunningShard(second)]
            tasks = [
                asyncio.create_task(replica.backfill.run()),
                *(task for shard in running for task in shard.tasks),
            ]
            created = await _create(client, namespace, "record")
            assert _of(first, created)
            assert _of(second, created)

            async def all_are_degraded() -> bool:
                return len(await _in_phase(client, namespace, "Degraded")) == _RECORDS

            await until(all_are_degraded, what="all wait for their vectors")
            service.is_away = False
            await _until_stored(client, namespace, _of(first, created) | _of(second, created))
            await end_tasks(tasks)
    finally:
        await end_tasks(tasks)
        await service.stop()
