"""The codes of problems: the status of each, and what it means, for the API reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One kind of problem."""

    status: HTTPStatus
    meaning: str
    """What is wrong, and what to do."""


_BAD: Final = HTTPStatus.BAD_REQUEST
_LARGE: Final = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
_UNPROCESSABLE: Final = HTTPStatus.UNPROCESSABLE_ENTITY
_TOO_MANY: Final = HTTPStatus.TOO_MANY_REQUESTS
_AWAY: Final = HTTPStatus.SERVICE_UNAVAILABLE

CODES: Final[Mapping[str, ErrorCode]] = {
    "invalid-json": ErrorCode(_BAD, "The body is not JSON; detail says at which byte or value."),
    "invalid-record": ErrorCode(
        _BAD, "The record breaks the rules of AuditRecords; errors has each wrong value."
    ),
    "no-records": ErrorCode(_BAD, "The array, or the lines, hold no record."),
    "incomplete": ErrorCode(_BAD, "The connection ended before the body did: send the request again."),
    "invalid-idempotency-key": ErrorCode(
        _BAD, "Give the header Idempotency-Key once, with 1 to 255 characters."
    ),
    "idempotency-key-of-batch": ErrorCode(
        _BAD, "Idempotency-Key is for a single record: give each record of a batch its own metadata.uid."
    ),
    "invalid-parameter": ErrorCode(
        _BAD, "A parameter is missing, unknown or of a wrong form; errors has each of them."
    ),
    "invalid-query": ErrorCode(
        _BAD, "The question can't be answered as it was put, such as a page token of another question."
    ),
    "not-authenticated": ErrorCode(
        HTTPStatus.UNAUTHORIZED, "The token is missing, expired, or not for this audience: get a new one."
    ),
    "not-allowed": ErrorCode(
        HTTPStatus.FORBIDDEN, "The caller lacks a right; detail names verb, resource and namespace."
    ),
    "not-found": ErrorCode(
        HTTPStatus.NOT_FOUND, "The archive has no such record among those that the caller may read."
    ),
    "body-too-large": ErrorCode(
        _LARGE, "The body, or a line of it, is too large: send fewer records at once."
    ),
    "too-many-records": ErrorCode(_LARGE, "The request has too many records: send fewer at once."),
    "unsupported-media-type": ErrorCode(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "Send application/json or application/x-ndjson, and do not compress the body.",
    ),
    "identifier-reused": ErrorCode(
        _UNPROCESSABLE,
        "metadata.uid or Idempotency-Key belongs to an earlier record with another content: use a new one "
        "for a new record.",
    ),
    "rejected": ErrorCode(
        _UNPROCESSABLE, "PostgreSQL can't hold the record; its bytes are kept among the rejected ones."
    ),
    "refused": ErrorCode(
        _UNPROCESSABLE,
        "PostgreSQL can't hold the record. It is a record of a batch with atomic=true, so nothing is stored "
        "and nothing kept.",
    ),
    "batch-not-stored": ErrorCode(
        _UNPROCESSABLE,
        "With atomic=true, and at least one record that can't be stored: nothing of the batch is stored. "
        "items has the records at fault, each with its problem. Correct those, and send the batch again.",
    ),
    "too-many-requests": ErrorCode(
        _TOO_MANY,
        "The caller sends more requests, or more at a time, than one caller may: send the same request again "
        "after Retry-After seconds.",
    ),
    "overloaded": ErrorCode(
        _AWAY,
        "Too many requests are under way, or too many records wait to be stored: send the same request again "
        "after Retry-After seconds.",
    ),
    "unavailable": ErrorCode(
        _AWAY,
        "PostgreSQL or the API server does not serve now, or the commit takes too long; nothing is "
        "acknowledged. Send the same request again after Retry-After seconds.",
    ),
    "invalid-http": ErrorCode(_BAD, "The request is not HTTP, or its headers are too large."),
    "tls-required": ErrorCode(_BAD, "This port speaks TLS: the URL must begin with https, not with http."),
    "method-not-allowed": ErrorCode(
        HTTPStatus.METHOD_NOT_ALLOWED, "The path has no such method; the header Allow has those that it has."
    ),
    "internal": ErrorCode(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The operator has made a mistake, which its log describes under requestID: report it.",
    ),
}

ANYWHERE: Final = ("invalid-http", "tls-required", "method-not-allowed", "internal")
"""The codes of problems that do not belong to an operation."""
