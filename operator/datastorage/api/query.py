"""GET /api/v1/query, /timeline: questions to the archive, within the rights of the caller.

The rights become conditions of the question itself: rows that the caller may not see are never read. A
caller with the right in a single namespace has to name it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from datastorage.api import operations
from datastorage.api.guard import Guard
from datastorage.api.openapi import JSON
from datastorage.api.operations import CANONICAL
from datastorage.api.store import PREFIX
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.filters import MAX_LIMIT, Filter, SearchMode
from datastorage.query.questions import Page
from datastorage.query.search import SearchResult
from datastorage.query.timeline import Timeline
from datastorage.records.hashes import labelled
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, AuditType
from datastorage.resources.models.base import field_name
from datastorage.storage.criteria import Scope

_NAMESPACE: Final = "Needed without the right in the whole cluster."
_PAGE_SIZE: Final = "Records on a page, at most."
_EARLIER_PAGE: Final = "The nextPageToken of the page before; valid for the same conditions only."
_Namespace = Annotated[str | None, Query(description=_NAMESPACE)]
_Uid = Annotated[str, Path(description="The uid of the record.", json_schema_extra={"format": "uuid"})]
_Generation = Annotated[int | None, Query(description="The newest one if it is left out.")]
_CorrelationId = Annotated[str, Path(alias="correlationID", description="The remediation.")]
_DEFAULT_PAGE: Final = 50
_DEFAULT_HITS: Final = 10


class QueryType(StrEnum):
    """The last part of the path: the records that are asked for."""

    RECORDS = "records"
    """Of every type and kind."""
    REMEDIATION = "remediation"
    AI_ANALYSIS = "aianalysis"
    WORKFLOW = "workflow"
    EXECUTION = "execution"
    ACTION_TRACES = "actiontraces"

    @property
    def audit_type(self) -> str | None:
        """The ``spec.type`` of the AuditRecords that are meant; None for all."""
        return next((str(each) for each in AuditType if each.lower() == self.value), None)

    @property
    def kind(self) -> str | None:
        """The kind that is meant; None for both."""
        if self is QueryType.RECORDS:
            return None
        return ACTION_TRACE.kind if self is QueryType.ACTION_TRACES else AUDIT_RECORD.kind


class Archive(Protocol):
    """The archive, open for questions (query/questions.py)."""

    async def list(self, filter: Filter, *, limit: int, cursor: str | None, scope: Scope) -> Page: ...  # noqa: A002
    async def get(
        self, uid: str, generation: int | None, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord: ...
    async def history(self, uid: str, *, scope: Scope) -> tuple[ArchivedRecord, ...]: ...
    async def search(
        self,
        question: str,
        filter: Filter,  # noqa: A002
        *,
        mode: SearchMode,
        limit: int,
        scope: Scope,
    ) -> SearchResult: ...
    async def timeline(
        self, correlation_id: str, *, scope: Scope, limit: int, cursor: str | None
    ) -> Timeline: ...


class Conditions(BaseModel):
    """The conditions of a question; a record has to meet all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=field_name, populate_by_name=True)

    namespace: str | None = Field(None, description=_NAMESPACE)
    correlation_id: str | None = Field(None, description="The remediation that the record belongs to.")
    action_type: str | None = Field(None, description="The actionType; of ActionTraces only.")
    phase: str | None = Field(
        None, description="Phase of an AuditRecord, or the execution status of a trace."
    )
    severity: str | None = Field(None, description="Severity of the cause.")
    target_kind: str | None = Field(None, description="Kind of the object that the record is about.")
    target_namespace: str | None = Field(None, description="Namespace of that object.")
    target_name: str | None = Field(None, description="Name of that object.")
    alert_fingerprint: str | None = Field(None, description="Fingerprint of the alert.")
    since: datetime | None = Field(None, description="Earliest time of creation, with a time zone.")
    until: datetime | None = Field(None, description="The record was created before this time.")

    def filter_of(self, type_: QueryType) -> Filter:
        """Return the filter of the archive."""
        given = self.model_dump(exclude={"action_type"})
        return Filter(kind=type_.kind, type=type_.audit_type or self.action_type, **given)


class ListConditions(Conditions):
    """The conditions of a list, and its page."""

    page_size: Annotated[int, Field(ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)] = _DEFAULT_PAGE
    page_token: str | None = Field(None, description=_EARLIER_PAGE)


class SearchConditions(Conditions):
    """A search."""

    q: str = Field(description="The question: words, an identifier, a sentence.")
    type: QueryType = Field(QueryType.RECORDS, description="The records to search.")
    mode: SearchMode = Field(SearchMode.HYBRID, description="By meaning (vector), by words (text), or both.")
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Hits, at most.")] = _DEFAULT_HITS


@dataclass(frozen=True)
class Desk:
    """What the routes need."""

    guard: Guard
    archive: Archive

    async def admit(self, request: Request, verb: str, namespace: str | None) -> Scope:
        """Return the rows that the caller may read. Raises NotAuthenticatedError and NotAllowedError."""
        caller = await self.guard.caller_of(request.headers)
        return await self.guard.scope_of(caller, verb, namespace)


def query_router(desk: Desk) -> APIRouter:
    """Return the routes that ask the archive."""
    router = APIRouter(prefix=PREFIX, tags=["query"])

    @router.get("/query/semantic", **operations.SEARCH)
    async def search(request: Request, asked: Annotated[SearchConditions, Query()]) -> Response:
        return await _search(desk, request, asked)

    @router.post("/query/semantic", **operations.SEARCH_IN_BODY)
    async def search_in_body(request: Request, asked: SearchConditions) -> Response:
        return await _search(desk, request, asked)

    @router.get("/query/{type}", **operations.LIST)
    async def list_records(
        type: QueryType,  # noqa: A002  # the word of the path
        request: Request,
        asked: Annotated[ListConditions, Query()],
    ) -> Response:
        scope = await desk.admit(request, "list", asked.namespace)
        conditions = Conditions(**asked.model_dump(exclude={"page_size", "page_token"}))
        page = await desk.archive.list(
            conditions.filter_of(type), limit=asked.page_size, cursor=asked.page_token, scope=scope
        )
        return _json({"items": [each.as_json() for each in page.records], "nextPageToken": page.cursor})

    @router.get("/query/actiontraces/{uid}/history", **operations.HISTORY)
    async def history(request: Request, uid: _Uid, namespace: _Namespace = None) -> Response:
        scope = await desk.admit(request, "get", namespace)
        return _items(await desk.archive.history(uid, scope=scope))

    @router.get("/query/{type}/{uid}", **operations.GET)
    async def get(
        type: QueryType,  # noqa: A002  # the word of the path
        uid: _Uid,
        request: Request,
        namespace: _Namespace = None,
        generation: _Generation = None,
    ) -> Response:
        scope = await desk.admit(request, "get", namespace)
        record = await desk.archive.get(uid, generation, type.kind, scope=scope)
        return _one(request, record)

    @router.get("/timeline/{correlationID}", **operations.TIMELINE)
    async def timeline(
        correlation_id: _CorrelationId,
        request: Request,
        namespace: _Namespace = None,
        page_size: Annotated[
            int, Query(alias="pageSize", ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)
        ] = MAX_LIMIT,
        page_token: Annotated[str | None, Query(alias="pageToken", description=_EARLIER_PAGE)] = None,
    ) -> Response:
        scope = await desk.admit(request, "list", namespace)
        page = await desk.archive.timeline(correlation_id, scope=scope, limit=page_size, cursor=page_token)
        entries = [{"at": rfc3339(entry.at), **entry.record.as_json()} for entry in page.entries]
        return _json({"items": entries, "nextPageToken": page.cursor})

    return router


async def _search(desk: Desk, request: Request, asked: SearchConditions) -> Response:
    scope = await desk.admit(request, "list", asked.namespace)
    conditions = Conditions(**asked.model_dump(exclude={"q", "type", "mode", "limit"}))
    result = await desk.archive.search(
        asked.q, conditions.filter_of(asked.type), mode=asked.mode, limit=asked.limit, scope=scope
    )
    hits = [
        {"score": hit.score, "similarity": hit.similarity, "more": hit.more, **hit.record.as_json()}
        for hit in result.hits
    ]
    return _json({"mode": result.mode, "degraded": result.degraded, "items": hits})


def _items(records: Sequence[ArchivedRecord]) -> Response:
    return _json({"items": [record.as_json() for record in records]})


def _one(request: Request, record: ArchivedRecord) -> Response:
    headers = {"ETag": f'"{labelled(record.content_hash)}"', "Vary": "Accept, Authorization"}
    if headers["ETag"] in _etags(request):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if CANONICAL in request.headers.get("accept", ""):
        return Response(record.content, media_type=CANONICAL, headers=headers)
    return _json(record.as_json(), headers)


def _etags(request: Request) -> list[str]:
    return [each.strip() for each in request.headers.get("if-none-match", "").split(",")]


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    # Lone surrogates, which a record may contain, can't be encoded.
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(body, media_type=JSON, headers=headers)
