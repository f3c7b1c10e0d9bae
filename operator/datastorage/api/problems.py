"""Answers to requests that failed, as problem details (RFC 9457); the only place that maps errors to
statuses.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from datastorage.api.requestid import current_request_id, note_failure
from datastorage.errors import (
    AmbiguousUidError,
    BodyTooLargeError,
    DataStorageError,
    GroupRefusedError,
    IdentifierReusedError,
    InvalidBodyError,
    InvalidQueryError,
    NotAllowedError,
    NotAuthenticatedError,
    OverloadedError,
    RecordNotFoundError,
    RecordRefusedError,
    RecordRejectedError,
    TooManyRequestsError,
    TransientError,
)
from datastorage.query.encoding import encoded
from datastorage.resources.validation.problems import Code, FieldProblem

_log = logging.getLogger(__name__)

# Of what a client has made up, so many names are in the answer, with so many characters of each.
_MOST_ERRORS: Final = 20
_SHOWN: Final = 100
MEDIA_TYPE: Final = "application/problem+json"
# Outages that last longer are rare, and a client that comes back early costs little.
_RETRY_AFTER_SECONDS: Final = 2
_TYPE: Final = "urn:kubernaut:datastorage:problem:"


@dataclass(frozen=True, slots=True)
class Problem:
    """One failed request, or one failed item of a request."""

    status: HTTPStatus
    code: str
    """Stable, for programs."""
    detail: str
    """For people: what is wrong and what to do. Never SQL, a stack or a secret."""
    errors: Sequence[FieldProblem] = ()
    """Places in the body (JSON pointers), or names of parameters."""
    headers: Mapping[str, str] = field(default_factory=dict)
    items: Sequence[Mapping[str, Any]] = ()
    """The records of a batch that are at fault, each with its own problem."""

    def as_json(self) -> dict[str, Any]:
        """Return the problem as JSON, with the member names of RFC 9457."""
        answer: dict[str, Any] = {
            "type": f"{_TYPE}{self.code}",
            "title": self.status.phrase,
            "status": int(self.status),
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            answer["errors"] = [
                {"pointer": error.pointer, "code": str(error.code), "detail": error.detail}
                for error in self.errors
            ]
        if self.items:
            answer["items"] = list(self.items)
        return answer

    def response(self) -> Response:
        """Return the answer to the request that is served, with its identifier."""
        if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            note_failure(self.detail)
        answer, request_id = self.as_json(), current_request_id()
        if request_id is not None:
            answer["requestID"] = request_id
        return Response(
            encoded(answer) + b"\n",
            status_code=self.status,
            media_type=MEDIA_TYPE,
            headers=dict(self.headers),
        )


_RETRY: Final = {"Retry-After": str(_RETRY_AFTER_SECONDS)}
# The first class that an error belongs to counts.
_PROBLEMS: Final[Sequence[tuple[type[DataStorageError], HTTPStatus, str, Mapping[str, str]]]] = (
    (NotAuthenticatedError, HTTPStatus.UNAUTHORIZED, "not-authenticated", {"WWW-Authenticate": "Bearer"}),
    (NotAllowedError, HTTPStatus.FORBIDDEN, "not-allowed", {}),
    (RecordNotFoundError, HTTPStatus.NOT_FOUND, "not-found", {}),
    (BodyTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", {}),
    (InvalidBodyError, HTTPStatus.BAD_REQUEST, "invalid-json", {}),
    (AmbiguousUidError, HTTPStatus.BAD_REQUEST, "ambiguous-uid", {}),
    (InvalidQueryError, HTTPStatus.BAD_REQUEST, "invalid-query", {}),
    (IdentifierReusedError, HTTPStatus.UNPROCESSABLE_ENTITY, "identifier-reused", {}),
    (RecordRejectedError, HTTPStatus.UNPROCESSABLE_ENTITY, "rejected", {}),
    (RecordRefusedError, HTTPStatus.UNPROCESSABLE_ENTITY, "refused", {}),
    (OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", _RETRY),
    (TransientError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", _RETRY),
)


class ProblemError(DataStorageError):
    """A request that can't be served as it was sent, with the answer to it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_of(error: DataStorageError) -> Problem:
    """Return the problem that an error is to a client."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, InvalidBodyError) and error.pointer is not None:
        errors = [FieldProblem(error.pointer, str(error), Code.BAD_FORMAT)]
        return Problem(HTTPStatus.BAD_REQUEST, "invalid-json", str(error), errors)
    if isinstance(error, TooManyRequestsError):
        waiting = {"Retry-After": str(error.retry_after_seconds)}
        return Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", str(error), headers=waiting)
    if isinstance(error, GroupRefusedError):
        detail = f"nothing of the batch is stored: {error}"
        if error.is_transient:
            return problem_of(TransientError(detail))
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "batch-not-stored", detail)
    for kind, status, code, headers in _PROBLEMS:
        if isinstance(error, kind):
            return Problem(status, code, str(error), headers=headers)
    _log.error("Request failed", extra={"error": str(error)})
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the request failed: see the operator's log")


def _in_words(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a parameter, in words like those of our own checks."""
    match error["type"]:
        case "missing":
            return "must be given"
        case "extra_forbidden":
            return "is not known here: leave it out, or see /docs"
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be", 1)


def _methods_of(app: FastAPI, scope: Scope) -> list[str]:
    """Return the methods of a path. The router itself would name those of the first route that fits."""
    bare = {key: scope[key] for key in ("type", "path", "root_path", "headers") if key in scope}
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**bare, "method": method})[0] is Match.FULL for route in app.router.routes)
    ]


def handle_errors(app: FastAPI) -> None:
    """Make the application answer every error with a problem."""

    @app.exception_handler(DataStorageError)
    async def own(_: Request, error: DataStorageError) -> Response:
        return problem_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def parameters(_: Request, error: RequestValidationError) -> Response:
        errors = [
            FieldProblem(str(each["loc"][-1])[:_SHOWN], _in_words(each), Code.BAD_FORMAT)
            for each in list(error.errors())[:_MOST_ERRORS]
        ]
        detail = "; ".join(f"{each.pointer}: {each.detail}" for each in errors)
        return Problem(HTTPStatus.BAD_REQUEST, "invalid-parameter", detail, errors).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        code = status.phrase.lower().replace(" ", "-")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(_methods_of(app, request.scope))
            detail = f"this path has no method {request.method[:20]}: it has {allowed}"
            return Problem(status, code, detail, headers={"Allow": allowed}).response()
        detail = (
            "this path is not of the API: see /docs" if status is HTTPStatus.NOT_FOUND else str(error.detail)
        )
        return Problem(status, code, detail, headers=error.headers or {}).response()

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        _log.error("Request failed because of a bug", exc_info=error)
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "a bug: see the operator's log"
        ).response()
