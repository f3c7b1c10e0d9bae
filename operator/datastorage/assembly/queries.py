"""Builds the queries of an archive, from its store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datastorage.assembly.opened import OpenedArchive
from datastorage.assembly.store import Store, open_store
from datastorage.embedding import Embedder
from datastorage.query.export import ArchiveExports
from datastorage.query.questions import ArchiveQueries
from datastorage.query.search import Searcher
from datastorage.settings import Settings
from datastorage.storage.connection.database import Database
from datastorage.storage.export import ExportReader
from datastorage.storage.fulltext import FullText
from datastorage.storage.nearest import Nearest
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.summaries import Summaries


@asynccontextmanager
async def open_queries(settings: Settings) -> AsyncIterator[OpenedArchive]:
    """Open the archive for the questions of one command.

    Redis is not used: it would save the vector of one question at most. Raises ConfigurationError for a wrong
    setting, SchemaVersionError for a schema of another version.
    """
    async with open_store(settings, writable=False, with_redis=False) as store:
        await store.database.check_schema_version()
        exports = ArchiveExports(ExportReader(store.database))
        yield OpenedArchive(queries_of(store), exports, store.archive.time)


def build_queries(
    database: Database, embedder: Embedder | None = None, vectors: Database | None = None
) -> ArchiveQueries:
    """Return the queries of the archive in ``database``. Nothing connects before the first query.

    Without ``embedder`` there is no search by meaning. ``vectors`` is the database of the vectors, if that is
    on another server.
    """
    reader, full_text, summaries = ArchiveReader(database), FullText(database), Summaries(database)
    if embedder is None:
        return ArchiveQueries(reader, Searcher(reader, full_text, None, None), summaries)
    nearest = Nearest(
        database,
        vectors if vectors is not None else database,
        model=embedder.model,
        same_server=vectors is None,
    )
    return ArchiveQueries(reader, Searcher(reader, full_text, embedder, nearest), summaries)


def queries_of(store: Store, database: Database | None = None) -> ArchiveQueries:
    """Return the queries of the archive that a store keeps; ``database`` may be another way to it."""
    database, vectors = database or store.database, store.vectors
    if vectors is None:
        return build_queries(database)
    return build_queries(database, vectors.embedder, None if vectors.same_server else vectors.database)
