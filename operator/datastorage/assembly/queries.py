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
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.schema import ARCHIVE
from datastorage.storage.summaries import Summaries


@asynccontextmanager
async def open_queries(settings: Settings) -> AsyncIterator[OpenedArchive]:
    """Open the archive for the questions of one command, except searches by meaning.

    The settings of vectors are not read. Raises ConfigurationError for a wrong setting, SchemaVersionError
    for a schema of another version.
    """
    settings.require_database_url()
    async with AsyncExitStack() as stack:
        database = open_database(settings, "database_url", ARCHIVE, stack, writable=False)
        await database.check_schema_version()
        yield opened_archive(database, build_queries(database))


def opened_archive(database: Database, queries: ArchiveQueries) -> OpenedArchive:
    """Return the archive in a database, open for the questions of a command."""
    exports = ArchiveExports(ExportReader(database))
    return OpenedArchive(queries, exports, partial(time_in, database))


def build_queries(database: Database, meaning: Meaning | None = None) -> ArchiveQueries:
    """Return the queries of the archive in ``database``. Nothing connects before the first query.

    Without ``meaning`` there is no search by meaning.
    """
    reader = ArchiveReader(database)
    return ArchiveQueries(reader, Searcher(reader, FullText(database), meaning), Summaries(database))
