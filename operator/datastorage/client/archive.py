"""The archive of a server: the questions of query/interface.py as requests over HTTP.

A question is checked here as the archive would check it, so that a mistake has the same words whichever way
the question goes, and is noticed before anything connects.
"""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

from datastorage.client.problems import not_an_answer
from datastorage.client.records import (
    generations_in,
    page_in,
    record_in,
    search_result_in,
    summary_in,
    target_history_in,
    timeline_in,
)
from datastorage.client.server import Server
from datastorage.query.archivedrecord import ArchivedRecord, Page
from datastorage.query.archivesummary import ArchiveSummary, bounded, group_keys
from datastorage.query.filters import (
    Filter,
    SearchMode,
    check_limit,
    check_value,
    checked_generation,
    checked_uid,
)
from datastorage.query.questionwords import check_question
from datastorage.query.searchresult import SearchResult
from datastorage.query.targethistory import TargetHistory
from datastorage.query.timeline import Timeline
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import ACTION_TRACE
from datastorage.resources.models.base import field_name
from datastorage.storage.criteria import EVERYTHING, Scope

_ROOT: Final = "/api/v1"
_RECORDS: Final = "records"
_TRACES: Final = "actiontraces"


class RemoteArchive:
    """Questions to the archive of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def time(self) -> float:
        """Return the time by the server's clock, in Unix seconds. It has whole seconds."""
        # This path needs no right, and is answered whatever the state of the server.
        answer = await self._server.patiently("GET", "/version")
        try:
            return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except ValueError:
            raise not_an_answer(answer.status) from None

    async def search(
        self,
        question: str,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        mode: SearchMode,
        limit: int,
        flat: bool,
    ) -> SearchResult:
        """Return the records that answer a question best."""
        check_limit(limit)
        check_question(question)
        type_, conditions = conditions_of(filter)
        # In a body, the question stays out of the logs of proxies.
        body = {**conditions, "q": question, "type": type_, "mode": str(mode), "limit": limit}
        if flat:  # an older server does not know it, and answers with a plain list anyway
            body["flat"] = True
        return search_result_in(await self._server.ask(f"{_ROOT}/query/semantic", body=body))

    async def list(self, filter: Filter, *, limit: int, cursor: str | None) -> Page:  # noqa: A002
        """Return a page of records, the newest first."""
        check_limit(limit)
        type_, conditions = conditions_of(filter)
        # Tables show what is in the content, and a change of it is reported.
        query = {**conditions, **_page(limit, cursor), "fields": "intact,record"}
        return page_in(await self._server.ask(f"{_ROOT}/query/{type_}", query))

    async def get(
        self, uid: str, generation: int | None, kind: str | None, *, scope: Scope = EVERYTHING
    ) -> ArchivedRecord:
        """Return an object's newest generation, or the given one."""
        path = f"{_ROOT}/query/{_RECORDS}/{checked_uid(uid)}"
        query = {} if generation is None else {"generation": str(checked_generation(generation))}
        return record_in(await self._server.ask(path, {**_within(scope), **_of_kind(kind), **query}))

    async def get_by_name(
        self, namespace: str, name: str, kind: str | None, *, scope: Scope = EVERYTHING
    ) -> ArchivedRecord:
        """Return the newest generation of the newest object with a name."""
        del scope  # the namespace of the name is its limit
        check_value("namespace", namespace)
        check_value("name", name)
        path = f"{_ROOT}/query/{_RECORDS}/by-name/{quote(name, safe='')}"
        return record_in(await self._server.ask(path, {"namespace": namespace, **_of_kind(kind)}))

    async def history(
        self, uid: str, kind: str | None, *, scope: Scope = EVERYTHING
    ) -> tuple[ArchivedRecord, ...]:
        """Return an object's generations, the newest first."""
        path = f"{_ROOT}/query/{_RECORDS}/{checked_uid(uid)}/history"
        return generations_in(await self._server.ask(path, {**_within(scope), **_of_kind(kind)}))

    async def target_history(self, filter: Filter, *, limit: int, cursor: str | None) -> TargetHistory:  # noqa: A002
        """Return what was done to the object that the filter names by its target, the newest first."""
        check_limit(limit)
        type_, conditions = conditions_of(filter)
        query = {**conditions, "type": type_, **_page(limit, cursor)}
        return target_history_in(await self._server.ask(f"{_ROOT}/history", query))

    async def summary(self, filter: Filter, by: Sequence[str], *, limit: int) -> ArchiveSummary:  # noqa: A002
        """Return the number of records, and what came of them, by one or two keys."""
        check_limit(limit)
        keys = group_keys(by)
        bounded(filter, datetime.now(UTC))
        type_, conditions = conditions_of(filter)
        query = {**conditions, "type": type_, "groupBy": ",".join(keys), "limit": str(limit)}
        return summary_in(await self._server.ask(f"{_ROOT}/summary", query))

    async def timeline(
        self, correlation_id: str, *, scope: Scope = EVERYTHING, limit: int, cursor: str | None
    ) -> Timeline:
        """Return the records of an incident in the order of time."""
        check_value("correlation ID", correlation_id)
        check_limit(limit)
        path = f"{_ROOT}/timeline/{quote(correlation_id, safe='')}"
        return timeline_in(await self._server.ask(path, {**_within(scope), **_page(limit, cursor)}))


def conditions_of(filter: Filter) -> tuple[str, dict[str, str]]:  # noqa: A002  # the word of the interface
    """Return the word of the path for the records that are meant, and the other conditions as parameters.

    Raises InvalidQueryError for conditions that the archive would refuse.
    """
    filter.criteria()
    given = {each.name: getattr(filter, each.name) for each in fields(filter)}
    query = {
        field_name(name): rfc3339(value) if isinstance(value, datetime) else value
        for name, value in given.items()
        if value is not None and name not in {"kind", "type"}
    }
    if "via" in query:
        query["via"] = query["via"].lower()  # as the API spells it
    if filter.type is None:
        return _RECORDS, {**query, **_of_kind(filter.kind)}
    if filter.kind is not None and filter.kind.lower() == ACTION_TRACE.kind.lower():
        return _TRACES, {**query, "actionType": filter.type}
    return filter.type.lower(), query


def _of_kind(kind: str | None) -> dict[str, str]:
    Filter(kind=kind).criteria()
    return {} if kind is None else {"kind": kind}


def _within(scope: Scope) -> dict[str, str]:
    return {} if scope.namespace is None else {"namespace": scope.namespace}


def _page(limit: int, cursor: str | None) -> dict[str, str]:
    return {"pageSize": str(limit), **({} if cursor is None else {"pageToken": cursor})}
