"""Reads the bodies of requests: bounded in size and number, and only in the formats that are served."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from datastorage.api.problems import FieldProblem, Problem, ProblemError

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

Parse = Callable[[bytes], Any]
"""Parses the JSON of one body. Raises ValueError with what is wrong."""


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


async def items_of(request: Request, parse: Parse, bounds: Bounds) -> Items:
    """Read a request with one object, an array of them, or one in each line. Raises ProblemError."""
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
        lines = [line for line in body.split(b"\n") if line.strip()]
        _check_count(len(lines), bounds)
        return Items([_line(line, parse) for line in lines], is_batch=True)
    try:
        value = parse(body)
    except ValueError as error:
        raise ProblemError(invalid_json(error)) from None
    if not isinstance(value, list):
        return Items([value], is_batch=False)
    _check_count(len(value), bounds)
    return Items(value, is_batch=True)


def invalid_json(error: ValueError) -> Problem:
    """Return the problem with a text that is not JSON."""
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-json", f"the body is not valid JSON: {error}")


def invalid(errors: list[FieldProblem]) -> Problem:
    """Return the problem with a record whose values break the rules of its kind."""
    detail = "; ".join(f"{each.pointer}: {each.detail}" for each in errors[:3])
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-record", detail, errors)


def parsed_plainly(body: bytes) -> Any:
    """Parse JSON as Python does, without duplicate names and without NaN."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("a name occurs twice in one object")
        return result

    return json.loads(body.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)


def _line(line: bytes, parse: Parse) -> Any:
    try:
        return parse(line)
    except ValueError as error:
        return invalid_json(error)


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
