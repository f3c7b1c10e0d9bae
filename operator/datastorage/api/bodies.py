"""Reads the bodies of requests: bounded in size and number, and only in the formats that are served."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request

from datastorage.api.openapi import JSON
from datastorage.api.operations import NDJSON
from datastorage.api.problems import Problem, ProblemError, problem_of
from datastorage.errors import InvalidBodyError
from datastorage.records.jsonbody import BodyLimits, lines, parsed
from datastorage.resources.validation.problems import FieldProblem


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a request may be."""

    body_bytes: int = 8 * 1024 * 1024
    items: int = 500
    """Records in one request: as many as one transaction stores."""


@dataclass(frozen=True, slots=True)
class Items:
    """The records of a request, as they were sent."""

    bodies: list[Any]
    """Each a JSON value, or the problem with its line."""
    is_batch: bool
    """Whether the request was an array or lines, so that the answer has a result for each."""


async def items_of(request: Request, bounds: Bounds) -> Items:
    """Read a request with one object, an array of them, or one in each line.

    Raises ProblemError, and InvalidBodyError for what is not JSON.
    """
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type not in {JSON, NDJSON}:
        raise ProblemError(
            Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                f"the content type must be {JSON} or {NDJSON}, not {media_type[:100]!r}",
            )
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(
            Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "the body must not be compressed: send it without Content-Encoding",
            )
        )
    body = await _read(request, bounds.body_bytes)
    if media_type == NDJSON:
        found = list(lines(body))
        _check_count(len(found), bounds)
        return Items([_line(line) for line in found], is_batch=True)
    value = parsed(body, BodyLimits(max_bytes=bounds.body_bytes))
    if not isinstance(value, list):
        return Items([value], is_batch=False)
    _check_count(len(value), bounds)
    return Items(value, is_batch=True)


def invalid(errors: Sequence[FieldProblem]) -> Problem:
    """Return the problem with a record whose values break the rules of its kind."""
    detail = "; ".join(f"{each.pointer}: {each.detail}" for each in errors[:3])
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-record", detail, errors)


def _line(line: bytes) -> Any:
    try:
        return parsed(line)
    except InvalidBodyError as error:
        return problem_of(error)


def _check_count(count: int, bounds: Bounds) -> None:
    if not 1 <= count <= bounds.items:
        raise ProblemError(
            Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE if count else HTTPStatus.BAD_REQUEST,
                "too-many-records" if count else "no-records",
                f"the request has {count:,} records: send 1 to {bounds.items:,} at once",
            )
        )


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise ProblemError(
                    Problem(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        "body-too-large",
                        f"the body is larger than {limit:,} bytes: send fewer records at once",
                        headers={"Connection": "close"},
                    )
                )
    except ClientDisconnect:
        raise ProblemError(
            Problem(HTTPStatus.BAD_REQUEST, "incomplete", "the connection ended before the body did")
        ) from None
    return bytes(body)
