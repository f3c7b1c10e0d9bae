"""GET /api/v1/query, /timeline: questions to the archive, within the rights of the caller.

The rights become conditions of the question itself: rows that the caller may not see are never read. A
caller with the right in a single namespace has to name it.
"""

import logging
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, Field, ValidationError
from starlette.responses import Response

from datastorage.api import operations
from datastorage.api.answers import AnswerBounds, Answers, etag_of, json_response
from datastorage.api.answerschemas import SCHEMAS_AT
from datastorage.api.bodies import read_body
from datastorage.api.fields import MAX_CHARACTERS, parse_fields
from datastorage.api.guard import Guard
from datastorage.api.operations import CANONICAL
from datastorage.api.parameters import NoParameters, Strict, given_once
from datastorage.api.store import PREFIX
from datastorage.errors import InvalidQueryError
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.filters import MAX_LIMIT, Filter, SearchMode
from datastorage.query.listedrecord import ListPage
from datastorage.query.search import SearchResult
from datastorage.query.timeline import Timeline
from datastorage.records.caller import Caller
from datastorage.records.jsonbody import parsed
from datastorage.records.record import Via
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, AuditType
from datastorage.storage.criteria import Scope

_NAMESPACE: Final = "Needed without the right in the whole cluster."
_PAGE_SIZE: Final = "Records on a page, at most."
_EARLIER_PAGE: Final = "The nextPageToken of the page before; valid for the same conditions only."
_Uid = Annotated[str, Path(description="The uid of the record.", json_schema_extra={"format": "uuid"})]
_Name = Annotated[str, Path(description="The name of the record.")]
_CorrelationId = Annotated[str, Path(alias="correlationID", description="The remediation.")]
_FIELDS: Final = (
    "What the items have beside the outline, with commas in between: `intact`, `record`, or fields of the "
    "record such as `record.spec.message`. Without it, no content is read."
)
_AUDIT_ONLY: Final = "ActionTraces have none, so only AuditRecords are found."
_DEFAULT_PAGE: Final = 50
_DEFAULT_HITS: Final = 10
# A question has at most some thousand characters, and each filter 512.
_QUESTION_BYTES: Final = 64 * 1024
_log = logging.getLogger(__name__)


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
    def audit_type(self) -> AuditType | None:
        """The ``spec.type`` of the AuditRecords that are meant; None for all."""
        return AuditType.of_path(self.value)

    @property
    def kind(self) -> str | None:
        """The kind that is meant; None for both."""
        if self is QueryType.RECORDS:
            return None
        return ACTION_TRACE.kind if self is QueryType.ACTION_TRACES else AUDIT_RECORD.kind


class Archive(Protocol):
    """The archive, open for questions (query/questions.py)."""

    async def list_page(
        self,
        filter: Filter,  # noqa: A002
        *,
        limit: int,
        cursor: str | None,
        with_content: bool,
        scope: Scope,
    ) -> ListPage: ...
    async def get(
        self, uid: _Uid, generation: int | None, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord: ...
    async def get_by_name(
        self, namespace: str, name: str, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord: ...
    async def history(self, uid: _Uid, kind: str | None, *, scope: Scope) -> tuple[ArchivedRecord, ...]: ...
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


class Namespaced(Strict):
    """The namespace of a question."""

    namespace: str | None = Field(None, description=_NAMESPACE)


class OfKind(Namespaced):
    """A kind of records."""

    kind: str | None = Field(
        None, description="AuditRecord or ActionTrace. The types other than `records` imply it."
    )

    def kind_of(self, type_: QueryType) -> str | None:
        """Return the kind that is meant, or None for both. Raises InvalidQueryError for a contradiction."""
        if self.kind is None or type_.kind is None:
            return type_.kind or self.kind
        if self.kind.lower() != type_.kind.lower():
            raise InvalidQueryError(f"kind must be {type_.kind} or left out: the type {type_} implies it")
        return type_.kind


class OfNamespace(OfKind):
    """The namespace of a record that is asked for by its name."""

    namespace: str = Field(description="The namespace of the record.")


class Generation(OfKind):
    """One generation of a record."""

    generation: int | None = Field(None, description="The newest one if it is left out.")


class TimelinePage(Namespaced):
    """A page of a timeline."""

    page_size: Annotated[int, Field(ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)] = MAX_LIMIT
    page_token: str | None = Field(None, description=_EARLIER_PAGE)


def _no_number(value: Any) -> Any:
    """Refuse what would count as seconds or milliseconds, by its size: too easily the wrong ones."""
    if not isinstance(value, str | None) or (value is not None and "-" not in value[1:]):
        raise ValueError("must be a time as in RFC 3339, such as 2026-03-05T10:20:30Z")
    return value


Time = Annotated[datetime | None, BeforeValidator(_no_number)]


class Conditions(OfKind):
    """The conditions of a question; a record has to meet all of them."""

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
    action: str | None = Field(
        None, description="The action of an AuditRecord, or the actionType of an ActionTrace."
    )
    environment: str | None = Field(None, description=f"Environment of the step. {_AUDIT_ONLY}")
    cluster: str | None = Field(None, description=f"Cluster in which the step was taken. {_AUDIT_ONLY}")
    actor_kind: str | None = Field(None, description=f"Kind of the actor, such as User. {_AUDIT_ONLY}")
    actor_name: str | None = Field(None, description=f"Name of the actor. {_AUDIT_ONLY}")
    via: Via | None = Field(None, description="Whether the record came as a custom resource or by this API.")
    recorded_by: str | None = Field(
        None, description="The user who recorded it, by the word of the API server."
    )
    since: Time = Field(None, description="Earliest time of creation, with a time zone.")
    until: Time = Field(None, description="The record was created before this time.")

    def filter_of(self, type_: QueryType) -> Filter:
        """Return the filter of the archive."""
        given = {
            name: getattr(self, name)
            for name in Conditions.model_fields
            if name not in {"kind", "action_type"}
        }
        return Filter(kind=self.kind_of(type_), type=type_.audit_type or self.action_type, **given)


class PagedConditions(Conditions):
    """Conditions, and the page of an answer."""

    page_size: Annotated[int, Field(ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)] = _DEFAULT_PAGE
    page_token: str | None = Field(None, description=_EARLIER_PAGE)


class ListConditions(PagedConditions):
    """The conditions of a list, and what its items have."""

    fields: Annotated[str | None, Field(max_length=MAX_CHARACTERS, description=_FIELDS)] = None


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
    bounds: AnswerBounds = field(default_factory=AnswerBounds)

    @cached_property
    def answers(self) -> Answers:
        """The maker of answers, whose memory is bounded in all."""
        return Answers(self.bounds)

    async def admit(self, request: Request, verb: str, asked: Namespaced) -> "Admission":
        """Return the rows that the caller may read. Raises NotAuthenticatedError and NotAllowedError."""
        caller = await self.guard.caller_of(request.headers)
        return await self.admit_caller(caller, verb, asked)

    async def admit_caller(self, caller: Caller, verb: str, asked: Namespaced) -> "Admission":
        """Return the rows that a known caller may read. Raises NotAllowedError."""
        return Admission(caller, verb, asked, await self.guard.scope_of(caller, verb, asked.namespace))


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller's question, and the rows that it may be answered from."""

    caller: Caller
    verb: str
    asked: Namespaced
    scope: Scope

    def note(self, path: str, count: int) -> None:
        """Log a question over all namespaces. The words of a search stay out of the log."""
        if self.scope.namespace is None:
            given = self.asked.model_dump(
                mode="json", by_alias=True, exclude_none=True, exclude={"q", "page_token"}
            )
            _log.info(
                "Read over all namespaces",
                extra={
                    "user": self.caller.username,
                    "verb": self.verb,
                    "path": path,
                    "filter": given,
                    "count": count,
                },
            )


def query_router(desk: Desk) -> APIRouter:
    """Return the routes that ask the archive."""
    router = APIRouter(prefix=PREFIX, tags=["query"], dependencies=[Depends(given_once)])
    # The order counts: the first path that fits a request is taken.
    _add_searches(router, desk)
    _add_lists(router, desk)
    _add_records(router, desk)
    return router


def _add_searches(router: APIRouter, desk: Desk) -> None:
    @router.get("/query/semantic", **operations.SEARCH)
    async def search(request: Request, asked: Annotated[SearchConditions, Query()]) -> Response:
        return await _search(desk, await desk.admit(request, "list", asked), request, asked)

    @router.post("/query/semantic", **operations.search_in_body(_search_schema()))
    async def search_in_body(request: Request, _: Annotated[NoParameters, Query()]) -> Response:
        # The body of a stranger is not read.
        caller = await desk.guard.caller_of(request.headers)
        asked = _asked(parsed(await read_body(request, _QUESTION_BYTES)))
        return await _search(desk, await desk.admit_caller(caller, "list", asked), request, asked)


def _add_lists(router: APIRouter, desk: Desk) -> None:
    @router.get("/query/{type}", **operations.LIST)
    async def list_records(
        type: QueryType,  # noqa: A002  # the word of the path
        request: Request,
        asked: Annotated[ListConditions, Query()],
    ) -> Response:
        admission = await desk.admit(request, "list", asked)
        fields = parse_fields(asked.fields)
        async with desk.answers.turn():
            page = await desk.archive.list_page(
                asked.filter_of(type),
                limit=asked.page_size,
                cursor=asked.page_token,
                with_content=fields.need_content,
                scope=admission.scope,
            )
            admission.note(request.url.path, len(page.items))
            return await desk.answers.listed(map(fields.of, page.items), {"nextPageToken": page.cursor})

    @router.get("/timeline/{correlationID}", **operations.TIMELINE)
    async def timeline(
        correlation_id: _CorrelationId, request: Request, asked: Annotated[TimelinePage, Query()]
    ) -> Response:
        admission = await desk.admit(request, "list", asked)
        async with desk.answers.turn():
            page = await desk.archive.timeline(
                correlation_id, scope=admission.scope, limit=asked.page_size, cursor=asked.page_token
            )
            admission.note(request.url.path, len(page.entries))
            entries = ({"at": rfc3339(entry.at), **entry.record.as_json()} for entry in page.entries)
            return await desk.answers.listed(entries, {"nextPageToken": page.cursor})


def _add_records(router: APIRouter, desk: Desk) -> None:
    @router.get("/query/{type}/by-name/{name}", **operations.GET_BY_NAME)
    async def get_by_name(
        type: QueryType,  # noqa: A002  # the word of the path
        name: _Name,
        request: Request,
        asked: Annotated[OfNamespace, Query()],
    ) -> Response:
        admission = await desk.admit(request, "get", asked)
        async with desk.answers.turn():
            record = await desk.archive.get_by_name(
                asked.namespace, name, asked.kind_of(type), scope=admission.scope
            )
            admission.note(request.url.path, 1)
            return _one(request, record)

    @router.get("/query/{type}/{uid}/history", **operations.HISTORY)
    async def history(
        type: QueryType,  # noqa: A002  # the word of the path
        request: Request,
        uid: _Uid,
        asked: Annotated[OfKind, Query()],
    ) -> Response:
        admission = await desk.admit(request, "get", asked)
        async with desk.answers.turn():
            records = await desk.archive.history(uid, asked.kind_of(type), scope=admission.scope)
            admission.note(request.url.path, len(records))
            return await desk.answers.listed((each.as_json() for each in records), {})

    @router.get("/query/{type}/{uid}", **operations.GET)
    async def get(
        type: QueryType,  # noqa: A002  # the word of the path
        uid: _Uid,
        request: Request,
        asked: Annotated[Generation, Query()],
    ) -> Response:
        admission = await desk.admit(request, "get", asked)
        async with desk.answers.turn():
            record = await desk.archive.get(uid, asked.generation, asked.kind_of(type), scope=admission.scope)
            admission.note(request.url.path, 1)
            return _one(request, record)


def _asked(body: Any) -> SearchConditions:
    try:
        return SearchConditions.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        ) from None


async def _search(desk: Desk, admission: Admission, request: Request, asked: SearchConditions) -> Response:
    async with desk.answers.turn():
        result = await desk.archive.search(
            asked.q, asked.filter_of(asked.type), mode=asked.mode, limit=asked.limit, scope=admission.scope
        )
        admission.note(request.url.path, len(result.hits))
        hits = (
            {"score": hit.score, "similarity": hit.similarity, "more": hit.more, **hit.record.as_json()}
            for hit in result.hits
        )
        return await desk.answers.listed(hits, {"mode": result.mode, "degraded": result.degraded})


def _one(request: Request, record: ArchivedRecord) -> Response:
    headers = {"ETag": etag_of(record.content_hash), "Vary": "Accept, Authorization"}
    if headers["ETag"] in _etags(request):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if CANONICAL in request.headers.get("accept", ""):
        return Response(record.content, media_type=CANONICAL, headers=headers)
    return json_response(record.as_json(), headers)


def _etags(request: Request) -> list[str]:
    return [each.strip() for each in request.headers.get("if-none-match", "").split(",")]


def _search_schema() -> dict[str, Any]:
    schema = SearchConditions.model_json_schema(ref_template=f"{SCHEMAS_AT}{{model}}")
    schema.pop("$defs", None)  # the same question by GET has them
    return schema
