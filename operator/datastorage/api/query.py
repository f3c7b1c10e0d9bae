"""Routes at /api/v1/query and /api/v1/timeline: questions to the archive, within the rights of the caller.

The rights become conditions of the question itself: rows that the caller may not see are never read. A
caller with the right in a single namespace has to name it.
"""

import logging
from dataclasses import dataclass, field
from functools import cached_property, partial
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from datastorage.api import operations
from datastorage.api.answers import AnswerLimits, Answers, etag_of, is_among
from datastorage.api.answerschemas import SCHEMAS_AT
from datastorage.api.bodies import read_body
from datastorage.api.conditions import (
    Generation,
    ListConditions,
    Namespaced,
    OfKind,
    OfNamespace,
    QueryType,
    SearchConditions,
    TimelinePage,
)
from datastorage.api.fields import parse_fields
from datastorage.api.guard import Guard
from datastorage.api.offloop import run_apart
from datastorage.api.openapi import JSON
from datastorage.api.operations import CANONICAL
from datastorage.api.parameters import NoParameters, check_number, strict_router
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.encoding import encoded
from datastorage.query.interface import ScopedArchive
from datastorage.query.questionwords import MAX_QUESTION_CHARACTERS
from datastorage.records.caller import Caller
from datastorage.records.jsonbody import parsed
from datastorage.resources.reading.fields import MAX_INDEXED_CHARACTERS
from datastorage.storage.criteria import Scope

_Uid = Annotated[str, Path(description="The uid of the record.", json_schema_extra={"format": "uuid"})]
_Name = Annotated[str, Path(description="The name of the record.")]
_CorrelationId = Annotated[str, Path(alias="correlationID", description="The incident.")]
# As long as a question and its conditions may be, in the longest form that JSON has for a character: \uXXXX
# twice, for one beyond the first 65,536.
_QUESTION_BYTES: Final = 12 * (
    MAX_QUESTION_CHARACTERS + len(SearchConditions.model_fields) * MAX_INDEXED_CHARACTERS
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """The things that the routes need."""

    guard: Guard
    archive: ScopedArchive
    limits: AnswerLimits = field(default_factory=AnswerLimits)

    @cached_property
    def answers(self) -> Answers:
        """The maker of answers, whose memory is bounded in all."""
        return Answers(self.limits)

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
        """Log a question that needs the right in the whole cluster, except about the caller's own namespace.

        The words of a search stay out of the log. So does a get that names its namespace: a line for each of
        them would take longer than the get.
        """
        if self.verb == "get" and self.scope.namespace is not None:
            return
        if self.scope.since is None and self.scope.namespace != self.caller.namespace:
            _log.info(
                "Read with the right in the whole cluster",
                extra={
                    "user": self.caller.username,
                    "verb": self.verb,
                    "path": path,
                    "filter": self.asked.for_log(),
                    "count": count,
                },
            )


def query_router(desk: Desk) -> APIRouter:
    """Return the routes that ask the archive."""
    router = strict_router("query")
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
        body = await read_body(request, _QUESTION_BYTES)
        asked = await run_apart(len(body), partial(_asked, body))
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
        async with desk.answers.turn(admission.caller.username):
            page = await desk.archive.list_page(
                asked.filter_of(type),
                limit=asked.page_size,
                cursor=asked.page_token,
                with_content=fields.need_content,
                scope=admission.scope,
            )
            admission.note(request.url.path, len(page.items))
            items = (encoded(fields.of(each)) for each in page.items)
            return await desk.answers.listed(admission.caller.username, items, {"nextPageToken": page.cursor})

    @router.get("/timeline/{correlationID}", **operations.TIMELINE)
    async def timeline(
        correlation_id: _CorrelationId, request: Request, asked: Annotated[TimelinePage, Query()]
    ) -> Response:
        admission = await desk.admit(request, "list", asked)
        fields = None if asked.fields is None else parse_fields(asked.fields)
        async with desk.answers.turn(admission.caller.username):
            page = await desk.archive.timeline(
                correlation_id, scope=admission.scope, limit=asked.page_size, cursor=asked.page_token
            )
            admission.note(request.url.path, len(page.entries))
            entries = (
                entry.as_bytes() if fields is None else encoded(fields.of_entry(entry))
                for entry in page.entries
            )
            return await desk.answers.listed(
                admission.caller.username, entries, {"nextPageToken": page.cursor}
            )


def _add_records(router: APIRouter, desk: Desk) -> None:
    @router.get("/query/{type}/by-name/{name}", **operations.GET_BY_NAME)
    async def get_by_name(
        type: QueryType,  # noqa: A002  # the word of the path
        name: _Name,
        request: Request,
        asked: Annotated[OfNamespace, Query()],
    ) -> Response:
        admission = await desk.admit(request, "get", asked)
        async with desk.answers.turn(admission.caller.username):
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
        async with desk.answers.turn(admission.caller.username):
            records = await desk.archive.history(uid, asked.kind_of(type), scope=admission.scope)
            admission.note(request.url.path, len(records))
            return await desk.answers.listed(
                admission.caller.username, (each.as_bytes() for each in records), {}
            )

    @router.get("/query/{type}/{uid}", **operations.GET)
    async def get(
        type: QueryType,  # noqa: A002  # the word of the path
        uid: _Uid,
        request: Request,
        asked: Annotated[Generation, Query()],
    ) -> Response:
        admission = await desk.admit(request, "get", asked)
        async with desk.answers.turn(admission.caller.username):
            record = await desk.archive.get(uid, asked.generation, asked.kind_of(type), scope=admission.scope)
            admission.note(request.url.path, 1)
            return _one(request, record)


def _asked(body: bytes) -> SearchConditions:
    given = parsed(body)
    if isinstance(given, dict):
        check_number(len(given))
    try:
        return SearchConditions.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        ) from None


async def _search(desk: Desk, admission: Admission, request: Request, asked: SearchConditions) -> Response:
    async with desk.answers.turn(admission.caller.username):
        result = await desk.archive.search(
            asked.q,
            asked.filter_of(asked.type),
            mode=asked.mode,
            limit=asked.limit,
            flat=asked.flat,
            scope=admission.scope,
        )
        admission.note(request.url.path, len(result.hits))
        hits = (hit.as_bytes() for hit in result.hits)
        return await desk.answers.listed(
            admission.caller.username,
            hits,
            {"mode": result.mode, "degraded": result.degraded, "leftOut": result.left_out},
        )


def _one(request: Request, record: ArchivedRecord) -> Response:
    headers = {"ETag": etag_of(record.content_hash), "Vary": "Accept, Authorization"}
    # Bytes that somebody has changed still have the hash of those that were stored.
    if record.intact and is_among(headers["ETag"], request.headers.getlist("if-none-match")):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if CANONICAL in request.headers.get("accept", ""):
        return Response(record.content, media_type=CANONICAL, headers=headers)
    return Response(record.as_bytes() + b"\n", media_type=JSON, headers=headers)


def _search_schema() -> dict[str, Any]:
    schema = SearchConditions.model_json_schema(ref_template=f"{SCHEMAS_AT}{{model}}")
    schema.pop("$defs", None)  # the same question by GET has them
    return schema
