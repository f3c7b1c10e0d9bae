"""Parses the answers of a service with an OpenAI-compatible API, and checks everything in them."""

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import numpy as np

from datastorage.records.vector import Matrix, Vector
from datastorage.variables import PREFIX

# Bytes of a number of 17 digits with sign, exponent, comma and the white space of an indented answer.
_NUMBER_BYTES: Final = 48
# Bytes of an answer in addition to its vectors.
_REST_BYTES: Final = 65_536
# The most brackets or quotes per vector, and in the rest of the answer.
_MARKS_PER_VECTOR: Final = 256
_OTHER_MARKS: Final = 8192
_MAX_RETRY_AFTER_DIGITS: Final = 9
_NO_NUMBERS: Final = "answered something else than lists of numbers"
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,40}")


class AnswerError(Exception):
    """The service's answer is not a set of vectors. The message continues "The service …"."""


class UnexpectedAnswerError(AnswerError):
    """The answer looks like that of another service or model: a setting is likely to be wrong."""


def too_large() -> AnswerError:
    """Return the error for an answer that is larger than vectors can be."""
    return AnswerError("answered far more than vectors")


def answer_limit(count: int, dimensions: int) -> int:
    """Return how many bytes an answer with ``count`` vectors may have."""
    return count * (dimensions * _NUMBER_BYTES + 256) + _REST_BYTES


def matrix_of(body: bytes, media_type: str, *, count: int, dimensions: int) -> Matrix:
    """Return the vectors of an answer, in the order of its indexes. Raises AnswerError."""
    # A body full of brackets or quotes takes fifty times its size when parsed. A normal one has few of them.
    if any(body.count(mark) > _OTHER_MARKS + _MARKS_PER_VECTOR * count for mark in (b"[", b"{", b'"')):
        raise too_large()
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        if media_type != "application/json":
            named = media_type if _MEDIA_TYPE.fullmatch(media_type) else "something else"
            raise UnexpectedAnswerError(
                f"answered {named} instead of JSON, is {PREFIX}EMBEDDING_URL right?"
            ) from error
        raise AnswerError("answered broken JSON") from error
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise UnexpectedAnswerError(f"answered JSON without vectors, is {PREFIX}EMBEDDING_URL right?")
    if len(data) != count:
        raise AnswerError(f"answered {len(data)} vectors for {count} texts")
    rows: dict[int, Vector] = {}
    for item in data:
        index, embedding = (
            (item.get("index"), item.get("embedding")) if isinstance(item, dict) else (None, None)
        )
        if type(index) is not int:
            raise AnswerError("answered vectors without indexes")
        if not 0 <= index < count or index in rows:
            raise AnswerError("answered vectors whose indexes are not those of the texts")
        rows[index] = _row(embedding, dimensions)
    return np.array([rows[index] for index in range(count)], dtype=np.float32)


def _row(embedding: Any, dimensions: int) -> Vector:
    """Return one vector, from a list of numbers or from base64 of little-endian 32-bit floats."""
    if isinstance(embedding, str):
        row = _decoded(embedding)
    elif isinstance(embedding, list) and {int, float}.issuperset(map(type, embedding)):
        row = _narrowed(embedding)
    else:
        raise AnswerError(_NO_NUMBERS)
    if len(row) != dimensions:
        raise UnexpectedAnswerError(
            f"answered vectors of {len(row)} numbers instead of {dimensions}, "
            f"is {PREFIX}EMBEDDING_DIMENSIONS right?"
        )
    return row


def _decoded(embedding: str) -> Vector:
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise AnswerError(_NO_NUMBERS) from error


def _narrowed(embedding: list[float]) -> Vector:
    try:
        # A number that does not fit in 32 bits becomes infinite, which affects only its own text.
        with np.errstate(over="ignore"):
            return np.array(embedding, dtype=np.float64).astype(np.float32)
    except OverflowError as error:
        raise AnswerError("answered numbers beyond all bounds") from error


def retry_after_seconds(value: str | None, date: str | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date; None if it is invalid.

    ``date`` is the answer's Date header. Two dates by the service's clock are compared, since that clock may
    be wrong.
    """
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:_MAX_RETRY_AFTER_DIGITS])
    moment = _http_date(value)
    if moment is None:
        return None
    return max(0.0, (moment - (_http_date(date) or datetime.now(UTC))).total_seconds())


def _http_date(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    # "-0000" means that the zone is unknown and the time is in UTC.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def explain(status: int, model: str) -> str:
    """Return the usual meaning of an unsuccessful status, as the end of "The service …"."""
    match status:
        case 400 | 413 | 422:
            return f"refuses the text ({status})"
        case 401 | 403:
            return f"refuses the key ({status}), is {PREFIX}EMBEDDING_API_KEY right?"
        case 404 | 405:
            return (
                f"has no such address or no model {model} ({status}), "
                f"are {PREFIX}EMBEDDING_URL and _MODEL right?"
            )
        case 429:
            return "received too many requests (429)"
        case _ if 300 <= status < 400:
            return f"redirects elsewhere ({status}), set {PREFIX}EMBEDDING_URL to the final address"
        case _:
            return f"answered with status {status}"
