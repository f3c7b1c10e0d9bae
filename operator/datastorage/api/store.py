"""POST /api/v1/store/{type}: stores records that come with a request.

A body is what ``kubectl create`` would take. It is checked by the same rules, and stored by the same
pipeline, but never becomes an object in the cluster.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from datastorage.api import operations
from datastorage.api.answers import etag_of
from datastorage.api.bodies import Bounds, Items, invalid, items_of
from datastorage.api.guard import Guard
from datastorage.api.offloop import run_apart
from datastorage.api.openapi import JSON
from datastorage.api.parameters import NoParameters, strict_router
from datastorage.api.problems import Problem, ProblemError, problem_of
from datastorage.api.room import Room
from datastorage.errors import DataStorageError, IdentifierReusedError, RecordRejectedError, TransientError
from datastorage.pipeline.item import Outcome, Rejection
from datastorage.pipeline.submissions import Unknown
from datastorage.query.archivedrecord import ArchivedRecord, encoded
from datastorage.records.caller import Caller
from datastorage.records.hashes import labelled
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import AUDIT_RECORD, AuditType
from datastorage.resources.reading.requestrecord import record_of_request
from datastorage.resources.validation.problems import Code, FieldProblem
from datastorage.resources.validation.verdict import verdict

PREFIX: Final = "/api/v1"
_MAX_KEY_CHARACTERS: Final = 255


class StoreType(StrEnum):
    """The last part of the path: the type of the records."""

    REMEDIATION = "remediation"
    AI_ANALYSIS = "aianalysis"
    WORKFLOW = "workflow"
    EXECUTION = "execution"

    @property
    def audit_type(self) -> AuditType:
        """The value of ``spec.type``."""
        return next(each for each in AuditType if each.lower() == self.value)


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
            "via": "api",
        }


class Submissions(Protocol):
    """Where records are stored (pipeline/submissions.py)."""

    async def store(self, records: Sequence[Record]) -> list[Outcome | Unknown]: ...


class Archive(Protocol):
    """Where the record of an earlier request is looked up (query/questions.py)."""

    async def of_key(self, key: RecordKey, table: Table) -> ArchivedRecord: ...


@dataclass(frozen=True)
class Entrance:
    """What the route needs."""

    guard: Guard
    submissions: Submissions
    archive: Archive
    with_texts: bool
    """Whether the records get vectors."""
    bounds: Bounds = field(default_factory=Bounds)

    @cached_property
    def room(self) -> Room:
        """The room for bodies of all requests."""
        return Room(self.bounds.bytes_at_once, "request_bytes")


def store_router(entrance: Entrance) -> APIRouter:
    """Return the routes that store records."""
    router = strict_router(PREFIX, "store")
    described = operations.store(records=entrance.bounds.items, body_bytes=entrance.bounds.body_bytes)

    @router.post("/store/{type}", status_code=HTTPStatus.CREATED, **described)
    async def store(
        type: StoreType,  # noqa: A002  # the word of the path
        request: Request,
        _: Annotated[NoParameters, Query()],
    ) -> Response:
        caller = await entrance.guard.caller_of(request.headers)
        with entrance.room.share() as take:
            items = await items_of(request, entrance.bounds, take)
            entrance.guard.charge(caller, len(items.bodies))
            key = _idempotency_key(request, is_batch=items.is_batch)
            results = await _store(entrance, caller, type.audit_type, items, key)
        return _batch_answer(results) if items.is_batch else _answer(results[0], type)

    return router


@dataclass(frozen=True, slots=True)
class _Result:
    """One record's answer: its receipt, or the problem with it."""

    receipt: Receipt | None = None
    is_new: bool = False
    problem: Problem | None = None

    @property
    def status(self) -> HTTPStatus:
        if self.problem is not None:
            return self.problem.status
        return HTTPStatus.CREATED if self.is_new else HTTPStatus.OK


async def _store(
    entrance: Entrance, caller: Caller, audit_type: AuditType, items: Items, key: str | None
) -> list[_Result]:
    """Store the records that can be stored; return the result of each, in order."""
    results: list[_Result | None] = [None] * len(items.bodies)
    rights = _Rights(entrance.guard, caller)
    checked = await run_apart(items.size, partial(_all_checked, audit_type, items.bodies))
    allowed: dict[int, Callable[[], Record]] = {}
    for place, body in enumerate(checked):
        try:
            if isinstance(body, DataStorageError):
                raise body
            namespace = body["metadata"]["namespace"]
            await rights.check(namespace)
            may_repeat = key is not None or body["metadata"].get("uid") is not None
            allowed[place] = partial(
                record_of_request,
                body,
                recorded_by=caller.username,
                idempotency_key=key,
                namespace_created_at=await entrance.guard.created_at(namespace) if may_repeat else None,
                with_text=entrance.with_texts,
            )
        except DataStorageError as error:
            results[place] = _Result(problem=problem_of(error))
    made = await run_apart(items.size, lambda: [make() for make in allowed.values()])
    records = dict(zip(allowed, made, strict=True))
    if records:
        outcomes = await entrance.submissions.store(list(records.values()))
        for (place, record), outcome in zip(records.items(), outcomes, strict=True):
            try:
                results[place] = await _result(entrance, record, outcome)
            except DataStorageError as error:  # the receipt of an earlier request can't be read now
                results[place] = _Result(problem=problem_of(error))
    return [result for result in results if result is not None]


def _all_checked(audit_type: AuditType, bodies: Sequence[Any]) -> list[Mapping[str, Any] | DataStorageError]:
    """Return each body as ``_checked`` does, or its error as a value."""
    found: list[Mapping[str, Any] | DataStorageError] = []
    for body in bodies:
        try:
            found.append(_checked(audit_type, body))
        except DataStorageError as error:
            found.append(error)
    return found


class _Rights:
    """The right to create, asked once for each namespace of a request."""

    def __init__(self, guard: Guard, caller: Caller) -> None:
        self._guard = guard
        self._caller = caller
        self._known: dict[str, DataStorageError | None] = {}

    async def check(self, namespace: str) -> None:
        if namespace not in self._known:
            self._known[namespace] = None
            try:
                await self._guard.check_store(self._caller, namespace)
            except DataStorageError as error:
                self._known[namespace] = error
        refusal = self._known[namespace]
        if refusal is not None:
            raise refusal


def _checked(audit_type: AuditType, body: Any) -> Mapping[str, Any]:
    """Return a body as the API server would serve it. Raises ProblemError for one that it would refuse."""
    if isinstance(body, Problem):  # a line that is not JSON
        raise ProblemError(body)
    spec = body.get("spec") if isinstance(body, dict) else None
    if isinstance(spec, dict):
        given = spec.get("type", audit_type)
        if given != audit_type:
            detail = f"must be {audit_type} or left out: the path says it"
            raise ProblemError(invalid([FieldProblem("/spec/type", detail, Code.NOT_ALLOWED)]))
        body = {**body, "spec": {**spec, "type": str(audit_type)}}
    decision = verdict(AUDIT_RECORD, body)
    problems = [*decision.problems, *_uid_problems(body)]
    if problems:
        raise ProblemError(invalid(problems))
    return {**body, "spec": decision.spec}


def _uid_problems(body: Any) -> Iterator[FieldProblem]:
    metadata = body.get("metadata") if isinstance(body, dict) else None
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if uid is not None and not _is_uuid(uid):
        yield FieldProblem("/metadata/uid", "must be a UUID, as in RFC 9562", Code.BAD_FORMAT)


def _is_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) == len(str(uuid.UUID(value)))
    except ValueError:
        return False


def _idempotency_key(request: Request, *, is_batch: bool) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if is_batch:
        raise ProblemError(
            Problem(
                HTTPStatus.BAD_REQUEST, "idempotency-key-of-batch",
                "Idempotency-Key is for a single record: give each record of a batch its own metadata.uid",
            )
        )  # fmt: skip
    if len(keys) > 1 or not 1 <= len(keys[0]) <= _MAX_KEY_CHARACTERS:
        raise ProblemError(
            Problem(
                HTTPStatus.BAD_REQUEST, "invalid-idempotency-key",
                f"Idempotency-Key must be given once, and have 1 to {_MAX_KEY_CHARACTERS} characters",
            )
        )  # fmt: skip
    return keys[0]


async def _result(entrance: Entrance, record: Record, outcome: Outcome | Unknown) -> _Result:
    if isinstance(outcome, Rejection):
        why = f"PostgreSQL can't hold the record ({outcome.reason}): it is kept among the rejected ones"
        return _Result(problem=problem_of(RecordRejectedError(why)))
    if isinstance(outcome, Unknown):
        return _Result(problem=problem_of(TransientError(outcome.reason)))
    if outcome.claimed is None:
        return _Result(_receipt(record, outcome), is_new=True)
    if outcome.claimed.same_request:
        return _Result(_receipt_of(await entrance.archive.of_key(outcome.claimed.key, record.table)))
    return _Result(
        problem=problem_of(
            IdentifierReusedError(
                "the identifier of this request (metadata.uid or Idempotency-Key) belongs to an earlier "
                "record with another content, or to one that was rejected: use a new one for a new record"
            )
        )
    )


def _receipt(record: Record, stored: StoredRecord) -> Receipt:
    return Receipt(
        record.namespace, record.name, record.key.uid, rfc3339(record.key.created_at),
        rfc3339(stored.stored_at), stored.content_hash, record.recorded_by,
    )  # fmt: skip


def _receipt_of(earlier: ArchivedRecord) -> Receipt:
    return Receipt(
        earlier.namespace, earlier.name, earlier.uid, rfc3339(earlier.created_at), rfc3339(earlier.stored_at),
        earlier.content_hash, earlier.recorded_by,
    )  # fmt: skip


def _answer(result: _Result, type_: StoreType) -> Response:
    if result.receipt is None:
        assert result.problem is not None
        return result.problem.response()
    receipt = result.receipt
    return _json(
        receipt.as_json(),
        result.status,
        {
            "Location": f"{PREFIX}/query/{type_}/{receipt.uid}?namespace={receipt.namespace}",
            "ETag": etag_of(receipt.content_hash),
        },
    )


def _batch_answer(results: Sequence[_Result]) -> Response:
    items = [
        {"index": index, "status": int(result.status)}
        | (
            {"record": result.receipt.as_json()}
            if result.receipt is not None
            else {"problem": result.problem.as_json() if result.problem is not None else None}
        )
        for index, result in enumerate(results)
    ]
    failed = sum(result.problem is not None for result in results)
    return _json(
        {"stored": len(results) - failed, "failed": failed, "items": items}, HTTPStatus.MULTI_STATUS, {}
    )


def _json(value: Any, status: HTTPStatus, headers: Mapping[str, str]) -> Response:
    return Response(encoded(value), status_code=status, media_type=JSON, headers=dict(headers))
