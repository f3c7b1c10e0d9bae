"""Asking the archive: search, pages, single records, remediations.

What belongs here: what a question may be, what an answer is, and how an answer is found. What does not: SQL
(storage), options and formats of one interface.
"""

from typing import Protocol

from datastorage.embedding import Embedder
from datastorage.query.filters import MAX_LIMIT, Filter
from datastorage.query.questions import ArchiveQueries, Page
from datastorage.query.records import ArchivedRecord
from datastorage.query.search import Searcher, SearchHit, SearchMode, SearchResult
from datastorage.query.timeline import Timeline, TimelineEntry
from datastorage.storage.database import Database
from datastorage.storage.fulltext import FullText
from datastorage.storage.nearest import Nearest
from datastorage.storage.pages import ArchiveReader

__all__ = [
    "MAX_LIMIT",
    "ArchiveQueries",
    "ArchivedRecord",
    "Filter",
    "Page",
    "SearchHit",
    "SearchMode",
    "SearchResult",
    "Timeline",
    "TimelineEntry",
    "queries",
]


class _Vectors(Protocol):
    @property
    def database(self) -> Database: ...
    @property
    def same_server(self) -> bool: ...
    @property
    def embedder(self) -> Embedder: ...


class _Store(Protocol):
    @property
    def database(self) -> Database: ...
    @property
    def vectors(self) -> _Vectors | None: ...


def queries(store: _Store) -> ArchiveQueries:
    """Return what asks the archive that a store keeps. Nothing connects before it is used."""
    reader, full_text = ArchiveReader(store.database), FullText(store.database)
    vectors = store.vectors
    if vectors is None:
        return ArchiveQueries(reader, Searcher(reader, full_text, None, None))
    nearest = Nearest(
        store.database, vectors.database, model=vectors.embedder.model, same_server=vectors.same_server
    )
    return ArchiveQueries(reader, Searcher(reader, full_text, vectors.embedder, nearest))
