"""The results of records that were to be stored, and the answers that are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from datastorage.api.answers import etag_of
from datastorage.api.openapi import JSON
from datastorage.api.problems import Problem
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.encoding import encoded
from datastorage.records.hashes import labelled
from datastorage.records.record import Record, StoredRecord, Via
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import AUDIT_RECORD


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the archive holds for a request. None of it ever changes."""

    namespace: str
    name: str
    uid: str
    created_at: str
    stored_at: str
    content_hash: bytes
    recorded_by: str | None
    via: Via

    def as_json(self) -> dict[str, Any]:
        """Return the receipt as JSON."""
        return {
            "kind": AUDIT_RECORD.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "generation": 1,
            "createdAt": self.created_at,
            "storedAt": self.stored_at,
            "contentHash": labelled(self.content_hash),
            "recordedBy": self.recorded_by,
            "via": str(self.via),
        }


@dataclass(frozen=True, slots=True)
class Accepted:
    """The custom resource that keeps a record until PostgreSQL is back."""

    namespace: str
    name: str

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "kind": AUDIT_RECORD.kind,
            "namespace": self.namespace,
            "name": self.name,
            "stored": False,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """One record's answer: its receipt, the custom resource that keeps it, or the problem with it."""

    receipt: Receipt | None = None
    is_new: bool = False
    accepted: Accepted | None = None
    """Never given for a record of a batch."""
    problem: Problem | None = None

    @property
    def status(self) -> HTTPStatus:
        """The status that this record alone would be answered with."""
        if self.problem is not None:
            return self.problem.status
        return HTTPStatus.CREATED if self.is_new else HTTPStatus.OK


def receipt(record: Record, stored: StoredRecord) -> Receipt:
    """Return the receipt for a record that was stored now."""
    return Receipt(
        record.namespace, record.name, record.key.uid, rfc3339(record.key.created_at),
        rfc3339(stored.stored_at), stored.content_hash, record.recorded_by, record.via,
    )  # fmt: skip


def receipt_of(earlier: ArchivedRecord) -> Receipt:
    """Return the receipt that an earlier request got."""
    return Receipt(
        earlier.namespace, earlier.name, earlier.uid, rfc3339(earlier.created_at), rfc3339(earlier.stored_at),
        earlier.content_hash, earlier.recorded_by, earlier.via,
    )  # fmt: skip


def answer(result: Result, path: str) -> Response:
    """Return the answer to a request with one record; ``path`` is that of the records of its type."""
    if result.accepted is not None:
        return _json(result.accepted.as_json(), HTTPStatus.ACCEPTED, {})
    if result.receipt is None:
        assert result.problem is not None
        return result.problem.response()
    receipt = result.receipt
    headers = {
        "Location": f"{path}/{receipt.uid}?namespace={receipt.namespace}",
        "ETag": etag_of(receipt.content_hash),
    }
    return _json(receipt.as_json(), result.status, headers)


def batch_answer(results: Sequence[Result]) -> Response:
    """Return the answer to a request with several records: the result of each."""
    items = [_item(index, result) for index, result in enumerate(results)]
    failed = sum(result.problem is not None for result in results)
    body = {"stored": len(results) - failed, "failed": failed, "items": items}
    return _json(body, HTTPStatus.MULTI_STATUS, {})


def nothing_stored(problems: Mapping[int, Problem]) -> Problem:
    """Return the problem with a batch that is stored as a whole or not at all, from those of its records."""
    first = min(problems)
    items = [_item(index, Result(problem=problem)) for index, problem in sorted(problems.items())]
    detail = f"nothing of the batch is stored; the record with index {first} fails: {problems[first].detail}"
    if len(problems) > 1:
        detail += f" (and {len(problems) - 1} more: see items)"
    passing = [each for each in problems.values() if each.status is HTTPStatus.SERVICE_UNAVAILABLE]
    if len(passing) == len(problems):  # the same request may succeed later
        return replace(passing[0], detail=detail, items=items)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "batch-not-stored", detail, items=items)


def _item(index: int, result: Result) -> dict[str, Any]:
    item: dict[str, Any] = {"index": index, "status": int(result.status)}
    if result.problem is not None:
        return {**item, "problem": result.problem.as_json()}
    assert result.receipt is not None
    return {**item, "record": result.receipt.as_json()}


def _json(value: Any, status: HTTPStatus, headers: Mapping[str, str]) -> Response:
    return Response(encoded(value), status_code=status, media_type=JSON, headers=dict(headers))
