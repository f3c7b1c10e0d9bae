"""The questions that the command line and other interfaces put to the archive.

Every question is bounded, counted and timed. Nothing here writes.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from datastorage import metrics
from datastorage.errors import (
    AmbiguousUidError,
    InvalidQueryError,
    RecordNotFoundError,
    WorkRefusedError,
)
from datastorage.metrics import Operation, QueryStatus
from datastorage.query.archivedrecord import ArchivedRecord, Page, archived, archived_all
from datastorage.query.archivesummary import (
    DEFAULT_GROUPS,
    ArchiveSummary,
    bounded,
    group_keys,
    summary_of_groups,
)
from datastorage.query.cursor import cursor_of, fingerprint, not_a_cursor, page_end
from datastorage.query.filters import (
    MAX_LIMIT,
    Filter,
    SearchMode,
    check_limit,
    check_value,
    checked_generation,
    checked_uid,
)
from datastorage.query.listedrecord import ListedRecord, ListPage
from datastorage.query.search import Searcher
from datastorage.query.searchresult import SearchResult
from datastorage.query.targethistory import TargetHistory, entry_of
from datastorage.query.timeline import Timeline, TimelineEntry
from datastorage.records.record import RecordKey, Table
from datastorage.storage.criteria import EVERYTHING, Criteria, Scope
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.places import Orders, Place, PlacedRow, Position
from datastorage.storage.summaries import Summaries
from datastorage.tracing import current_exemplar

MAX_HISTORY: Final = 1_000
"""Generations of one object that an answer holds at most."""
_NO_FILTER: Final = Filter()
_SEARCHES: Final = {
    SearchMode.HYBRID: Operation.SEARCH_HYBRID,
    SearchMode.VECTOR: Operation.SEARCH_VECTOR,
    SearchMode.TEXT: Operation.SEARCH_TEXT,
}


class ArchiveQueries:
    """Questions to the archive.

    All methods raise InvalidQueryError for a question that can't be answered as it was put, and
    TransientError when the archive can't be asked now.
    """

    def __init__(self, reader: ArchiveReader, searcher: Searcher, summaries: Summaries) -> None:
        self._reader = reader
        self._searcher = searcher
        self._summaries = summaries

    async def search(
        self,
        question: str,
        filter: Filter = _NO_FILTER,  # noqa: A002  # the word of the interface
        *,
        mode: SearchMode = SearchMode.HYBRID,
        limit: int = 10,
        flat: bool = False,
        scope: Scope = EVERYTHING,
    ) -> SearchResult:
        """Return the records that answer a question best; only the newest generation of an ActionTrace.

        Only a few records with the same text, and of the same incident, are returned, with the number of
        further ones; those of an incident stand together. A ``flat`` answer is in the order of the scores
        instead, whatever the incidents. A search by both meaning and words goes by one of them
        alone if the other can't be used, and says so (``degraded``).
        """
        with _measured(_SEARCHES[mode]):
            check_limit(limit)
            return await self._searcher.search(
                question, filter.criteria().within(scope), mode=mode, limit=limit, flat=flat
            )

    async def list(
        self,
        filter: Filter = _NO_FILTER,  # noqa: A002  # the word of the interface
        *,
        limit: int = 50,
        cursor: str | None = None,
        scope: Scope = EVERYTHING,
    ) -> Page:
        """Return a page of records; only the newest generation of an ActionTrace.

        A page may have fewer records than ``limit`` and yet a next one, when the records are large.
        """
        with _measured(Operation.LIST):
            criteria, after, question = await self._asked("list", filter, scope, limit, cursor)
            rows = await self._reader.page(criteria, after, limit + 1)
            page, next_cursor = await self._page(rows, limit, question)
            return Page(tuple(record for _, record in page), next_cursor)

    async def list_page(
        self,
        filter: Filter = _NO_FILTER,  # noqa: A002  # the word of the interface
        *,
        limit: int = 50,
        cursor: str | None = None,
        with_content: bool = False,
        scope: Scope = EVERYTHING,
    ) -> ListPage:
        """Return the page of ``list`` with the outlines of its records; contents are read if asked for."""
        with _measured(Operation.LIST):
            criteria, after, question = await self._asked("list", filter, scope, limit, cursor)
            outlined = await self._reader.outlined_page(criteria, after, limit + 1)
            if not with_content:
                items = tuple(ListedRecord(outline, None) for _, outline in outlined[:limit])
                more = len(outlined) > limit
                return ListPage(items, _cursor(outlined[limit - 1][0], question) if more else None)
            page, next_cursor = await self._page([row for row, _ in outlined], limit, question)
            records = {row.place: record for row, record in page}
            items = tuple(
                ListedRecord(outline, records[row.place]) for row, outline in outlined if row.place in records
            )
            return ListPage(items, next_cursor)

    async def target_history(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        limit: int = 50,
        cursor: str | None = None,
        scope: Scope = EVERYTHING,
    ) -> TargetHistory:
        """Return what was done to the object that the filter names by its target, the newest first.

        A page may have fewer entries than ``limit`` and yet a next one, when the records are large.
        """
        with _measured(Operation.HISTORY):
            if filter.target_kind is None or filter.target_name is None:
                raise InvalidQueryError("a history needs the kind and the name of the target")
            criteria, after, question = await self._asked("history", filter, scope, limit, cursor)
            rows = await self._reader.page(criteria, after, limit + 1)
            page, next_cursor = await self._page(rows, limit, question)
            return TargetHistory(tuple(entry_of(record) for _, record in page), next_cursor)

    async def summary(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        by: Sequence[str],
        *,
        limit: int = DEFAULT_GROUPS,
        scope: Scope = EVERYTHING,
    ) -> ArchiveSummary:
        """Return the number of records, and what came of them, by one or two of the keys in GroupKey.

        Without ``since`` in the filter, a summary covers the last days alone.
        """
        with _measured(Operation.SUMMARY):
            check_limit(limit)
            keys = group_keys(by)
            chosen = bounded(filter, datetime.now(UTC))
            criteria = chosen.criteria().within(scope)
            try:
                found = await self._summaries.grouped(criteria, keys, limit)
            except WorkRefusedError as error:
                if error.is_limit:
                    raise InvalidQueryError(
                        "the summary takes too long: choose a shorter time, a namespace or other conditions"
                    ) from error
                raise
            return summary_of_groups(keys, chosen, found)

    async def get(
        self,
        uid: str,
        generation: int | None = None,
        kind: str | None = None,
        *,
        scope: Scope = EVERYTHING,
    ) -> ArchivedRecord:
        """Return an object's newest generation, or the given one.

        Only rows within the scope are found. Raises RecordNotFoundError, and AmbiguousUidError.
        """
        with _measured(Operation.GET):
            uid = checked_uid(uid)
            if generation is not None:
                checked_generation(generation)
            which = f" in generation {generation}" if generation is not None else ""
            tables = Filter(kind=kind).criteria().tables
            await self._check_namespaces(tables, uid, generation, scope)
            row = await self._reader.one(tables, uid, generation, scope=scope)
            if row is None:
                raise RecordNotFoundError(f"no {kind or 'record'} {uid}{which} in the archive")
            return archived(row)

    async def of_key(self, key: RecordKey, table: Table) -> ArchivedRecord:
        """Return the record with a key. Raises RecordNotFoundError."""
        return await self._only([Place(table, key)], f"no record {key.uid} in the archive")

    async def get_by_name(
        self, namespace: str, name: str, kind: str | None = None, *, scope: Scope = EVERYTHING
    ) -> ArchivedRecord:
        """Return the newest generation of the newest object with a name. Raises RecordNotFoundError.

        Only rows within the scope are found.
        """
        with _measured(Operation.GET):
            check_value("namespace", namespace)
            check_value("name", name)
            tables = Filter(kind=kind).criteria().tables
            return await self._only(
                await self._reader.newest_of_name(tables, namespace, name, scope=scope),
                f"no record {namespace}/{name} in the archive",
            )

    async def history(
        self, uid: str, kind: str | None = None, *, scope: Scope = EVERYTHING
    ) -> tuple[ArchivedRecord, ...]:
        """Return an object's generations, the newest first, and at most MAX_HISTORY of them.

        Only rows within the scope are found. Raises RecordNotFoundError if there are none, and
        AmbiguousUidError.
        """
        with _measured(Operation.GET):
            uid = checked_uid(uid)
            tables = Filter(kind=kind).criteria().tables
            await self._check_namespaces(tables, uid, None, scope)
            records = await self._load(await self._reader.generations(tables, uid, MAX_HISTORY, scope=scope))
            if not records:
                raise RecordNotFoundError(f"no {kind or 'record'} {uid} in the archive")
            return records

    async def timeline(
        self,
        correlation_id: str,
        *,
        scope: Scope = EVERYTHING,
        limit: int = MAX_LIMIT,
        cursor: str | None = None,
    ) -> Timeline:
        """Return the records of an incident in order of time, with every generation of its traces.

        Only records within the scope are returned.
        A page may have fewer records than ``limit`` and yet a next one, when the records are large.
        """
        with _measured(Operation.TIMELINE):
            check_value("correlation ID", correlation_id)
            check_limit(limit)
            question = fingerprint("timeline", correlation_id, scope)
            after = None
            if cursor is not None:
                end = page_end(cursor, question, times=1, numbers=3)
                after = end.position(_known(await self._reader.orders(end.place, scope=scope)).of_row)
            rows = await self._reader.incident(correlation_id, after, limit + 1, scope=scope)
            page, next_cursor = await self._page(rows, limit, question)
            entries = tuple(TimelineEntry(row.position.times[0], record) for row, record in page)
            return Timeline(entries, next_cursor)

    async def _check_namespaces(
        self, tables: frozenset[Table], uid: str, generation: int | None, scope: Scope
    ) -> None:
        # A sender chooses the uid of its record, and so can repeat one of another namespace. Without this
        # check, the record that was stored last would hide the other one.
        if scope.namespace is not None:
            return
        namespaces = await self._reader.namespaces(tables, uid, generation)
        if len(namespaces) > 1:
            raise AmbiguousUidError(
                f"more than one namespace has a record with the uid {uid}: name the namespace that you mean, "
                f"such as {' or '.join(namespaces)}"
            )

    async def _asked(
        self,
        operation: str,
        filter: Filter,  # noqa: A002  # the word of the interface
        scope: Scope,
        limit: int,
        cursor: str | None,
    ) -> tuple[Criteria, Position | None, str]:
        """Return the criteria of a page, the position before it, and the question's fingerprint."""
        check_limit(limit)
        criteria = filter.criteria().within(scope)
        question = fingerprint(operation, sorted(criteria.tables), criteria.arguments)
        after = None
        if cursor is not None:
            end = page_end(cursor, question, times=2, numbers=2)
            orders = await self._reader.orders(end.place, scope=scope)
            after = end.position(_known(orders).of_object)
        return criteria, after, question

    async def _page(
        self, rows: Sequence[PlacedRow], limit: int, question: str
    ) -> tuple[Sequence[tuple[PlacedRow, ArchivedRecord]], str | None]:
        """Return the first rows with their records, and the cursor of the next page."""
        wanted = rows[:limit]
        stored = await self._reader.load([row.place for row in wanted]) if wanted else []
        records = dict(zip((row.place for row in stored), await archived_all(stored), strict=True))
        # If the contents are large, the last rows are left to the next page.
        page = [(row, records[row.place]) for row in wanted if row.place in records]
        is_last = len(rows) <= limit and len(page) == len(wanted)
        return page, None if is_last or not page else _cursor(page[-1][0], question)

    async def _only(self, places: Sequence[Place], otherwise: str) -> ArchivedRecord:
        records = await self._load(places[:1])
        if not records:
            raise RecordNotFoundError(otherwise)
        return records[0]

    async def _load(self, places: Sequence[Place]) -> tuple[ArchivedRecord, ...]:
        return tuple(await archived_all(await self._reader.load(places)) if places else [])


def _cursor(row: PlacedRow, question: str) -> str:
    return cursor_of(row.place, row.position, question)


def _known(orders: Orders | None) -> Orders:
    if orders is None:  # never a row of the caller's, or gone since
        raise not_a_cursor()
    return orders


@contextmanager
def _measured(operation: Operation) -> Iterator[None]:
    """Count and time a question. "No such record" counts as a success."""
    status = QueryStatus.ERROR
    try:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            metrics.QUERY_DURATION.labels(operation).observe(seconds, current_exemplar())
        status = QueryStatus.SUCCESS
    except RecordNotFoundError:
        status = QueryStatus.SUCCESS
        raise
    except InvalidQueryError:
        status = QueryStatus.INVALID
        raise
    finally:
        metrics.QUERY_TOTAL.labels(operation, status).inc()
