"""Asking the archive: search, pages, single records, remediations.

What belongs here: what a question may be, what an answer is, and how an answer is found. What does not: SQL
(storage), options and formats of one interface.
"""

from datastorage.query.filters import MAX_LIMIT, Filter
from datastorage.query.questions import ArchiveQueries, Page
from datastorage.query.records import ArchivedRecord
from datastorage.query.search import SearchHit, SearchMode, SearchResult
from datastorage.query.timeline import Timeline, TimelineEntry

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
]
