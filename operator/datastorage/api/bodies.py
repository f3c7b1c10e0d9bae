"""Reads the bodies of requests: bounded in size and number, and only in the formats that are served."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from datastorage import metrics
from datastorage.api.offloop import is_small, run_apart
from datastorage.api.openapi import JSON
from datastorage.api.operations import NDJSON
from datastorage.api.problems import Problem, ProblemError, problem_of
from datastorage.errors import InvalidBodyError
from datastorage.metrics import OTHER
from datastorage.records.jsonbody import array_items, lines, parsed
from datastorage.resources.models.audit_record import AuditRecordSpec
from datastorage.resources.models.base import field_name
from datastorage.resources.validation.problems import Code, FieldProblem

_LENGTH_DIGITS: Final = 18
_FIELDS: Final = frozenset(
    {"apiVersion", "kind", "metadata", "spec"}
    | {
        f"metadata.{name}"
        for name in ("namespace", "name", "uid", "labels", "annotations", "ownerReferences")
    }
    | {f"spec.{field_name(name)}" for name in AuditRecordSpec.model_fields}
)
for _field in sorted({*_FIELDS, OTHER}):
    for _code in Code:
        metrics.VALIDATION_FAILURES.declare(_field, _code)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How large a request may be."""

    body_bytes: int = 8 * 1024 * 1024
    items: int = 500
    """Records in one request: as many as one transaction stores."""
    bytes_at_once: int = 32 * 1024 * 1024
    """Bytes of all bodies that are in memory at a time. Their values take several times as much."""
    bytes_reserved: int = 8 * 1024 * 1024
    """Bytes of those that one identity leaves to others, for a body of the largest size: a body that is sent
    slowly takes its room for seconds."""


@dataclass(frozen=True, slots=True)
class Items:
    """The records of a request, as they were sent."""

    bodies: list[Any]
    """Each a JSON value, or the problem with its line."""
    is_batch: bool
    """Whether the request was an array or lines, so that the answer has a result for each."""
    size: int = 0
    """Bytes of the request."""


def _unlimited(count: int) -> None:
    del count


async def items_of(
    request: Request, limits: RequestLimits, take: Callable[[int], None] = _unlimited
) -> Items:
    """Read a request with one object, an array of them, or one in each line.

    ``take`` is called with the number of bytes that arrive, and may raise OverloadedError. Raises
    ProblemError, and InvalidBodyError for what is not JSON.
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
    body = await read_body(request, limits.body_bytes, take)
    return await run_apart(len(body), partial(_items, body, limits, in_lines=media_type == NDJSON))


def invalid(errors: Sequence[FieldProblem]) -> Problem:
    """Return, and count, the problem with a record whose values break the rules of its kind."""
    for each in errors:
        metrics.VALIDATION_FAILURES.labels(_counted_field(each.pointer), each.code).inc()
    detail = "; ".join(f"{each.pointer}: {each.detail}" for each in errors[:3])
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-record", detail, errors)


def _counted_field(pointer: str) -> str:
    """Return the field of the schema that a pointer leads into: clients must not make names of series."""
    field = ".".join(pointer.split("/")[1:3])
    if field not in _FIELDS:
        field = field.partition(".")[0]
    return field if field in _FIELDS else OTHER


def _items(body: bytes, limits: RequestLimits, *, in_lines: bool) -> Items:
    if in_lines:
        found = list(islice(lines(body), limits.items + 1))
        _check_count(len(found), limits)
        return Items([_line(line) for line in found], is_batch=True, size=len(body))
    # The items of a large array are counted before any of them is built.
    items = None if is_small(len(body)) else array_items(body, limits.items)
    if items is None:
        value = parsed(body)
        if not isinstance(value, list):
            return Items([value], is_batch=False, size=len(body))
        _check_count(len(value), limits)
        return Items(value, is_batch=True, size=len(body))
    _check_count(len(items), limits)
    return Items([_item(index, item) for index, item in enumerate(items)], is_batch=True, size=len(body))


def _item(index: int, item: bytes) -> Any:
    try:
        return parsed(item)
    except InvalidBodyError as error:
        pointer = None if error.pointer is None else f"/{index}{error.pointer}"
        raise InvalidBodyError(f"item {index}: {error}", pointer=pointer) from None


def _line(line: bytes) -> Any:
    try:
        return parsed(line)
    except InvalidBodyError as error:
        return problem_of(error)


def _check_count(count: int, limits: RequestLimits) -> None:
    if not 1 <= count <= limits.items:
        raise ProblemError(
            Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE if count else HTTPStatus.BAD_REQUEST,
                "too-many-records" if count else "no-records",
                f"the request has {'too many' if count else 'no'} records: send 1 to {limits.items:,}",
            )
        )


async def read_body(request: Request, limit: int, take: Callable[[int], None] = _unlimited) -> bytes:
    """Return the body of a request.

    Raises ProblemError if it is compressed or too large, or does not come whole.
    """
    if any(each.lower() != "identity" for each in request.headers.getlist("content-encoding")):
        raise ProblemError(
            Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "the body must not be compressed: send it without Content-Encoding",
            )
        )
    body = bytearray()
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > _LENGTH_DIGITS or int(announced) > limit):
        raise _too_large(limit)  # before any of it is sent
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise _too_large(limit)
            take(len(chunk))
            body += chunk
    except ClientDisconnect:
        raise ProblemError(
            Problem(HTTPStatus.BAD_REQUEST, "incomplete", "the connection ended before the body did")
        ) from None
    return bytes(body)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "body-too-large",
            f"the body is larger than {limit:,} bytes: send fewer records at once",
            headers={"Connection": "close"},
        )
    )
