"""What keeps records, and how it is wired: enough for every command that asks the archive.

Apart from the operator's other parts, which load Kopf and the cluster's client.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from datastorage.embedding import Embedder, VectorCache, build_cache, build_provider
from datastorage.embedding.provider import probe
from datastorage.resilience.breaker import Breaker
from datastorage.secrets import origin_of
from datastorage.settings import Settings
from datastorage.storage.database import Database
from datastorage.storage.outbox import Outbox
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.schema import VECTORS
from datastorage.storage.trial import Trial
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive, VectorTarget


@dataclass(frozen=True)
class Store:
    """What keeps records."""

    database: Database
    archive: Archive
    outbox: Outbox
    rejected: RejectedRecords
    trial: Trial
    vectors: "VectorStore | None"


@dataclass(frozen=True)
class VectorStore:
    """What makes and keeps vectors; not there with the provider ``none``."""

    database: Database
    same_server: bool
    tables: VectorTables
    cache: VectorCache
    embedder: Embedder
    embedder_breaker: Breaker
    breaker: Breaker


@asynccontextmanager
async def build_store(settings: Settings, *, writable: bool) -> AsyncIterator[Store]:
    """Build what keeps records; close it in the end. Nothing connects before it is used.

    With ``writable`` a server that lets nobody write, such as a standby, counts as away.

    Raises ConfigurationError for a wrong setting.
    """
    settings.require_database_url()
    async with AsyncExitStack() as stack:
        database = Database(
            origin_of(settings, "database_url"),
            pool_size=settings.database.pool_size,
            writable=writable,
            statement_cache=settings.database.statement_cache,
        )
        stack.push_async_callback(database.close)
        vectors = await _build_vectors(settings, database, stack, writable=writable)
        yield Store(
            database=database,
            archive=_archive(database, vectors),
            outbox=Outbox(database),
            rejected=RejectedRecords(database),
            trial=Trial(database),
            vectors=vectors,
        )


def _archive(database: Database, vectors: VectorStore | None) -> Archive:
    if vectors is None:
        return Archive(database)
    target = VectorTarget(vectors.tables, vectors.breaker, vectors.same_server)
    return Archive(database, model=vectors.embedder.model, target=target)


async def _build_vectors(
    settings: Settings, database: Database, stack: AsyncExitStack, *, writable: bool
) -> VectorStore | None:
    provider = build_provider(
        settings.embedding,
        url=origin_of(settings, "embedding_url"),
        key=origin_of(settings, "embedding_api_key"),
    )
    if provider is None:
        return None
    same_server = settings.vector.database_url is None
    if not same_server:
        database = Database(
            origin_of(settings, "vector_database_url"),
            pool_size=settings.database.pool_size,
            chain=VECTORS,
            writable=writable,
            statement_cache=settings.database.statement_cache,
        )
        stack.push_async_callback(database.close)
    model = provider.model
    redis = origin_of(settings, "redis_url") if settings.redis_url is not None else None
    cache = build_cache(model, redis, ttl_seconds=settings.embedding.cache_ttl_seconds)
    embedder_breaker = Breaker("embedder", partial(probe, provider), on_recovery=_nothing)
    embedder = Embedder(provider, cache, embedder_breaker)
    stack.push_async_callback(embedder.close)
    stack.push_async_callback(embedder_breaker.close)  # before: its probe may be asking the provider
    tables = VectorTables(database, model)
    breaker = Breaker("vector_store", tables.probe, on_recovery=_nothing)
    stack.push_async_callback(breaker.close)
    return VectorStore(database, same_server, tables, cache, embedder, embedder_breaker, breaker)


def _nothing() -> None:
    """Nobody needs to be told: the backfill looks for itself whether it can go on."""
