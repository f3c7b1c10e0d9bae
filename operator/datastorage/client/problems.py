"""Translates the answers of a server into errors; the only place that maps its statuses to them."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from datastorage.errors import (
    BodyTooLargeError,
    ConfigurationError,
    DataStorageError,
    IdentifierReusedError,
    InvalidQueryError,
    NotAllowedError,
    NotAuthenticatedError,
    OverloadedError,
    RecordNotFoundError,
    TransientError,
)

_MOST_CHARACTERS: Final = 2_000
_LONGEST_PAUSE_SECONDS: Final = 300.0

# By the status; a code that stands alone comes first.
_OF_CODE: Final[Mapping[str, type[DataStorageError]]] = {
    "identifier-reused": IdentifierReusedError,
    "overloaded": OverloadedError,
}
_OF_STATUS: Final[Mapping[int, type[DataStorageError]]] = {
    HTTPStatus.BAD_REQUEST: InvalidQueryError,
    HTTPStatus.UNAUTHORIZED: NotAuthenticatedError,
    HTTPStatus.FORBIDDEN: NotAllowedError,
    HTTPStatus.NOT_FOUND: RecordNotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: TransientError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: BodyTooLargeError,
    HTTPStatus.TOO_MANY_REQUESTS: OverloadedError,
    HTTPStatus.BAD_GATEWAY: TransientError,
    HTTPStatus.SERVICE_UNAVAILABLE: TransientError,
    HTTPStatus.GATEWAY_TIMEOUT: TransientError,
}
# The text of these is the same as that of the archive itself, and needs no look into the server's log.
_PLAIN: Final = (InvalidQueryError, RecordNotFoundError)


def error_of(server: str, status: int, headers: Mapping[str, str], content: bytes) -> DataStorageError:
    """Return the error that an answer with this status, 300 or more, is. ``server`` is a name for people."""
    if 300 <= status < 400:
        return _redirect(server, status, headers)
    problem = _problem(content)
    if problem is None:
        return not_an_answer(status, server)
    kind = _OF_CODE.get(str(problem.get("code"))) or _OF_STATUS.get(status, DataStorageError)
    detail = in_one_line(problem.get("detail")) or "the server gives no reason"
    if kind in _PLAIN:
        return kind(detail)
    title = in_one_line(problem.get("title")) or _phrase(status)
    request = in_one_line(headers.get("x-request-id") or problem.get("requestID"))
    return kind(f"{server} answers {status} {title}: {detail}{f' (request {request})' if request else ''}")


def not_an_answer(status: int, server: str = "the server") -> DataStorageError:
    """Return the error for an answer that does not come from the REST API."""
    kind = _OF_STATUS.get(status, ConfigurationError)
    if not issubclass(kind, TransientError):
        kind = ConfigurationError
    return kind(
        f"{server} answers {status} {_phrase(status)}, but not as a Data Storage server does: is the URL "
        "right, or does a proxy answer?"
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which the server may be asked again, if it says a number of them."""
    given = headers.get("retry-after", "")
    return min(float(given), _LONGEST_PAUSE_SECONDS) if given.isascii() and given.isdecimal() else None


def in_one_line(text: Any) -> str:
    """Return a text of the server in one line that can't steer a terminal; empty for no text."""
    if not isinstance(text, str):
        return ""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(plain.split())[:_MOST_CHARACTERS]


def _problem(content: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "code" in value else None


def _redirect(server: str, status: int, headers: Mapping[str, str]) -> DataStorageError:
    try:
        target = urlsplit(headers.get("location", ""))
        host = f"{target.scheme}://{target.hostname}" if target.hostname else ""
    except ValueError:
        host = ""
    to = f" to {in_one_line(host)}" if host else ""
    return ConfigurationError(
        f"{server} redirects{to} ({status}): the token is not sent there; if that is the server, name it "
        "with --server"
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(unknown status)"
