"""Interprets answers: what each status means, and whether an API server has answered at all."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from datastorage.errors import (
    ClusterError,
    ClusterUnavailableError,
    ForbiddenError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    ObjectTooLargeError,
    RequestRefusedError,
)
from datastorage.kube.apirequest import Target

_MAX_MESSAGE_CHARACTERS: Final = 500
# Refusals that end by themselves, because a token is renewed or the server was only busy.
TEMPORARY: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
)


def message_of(body: bytes) -> str:
    """Return the message of an error answer, which is a Status or, from a proxy, any text."""
    try:
        status = json.loads(body)
        message = str(status.get("message", "")) if isinstance(status, dict) else ""
    except (ValueError, RecursionError):
        message = body.decode("utf-8", "replace")
    return message[:_MAX_MESSAGE_CHARACTERS]


def refusal(status: int, body: bytes) -> str:
    """Return a description of an error answer."""
    return f"API server ({status}): {message_of(body)}"


def error_of(status: int, body: bytes, target: Target) -> ClusterError:
    """Return the error for an answer with this status, 400 or more. It names the object."""
    message = f"{target}: {refusal(status, body)}"
    # An object that exceeds etcd's own limit results in an internal error.
    if status == 413 or (status == 500 and "request is too large" in message):
        return ObjectTooLargeError(message)
    # The answer names the missing object. If the path itself is unknown, it names none.
    if status == 404 and not _names_an_object(body):
        return NotServedError(message)
    if status in {404, 410}:
        return ObjectGoneError(message)
    if status == 409:
        return ObjectChangedError(message)
    if status == 403:
        return ForbiddenError(message)
    if status in TEMPORARY or status >= 500:
        return ClusterUnavailableError(message)
    return RequestRefusedError(message)


def parsed(body: bytes, target: Target) -> dict[str, Any]:
    """Return the object in the answer. Raises ClusterUnavailableError for anything else.

    A proxy's page does not prove that the API server did anything. Nor can every version of Python read JSON
    that is nested very deeply, which must not end the process.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ClusterUnavailableError(
            f"{target}: API server: the answer is not a JSON object; "
            "is a proxy or a login page in front of it?"
        )
    return answer


def metadata_of(answer: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    """Return the metadata in the answer. Raises ClusterUnavailableError if there is none."""
    metadata = answer.get("metadata")
    if not isinstance(metadata, dict):
        raise ClusterUnavailableError(
            f"{target}: API server: the answer has no metadata; is this an API server?"
        )
    return metadata


def items_of(answer: Mapping[str, Any], target: Target) -> list[Any]:
    """Return the objects in a list. Raises ClusterUnavailableError for anything else that stands there."""
    items = answer.get("items") or []
    if not isinstance(items, list):
        raise ClusterUnavailableError(
            f"{target}: API server: the answer has no list of items; is it an API server that answers?"
        )
    return items


def version_of(answer: Mapping[str, Any], target: Target) -> str:
    """Return the resourceVersion in the answer. Raises ClusterUnavailableError if there is none."""
    version = metadata_of(answer, target).get("resourceVersion")
    if not isinstance(version, str):
        raise ClusterUnavailableError(
            f"{target}: API server: the answer has no resourceVersion; is this an API server?"
        )
    return version


def _names_an_object(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    details = answer.get("details") if isinstance(answer, dict) else None
    return isinstance(details, dict) and bool(details.get("name"))
