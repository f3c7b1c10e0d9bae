"""Builds the queries of an archive with its vectors, from its store.

It is separate from the other queries, which need no vectors: the libraries for these take time to load.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datastorage.assembly.opened import OpenedArchive
from datastorage.assembly.queries import build_queries, opened_archive
from datastorage.assembly.store import Store, open_store
from datastorage.embedding import Embedder
from datastorage.query.meaning import NearestInMeaning
from datastorage.query.questions import ArchiveQueries
from datastorage.settings import Settings
from datastorage.storage.connection.database import Database
from datastorage.storage.nearest import Nearest
from datastorage.storage.synonyms import SynonymGroups
from datastorage.thesaurus.loading import load_groups


@asynccontextmanager
async def open_search(settings: Settings) -> AsyncIterator[OpenedArchive]:
    """Open the archive for the search of one command.

    Redis is not used: it would save the vector of one question at most. Raises ConfigurationError for a wrong
    setting, SchemaVersionError for a schema of another version.
    """
    async with open_store(settings, writable=False, with_redis=False) as store:
        await store.database.check_schema_version()
        synonyms = load_groups(settings.thesaurus)
        yield opened_archive(store.database, queries_of(store, synonyms=synonyms))


def queries_of(
    store: Store, database: Database | None = None, *, synonyms: SynonymGroups = ()
) -> ArchiveQueries:
    """Return the queries of the archive that a store keeps; ``database`` may be another way to it."""
    database, vectors = database or store.database, store.vectors
    if vectors is None:
        return build_queries(database, synonyms=synonyms)
    apart = None if vectors.same_server else vectors.database
    return build_queries(database, by_meaning(database, vectors.embedder, apart), synonyms=synonyms)


def by_meaning(database: Database, embedder: Embedder, vectors: Database | None = None) -> NearestInMeaning:
    """Return the search by meaning. ``vectors`` is the database of the vectors if it is on another server."""
    nearest = Nearest(
        database,
        vectors if vectors is not None else database,
        model=embedder.model,
        same_server=vectors is None,
    )
    return NearestInMeaning(embedder, nearest)
