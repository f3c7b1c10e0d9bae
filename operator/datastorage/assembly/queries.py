"""Builds the queries of an archive, from its database."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from datastorage.assembly.databases import open_database
from datastorage.assembly.opened import OpenedArchive
from datastorage.query.export import ArchiveExports
from datastorage.query.questions import ArchiveQueries
from datastorage.query.search import Meaning, Searcher
from datastorage.settings import Settings
from datastorage.storage.clock import time_in
from datastorage.storage.connection.database import Database
from datastorage.storage.export import ExportReader
from datastorage.storage.fulltext import FullText
from datastorage.storage.hits import HitReader
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.schema import ARCHIVE
from datastorage.storage.summaries import Summaries
from datastorage.storage.synonyms import SynonymGroups
from datastorage.thesaurus.loading import load_groups


@asynccontextmanager
async def open_queries(settings: Settings, *, searching: bool = False) -> AsyncIterator[OpenedArchive]:
    """Open the archive for the questions of one command, except searches by meaning.

    The settings of vectors are not read, and the thesaurus only for ``searching``. Raises ConfigurationError
    for a wrong setting, SchemaVersionError for a schema of another version.
    """
    settings.require_database_url("to ask an operator that runs, give its address with --server")
    async with AsyncExitStack() as stack:
        database = open_database(settings, "database_url", ARCHIVE, stack, writable=False)
        await database.check_schema_version()
        synonyms = load_groups(settings.thesaurus) if searching else ()
        yield opened_archive(database, build_queries(database, synonyms=synonyms))


def opened_archive(database: Database, queries: ArchiveQueries) -> OpenedArchive:
    """Return the archive in a database, open for the questions of a command."""
    exports = ArchiveExports(ExportReader(database))
    return OpenedArchive(queries, exports, partial(time_in, database))


def build_queries(
    database: Database, meaning: Meaning | None = None, *, synonyms: SynonymGroups = ()
) -> ArchiveQueries:
    """Return the queries of the archive in ``database``. Nothing connects before the first query.

    Without ``meaning`` there is no search by meaning; without ``synonyms`` a search by words knows none.
    """
    searcher = Searcher(HitReader(database), FullText(database, synonyms=synonyms), meaning)
    return ArchiveQueries(ArchiveReader(database), searcher, Summaries(database))
