"""POST /api/v1/store/{type}: stores records that come with a request.

A body is what ``kubectl create`` would take. It is checked by the same rules, and stored by the same
pipeline. It becomes an object in the cluster only if PostgreSQL is away and that is allowed (fallback.py).
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property, partial
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from datastorage.api import operations
from datastorage.api.bodies import Items, RequestLimits, invalid, items_of
from datastorage.api.fallback import Fallback, accept, not_created
from datastorage.api.guard import Guard
from datastorage.api.offloop import run_apart
from datastorage.api.parameters import PREFIX, Strict, strict_router
from datastorage.api.problems import Problem, ProblemError, problem_of
from datastorage.api.results import (
    Accepted,
    Result,
    answer,
    batch_answer,
    nothing_stored,
    receipt,
    receipt_of,
)
from datastorage.api.room import Room
from datastorage.errors import (
    DataStorageError,
    GroupRefusedError,
    IdentifierReusedError,
    RecordRejectedError,
    StorageAwayError,
    TransientError,
)
from datastorage.logs import name_in_request
from datastorage.metrics import Limit
from datastorage.pipeline.item import Outcome, Rejection, log_fields
from datastorage.pipeline.submissions import Unknown
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.records.caller import Caller
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.resources.kinds import AUDIT_RECORD, AuditType
from datastorage.resources.reading.requestrecord import record_of_request
from datastorage.resources.validation.problems import Code, FieldProblem
from datastorage.resources.validation.verdict import verdict

_MAX_KEY_CHARACTERS: Final = 255
# Python's own reading takes other texts too, such as one with a sign, as another UUID than the client's.
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class StoreType(StrEnum):
    """The last part of the path: the type of the records."""

    REMEDIATION = "remediation"
    AI_ANALYSIS = "aianalysis"
    WORKFLOW = "workflow"
    EXECUTION = "execution"

    @property
    def audit_type(self) -> AuditType:
        """The value of ``spec.type``."""
        found = AuditType.of_path(self.value)
        assert found is not None
        return found


def _true_or_false(value: Any) -> Any:
    """Refuse the other words that would count as a truth value."""
    if value not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value


class StoreParameters(Strict):
    """How the records of a batch are stored."""

    atomic: Annotated[bool, BeforeValidator(_true_or_false)] = Field(
        default=False,
        description="Store all records of a batch or none. Without it, each record is stored or refused by "
        "itself.",
    )


class Submissions(Protocol):
    """Where records are stored (pipeline/submissions.py)."""

    async def store(self, records: Sequence[Record]) -> list[Outcome | Unknown]: ...
    async def store_whole(self, records: Sequence[Record]) -> list[StoredRecord]: ...


class Archive(Protocol):
    """Where the record of an earlier request is looked up (query/questions.py)."""

    async def of_key(self, key: RecordKey, table: Table) -> ArchivedRecord: ...


@dataclass(frozen=True)
class Entrance:
    """The things that the route needs."""

    guard: Guard
    submissions: Submissions
    archive: Archive
    with_texts: bool
    """Whether the records get vectors."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    fallback: Fallback | None = None
    """Where records are created as custom resources while PostgreSQL is away; None if they never are."""

    @cached_property
    def room(self) -> Room:
        """The room for bodies of all requests."""
        limits = self.limits
        return Room(limits.bytes_at_once, Limit.REQUEST_BYTES, reserved=limits.bytes_reserved)


def store_router(entrance: Entrance) -> APIRouter:
    """Return the routes that store records."""
    router = strict_router("store")
    described = operations.store(records=entrance.limits.items, body_bytes=entrance.limits.body_bytes)

    @router.post("/store/{type}", status_code=HTTPStatus.CREATED, **described)
    async def store(
        type: StoreType,  # noqa: A002  # the word of the path
        request: Request,
        asked: Annotated[StoreParameters, Query()],
    ) -> Response:
        caller = await entrance.guard.caller_of(request.headers)
        with entrance.room.share(caller.username) as take:
            items = await items_of(request, entrance.limits, take)
            entrance.guard.charge(caller, len(items.bodies))
            key = _idempotency_key(request, is_batch=items.is_batch)
            sent = _Request(entrance, caller, type.audit_type, items, key)
            if asked.atomic and items.is_batch:
                results = await sent.store_whole()
            else:
                results = await sent.store()
        path = f"{PREFIX}/query/{type}"
        await asyncio.sleep(0)  # the receipts of a large batch and their answer take some 10 ms each
        return batch_answer(results) if items.is_batch else answer(results[0], path)

    return router


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, with everything that is known of it."""

    entrance: Entrance
    caller: Caller
    audit_type: AuditType
    items: Items
    key: str | None

    async def store(self) -> list[Result]:
        """Store the records that can be stored; return the result of each, in order."""
        records, problems = await self._records()
        results = {place: Result(problem=problem) for place, problem in problems.items()}
        if records:
            try:
                outcomes = await self.entrance.submissions.store(list(records.values()))
            except StorageAwayError as away:
                return [Result(accepted=await self._accepted(away, records))]
            for (place, record), outcome in zip(records.items(), outcomes, strict=True):
                results[place] = await self._result(record, outcome)
        return [results[place] for place in sorted(results)]

    async def store_whole(self) -> list[Result]:
        """Store all records; return the result of each, in order. Raises ProblemError if one can't be stored;
        then none is.
        """
        records, problems = await self._records()
        if problems:
            raise ProblemError(nothing_stored(problems))
        try:
            stored = await self.entrance.submissions.store_whole(list(records.values()))
        except GroupRefusedError as error:
            if not error.errors:
                raise
            found = {place: problem_of(each) for place, each in error.errors.items()}
            raise ProblemError(nothing_stored(found)) from error
        except StorageAwayError as away:
            if self.entrance.fallback is None:
                raise
            raise not_created(away) from away
        # From here on everything is stored, so that a receipt that can't be read now fails alone.
        return [await self._result(record, row) for record, row in zip(records.values(), stored, strict=True)]

    async def _records(self) -> tuple[dict[int, Record], dict[int, Problem]]:
        """Return the records that may be stored, and the problems with the others, by their places."""
        rights = _Rights(self.entrance.guard, self.caller)
        size = self.items.size
        checked = await run_apart(size, partial(_all_checked, self.audit_type, self.items.bodies))
        problems: dict[int, Problem] = {}
        allowed: dict[int, Callable[[], Record]] = {}
        for place, body in enumerate(checked):
            try:
                if isinstance(body, DataStorageError):
                    raise body
                await rights.check(body["metadata"]["namespace"])
                allowed[place] = await self._maker(body, rights)
            except DataStorageError as error:
                problems[place] = problem_of(error)
        made = await run_apart(size, lambda: [make() for make in allowed.values()])
        if not self.items.is_batch:
            for record in made:
                name_in_request(log_fields(record))
        return dict(zip(allowed, made, strict=True)), problems

    async def _maker(self, body: Mapping[str, Any], rights: "_Rights") -> Callable[[], Record]:
        """Return the function that makes a body's record, with all that it needs."""
        may_repeat = self.key is not None or body["metadata"].get("uid") is not None
        created_at = await rights.created_at(body["metadata"]["namespace"]) if may_repeat else None
        return partial(
            record_of_request,
            body,
            recorded_by=self.caller.username,
            idempotency_key=self.key,
            namespace_created_at=created_at,
            with_text=self.entrance.with_texts,
        )

    async def _accepted(self, away: StorageAwayError, records: Mapping[int, Record]) -> Accepted:
        """Create the record as a custom resource. Raises an error if that is not possible."""
        if self.entrance.fallback is None:
            raise away
        if self.items.is_batch:
            raise not_created(away)
        (record,) = records.values()
        # Nothing is kept of the checked body until here, because hardly any request needs it again.
        check = partial(_checked, self.audit_type, self.items.bodies[0])
        body = await run_apart(self.items.size, check)
        return await accept(self.entrance.fallback, away, body, record)

    async def _result(self, record: Record, outcome: Outcome | Unknown) -> Result:
        try:
            return await _result(self.entrance.archive, record, outcome)
        except DataStorageError as error:  # the receipt of an earlier request can't be read now
            return Result(problem=problem_of(error))


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
    """The right to create, and the age of the namespace, asked for once for each namespace of a request."""

    def __init__(self, guard: Guard, caller: Caller) -> None:
        self._guard = guard
        self._caller = caller
        self._known: dict[str, DataStorageError | None] = {}
        self._created: dict[str, datetime | None] = {}

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

    async def created_at(self, namespace: str) -> datetime | None:
        if namespace not in self._created:
            self._created[namespace] = await self._guard.created_at(self._caller, namespace)
        return self._created[namespace]


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
    if uid is not None and not (isinstance(uid, str) and _UUID.fullmatch(uid)):
        yield FieldProblem("/metadata/uid", "must be a UUID, as in RFC 9562", Code.BAD_FORMAT)


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


async def _result(archive: Archive, record: Record, outcome: Outcome | Unknown) -> Result:
    if isinstance(outcome, Rejection):
        why = f"PostgreSQL can't hold the record ({outcome.reason}): it is kept among the rejected ones"
        raise RecordRejectedError(why)
    if isinstance(outcome, Unknown):
        raise TransientError(outcome.reason)
    if outcome.claimed is None:
        return Result(receipt(record, outcome), is_new=True)
    if outcome.claimed.same_request:
        try:
            earlier = await archive.of_key(outcome.claimed.key, record.table)
        except DataStorageError as error:
            raise TransientError(
                f"the record is stored by an earlier request, whose receipt can't be read now: {error}"
            ) from error
        return Result(receipt_of(earlier))
    raise IdentifierReusedError
