"""The store: the components that keep records and vectors, enough for every command that reads the archive.

It is separate from the operator's other components, which load Kopf and the cluster's client.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from datastorage.assembly.databases import open_database
from datastorage.embedding import Embedder, Provider, VectorCache, build_cache, build_provider
from datastorage.embedding.provider import probe
from datastorage.metrics import Dependency
from datastorage.resilience.breaker import Breaker
from datastorage.secrets import origin_of
from datastorage.settings import Settings
from datastorage.storage.connection.database import Database
from datastorage.storage.outbox import Outbox
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.schema import ARCHIVE, VECTORS
from datastorage.storage.trial import Trial
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive, VectorTarget


@dataclass(frozen=True)
class Store:
    """Everything that keeps records."""

    database: Database
    archive: Archive
    outbox: Outbox
    rejected: RejectedRecords
    trial: Trial
    vectors: "VectorStore | None"


@dataclass(frozen=True)
class VectorStore:
    """Everything that makes and keeps vectors; absent with the provider ``none``."""

    database: Database
    same_server: bool
    tables: VectorTables
    cache: VectorCache
    embedder: Embedder
    embedder_breaker: Breaker
    breaker: Breaker


@asynccontextmanager
async def open_store(
    settings: Settings, *, writable: bool, with_vectors: bool = True, with_redis: bool = True
) -> AsyncIterator[Store]:
    """Build the store; close it in the end. Nothing connects before it is used.

    With ``writable`` a server that lets nobody write, such as a standby, counts as away. Without
    ``with_vectors`` and ``with_redis`` the settings of the embedder and of Redis are not read.

    Raises ConfigurationError for a wrong setting.
    """
    settings.require_database_url()
    async with AsyncExitStack() as stack:
        database = open_database(settings, "database_url", ARCHIVE, stack, writable=writable)
        vectors = None
        if with_vectors:
            vectors = await _open_vectors(settings, database, stack, writable=writable, with_redis=with_redis)
        yield Store(
            database=database,
            archive=_build_archive(database, vectors),
            outbox=Outbox(database),
            rejected=RejectedRecords(database),
            trial=Trial(database),
            vectors=vectors,
        )


def _build_archive(database: Database, vectors: VectorStore | None) -> Archive:
    if vectors is None:
        return Archive(database)
    target = VectorTarget(vectors.tables, vectors.breaker, vectors.same_server)
    return Archive(database, model=vectors.embedder.model, target=target)


async def _open_vectors(
    settings: Settings, records: Database, stack: AsyncExitStack, *, writable: bool, with_redis: bool
) -> VectorStore | None:
    provider = await asyncio.to_thread(  # a model may take seconds to load
        build_provider,
        settings.embedding,
        url=origin_of(settings, "embedding_url"),
        key=origin_of(settings, "embedding_api_key"),
    )
    if provider is None:
        return None
    same_server = settings.vector.database_url is None
    database = records
    if not same_server:
        database = open_database(settings, "vector_database_url", VECTORS, stack, writable=writable)
    redis = None
    if with_redis and settings.redis_url is not None:
        redis = origin_of(settings, "redis_url")
    cache = build_cache(provider.model, redis, ttl_seconds=settings.embedding.cache_ttl_seconds)
    # Both probes show as much as an operation does, so an outage ends although no record comes.
    makes_vectors = partial(probe, provider)
    embedder_breaker = Breaker(Dependency.EMBEDDER, makes_vectors, trial=makes_vectors)
    embedder = Embedder(
        provider,
        cache,
        embedder_breaker,
        in_background=_is_in_background(provider, settings.embedding.background),
    )
    stack.push_async_callback(embedder.close)
    stack.push_async_callback(embedder_breaker.close)  # closed first: its probe may be using the provider
    tables = VectorTables(database, provider.model)
    breaker = Breaker(Dependency.VECTOR_STORE, tables.probe, trial=tables.probe)
    stack.push_async_callback(breaker.close)
    return VectorStore(
        database=database,
        same_server=same_server,
        tables=tables,
        cache=cache,
        embedder=embedder,
        embedder_breaker=embedder_breaker,
        breaker=breaker,
    )


def _is_in_background(provider: Provider, setting: Literal["auto", "on", "off"]) -> bool:
    return provider.is_slow if setting == "auto" else setting == "on"
