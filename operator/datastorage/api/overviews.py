"""GET /api/v1/history and /summary: what was done to an object before, and the archive in numbers."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from datastorage.api import operations
from datastorage.api.answers import json_response
from datastorage.api.conditions import Conditions, PagedConditions, QueryType
from datastorage.api.parameters import strict_router
from datastorage.api.query import Desk
from datastorage.query.archivesummary import DEFAULT_GROUPS
from datastorage.query.encoding import encoded
from datastorage.query.filters import MAX_LIMIT
from datastorage.storage.summaries import GroupKey

_GROUP_BY: Final = f"One or two of {', '.join(GroupKey)}, with a comma in between."


class HistoryConditions(PagedConditions):
    """The object whose history is asked for, and further conditions."""

    type: QueryType = Field(QueryType.RECORDS, description="The records to look for.")
    target_kind: str = Field(description="Kind of the object.")
    target_namespace: str | None = Field(
        None, description="Namespace of the object. Without it, objects of this name in all namespaces count."
    )
    target_name: str = Field(description="Name of the object.")


class SummaryConditions(Conditions):
    """The groups of a summary, and conditions on the records."""

    group_by: str = Field(description=_GROUP_BY)
    type: QueryType = Field(QueryType.RECORDS, description="The records to count.")
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Groups, at most.")] = DEFAULT_GROUPS


def overview_router(desk: Desk) -> APIRouter:
    """Return the routes of histories and summaries."""
    router = strict_router("query")

    @router.get("/history", **operations.TARGET_HISTORY)
    async def history(request: Request, asked: Annotated[HistoryConditions, Query()]) -> Response:
        admission = await desk.admit(request, "list", asked)
        async with desk.answers.turn(admission.caller.username):
            page = await desk.archive.target_history(
                asked.filter_of(asked.type),
                limit=asked.page_size,
                cursor=asked.page_token,
                scope=admission.scope,
            )
            admission.note(request.url.path, len(page.entries))
            return await desk.answers.listed(
                admission.caller.username,
                (encoded(each.as_json()) for each in page.entries),
                {"nextPageToken": page.cursor},
            )

    @router.get("/summary", **operations.SUMMARY)
    async def summary(request: Request, asked: Annotated[SummaryConditions, Query()]) -> Response:
        admission = await desk.admit(request, "list", asked)
        async with desk.answers.turn(admission.caller.username):
            found = await desk.archive.summary(
                asked.filter_of(asked.type),
                asked.group_by.split(","),
                limit=asked.limit,
                scope=admission.scope,
            )
            admission.note(request.url.path, found.all_records)
            return json_response(found.as_json())

    return router
