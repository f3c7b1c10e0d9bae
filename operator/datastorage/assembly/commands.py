"""The components that single commands need: each function opens just these, after checking the schema.

All of them raise ConfigurationError for a wrong setting, SchemaVersionError for a schema of another version.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from datastorage.assembly.databases import open_database
from datastorage.assembly.store import Store, VectorStore, open_store
from datastorage.errors import ConfigurationError
from datastorage.metrics import Dependency
from datastorage.pipeline.reindex import Reindex
from datastorage.pipeline.rejectedretry import Retry
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.settings import Settings
from datastorage.storage.outbox import Outbox
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.schema import ARCHIVE
from datastorage.storage.searchwords import SearchWords
from datastorage.storage.texts import Texts
from datastorage.storage.trial import Trial
from datastorage.storage.write import TextVectors
from datastorage.variables import PREFIX
from datastorage.vectors.backfill import Dependencies
from datastorage.vectors.reembed import Reembed


@asynccontextmanager
async def open_outbox(settings: Settings, *, writable: bool) -> AsyncIterator[Outbox]:
    """Open the pending vectors. The embedder need not be set up."""
    async with _open_records(settings, writable=writable) as store:
        yield store.outbox


@asynccontextmanager
async def open_rejected(settings: Settings) -> AsyncIterator[RejectedRecords]:
    """Open the rejected records, for reading. The embedder need not be set up."""
    async with _open_records(settings, writable=False) as store:
        yield store.rejected


@dataclass(frozen=True)
class OpenedRetry:
    """The work of trying rejected records again, and the stores that it uses."""

    work: Retry
    rejected: RejectedRecords
    trial: Trial
    """Shows whether PostgreSQL stores even a harmless record."""


@asynccontextmanager
async def open_retry(settings: Settings) -> AsyncIterator[OpenedRetry]:
    """Open the work of trying rejected records again. The operator makes the vectors later."""
    with_texts = settings.embedding.provider != "none"
    async with _open_records(settings, writable=True) as store:
        write = partial(_store_pending, store) if with_texts else store.archive.write
        work = Retry(rejected=store.rejected, store=write, with_texts=with_texts)
        yield OpenedRetry(work, store.rejected, store.trial)


@dataclass(frozen=True)
class OpenedReembed:
    """The work of making all vectors with the chosen model, and the stores that it uses."""

    work: Reembed
    texts: Texts
    vectors: VectorStore


@asynccontextmanager
async def open_reembed(settings: Settings, *, writable: bool) -> AsyncIterator[OpenedReembed]:
    """Open the work of making all vectors with the model of the settings.

    Raises ConfigurationError also where the settings name no model.
    """
    # Each text comes once: in Redis, they would only displace the entries that the operator needs.
    async with open_store(settings, writable=writable, with_redis=False) as store:
        vectors = store.vectors
        if vectors is None:
            raise ConfigurationError(
                f"{PREFIX}EMBEDDING_PROVIDER is none: name the model to make vectors with"
            )
        await store.database.check_schema_version()
        texts = Texts(store.database)
        postgres = Breaker(Dependency.POSTGRES, texts.probe)
        work = Reembed(
            texts=texts,
            vectors=vectors.tables,
            embedder=vectors.embedder,
            dependencies=Dependencies(postgres, vectors.embedder_breaker, vectors.breaker),
            index_memory_mib=settings.vector.index_memory_mib,
        )
        try:
            yield OpenedReembed(work, texts, vectors)
        finally:
            await postgres.close()


@dataclass(frozen=True)
class OpenedReindex:
    """The work of giving stored records all of their words, and the store that it uses."""

    work: Reindex
    words: SearchWords


@asynccontextmanager
async def open_reindex(settings: Settings, *, writable: bool) -> AsyncIterator[OpenedReindex]:
    """Open the work of giving stored records all of their words, as the role that owns the schema."""
    settings.require_owner_url()
    setting = "database_url" if settings.database.owner_url is None else "database_owner_url"
    chain = replace(ARCHIVE, setting=f"{PREFIX}{setting.upper()}")
    async with AsyncExitStack() as stack:
        database = open_database(settings, setting, chain, stack, writable=writable)
        await database.check_schema_version()
        words = SearchWords(database)
        postgres = Breaker(Dependency.POSTGRES, words.probe)
        stack.push_async_callback(postgres.close)
        yield OpenedReindex(Reindex(words, postgres), words)


@asynccontextmanager
async def _open_records(settings: Settings, *, writable: bool) -> AsyncIterator[Store]:
    async with open_store(settings, writable=writable, with_vectors=False) as store:
        await store.database.check_schema_version()
        yield store


async def _store_pending(store: Store, records: Sequence[Record]) -> list[StoredRecord]:
    """Store records in one transaction, with all their vectors pending."""
    write = VectorWrite(WriteState.PENDING, Reason.IN_OUTBOX)
    return await store.archive.write(records, TextVectors.all_missing(records, write))
