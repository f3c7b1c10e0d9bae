"""Sends records to a server, in requests by type and of a size that it takes, again while it is busy.

Each record has a uid before its first request, so that a request which is sent again never stores a second
record, whatever became of the first.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from datastorage.client.documents import Document
from datastorage.client.problems import in_one_line, not_an_answer, retry_after
from datastorage.client.server import BUSY, Answer, Server
from datastorage.client.values import INTEGER, value_in
from datastorage.errors import DataStorageError, InvalidBodyError, InvalidQueryError, TransientError
from datastorage.query.encoding import encoded
from datastorage.resilience.backoff import Backoff
from datastorage.resources.kinds import AUDIT_RECORD, AuditType
from datastorage.resources.reading.requestrecord import uuid7

_NDJSON: Final = "application/x-ndjson"
_TYPES: Final = tuple(map(str, AuditType))
_STORED: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})
_OTHERS_AT_FAULT: Final = "not stored, because of others in the batch"


@dataclass(frozen=True, slots=True)
class Pace:
    """How large a request is, and for how long it is sent again."""

    records: int = 500
    """As many as the server takes."""
    bytes: int = 8 * 1024 * 1024
    """As many as the server takes."""
    retry_seconds: float = 60.0
    """A busy server is asked again for so long: it may be starting, or waiting for PostgreSQL."""
    first_pause_seconds: float = 0.5
    """Before the second try, if the server names no time. The pause doubles with each try."""
    max_pause_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Submission:
    """A record that is to be sent."""

    place: str
    """Its place in a file, for people."""
    type: str
    """The value of spec.type."""
    namespace: str
    name: str
    """Empty if the server makes one."""
    uid: str
    line: bytes = field(repr=False)
    """The record as JSON."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome for one record."""

    submission: Submission
    status: int | None
    """The HTTP status of this record alone; None if the server gave none."""
    receipt: Mapping[str, Any] | None
    """The archive's answer about the record, if it is stored."""
    reason: str = ""
    """Why it is not stored, for people."""
    problem: Mapping[str, Any] | None = None
    """The server's problem with the record, for programs."""

    @property
    def is_stored(self) -> bool:
        """Whether the server has taken the record."""
        return self.status in _STORED


def submission_of(document: Document, namespace: str | None) -> Submission:
    """Return a document as a record to send; ``namespace`` is that of a record that names none.

    Raises InvalidBodyError, which names the place, for one that can't be sent. The server checks the rest.
    """
    body, place = document.value, document.place
    if not isinstance(body, dict):
        raise InvalidBodyError(f"{place}: it must be an {AUDIT_RECORD.kind}, not a single value")
    kind = body.get("kind", AUDIT_RECORD.kind)
    if kind != AUDIT_RECORD.kind:
        raise InvalidBodyError(
            f"{place}: only {AUDIT_RECORD.kind}s can be sent, not {in_one_line(str(kind))[:50]!r}: "
            "create it in the cluster with kubectl"
        )
    spec, metadata = body.get("spec"), body.get("metadata") or {}
    if not isinstance(spec, dict) or not isinstance(metadata, dict):
        raise InvalidBodyError(f"{place}: metadata and spec must be objects")
    if spec.get("type") not in _TYPES:
        raise InvalidBodyError(f"{place}: spec.type must be one of {', '.join(_TYPES)}")
    metadata = {**metadata, "namespace": metadata.get("namespace") or namespace}
    if metadata["namespace"] is None:
        raise InvalidBodyError(f"{place}: metadata.namespace is missing: add it, or give --namespace")
    metadata["uid"] = metadata.get("uid") or str(uuid7())
    return Submission(
        place=place,
        type=spec["type"],
        namespace=str(metadata["namespace"]),
        name=str(metadata.get("name") or ""),
        uid=str(metadata["uid"]),
        line=encoded({**body, "metadata": metadata}),
    )


async def store(
    server: Server,
    submissions: Sequence[Submission],
    pace: Pace = Pace(),
    *,
    atomic: bool = False,
    on_wait: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Result]:
    """Send records; yield the result of each, in the order of their requests.

    With ``atomic``, all of them are stored or none. ``on_wait`` gets the reason before each pause after which
    the rest of a request is sent again.

    After a failure that concerns more than single records, the remaining ones are not sent. Raises
    DataStorageError if that happens before anything is stored, and InvalidQueryError if ``atomic`` records
    don't fit into one request.
    """
    batches = list(_batches(submissions, pace))
    if atomic and len(batches) > 1:
        raise InvalidQueryError(
            f"--atomic stores one request as a whole, and these records need {len(batches)}: give records of "
            f"one type, each with another uid, at most {pace.records:,} and {pace.bytes // 2**20} MiB"
        )
    failure: str | None = None
    is_first = True
    for batch in batches:
        if failure is not None:
            for each in batch:
                yield Result(each, None, None, f"not sent: {failure}")
            continue
        sending = _Sending(server, batch, pace, on_wait, atomic=atomic)
        try:
            await sending.run()
        except DataStorageError as error:
            if is_first and not sending.results:
                raise
            failure = str(error)
        is_first = False
        for each in batch:
            yield sending.results.get(each.uid) or Result(each, None, None, f"{failure}")


def _batches(submissions: Sequence[Submission], pace: Pace) -> Iterator[list[Submission]]:
    """Yield the records of each request: of one type, and with different uids."""
    for type_ in dict.fromkeys(each.type for each in submissions):
        batch: list[Submission] = []
        size = 0
        for each in submissions:
            if each.type != type_:
                continue
            is_full = len(batch) >= pace.records or size + len(each.line) + 1 > pace.bytes
            if batch and (is_full or any(each.uid == other.uid for other in batch)):
                yield batch
                batch, size = [], 0
            batch.append(each)
            size += len(each.line) + 1
        if batch:
            yield batch


class _Sending:
    """One batch, sent until each of its records has a result."""

    def __init__(
        self,
        server: Server,
        batch: Sequence[Submission],
        pace: Pace,
        on_wait: Callable[[str], None],
        *,
        atomic: bool,
    ) -> None:
        self._server = server
        self._on_wait = on_wait
        self._path = f"/api/v1/store/{batch[0].type.lower()}"
        self._query = {"atomic": "true"} if atomic else None
        self._pending = list(batch)
        self._pace = pace
        self.results: dict[str, Result] = {}

    async def run(self) -> None:
        """Send the batch. Raises DataStorageError if the request as a whole fails."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._pace.retry_seconds
        backoff = Backoff(self._pace.first_pause_seconds, self._pace.max_pause_seconds)
        while self._pending:
            pause: float | None = None
            busy: DataStorageError | None = None
            try:
                answer = await self._server.send(
                    "POST",
                    self._path,
                    query=self._query,
                    content=b"\n".join(each.line for each in self._pending),
                    content_type=_NDJSON,
                )
            except TransientError as error:  # perhaps it is stored; the uid makes another request harmless
                busy = error
            else:
                if answer.status in BUSY:
                    busy = await self._server.refusal(answer)
                elif answer.status == HTTPStatus.MULTI_STATUS:
                    self._take(answer)
                elif answer.status == HTTPStatus.UNPROCESSABLE_ENTITY and _names_records(answer.json):
                    self._take_refusal(answer)
                else:
                    raise await self._server.refusal(answer)
                pause = retry_after(answer.headers)
            pause = pause or backoff.next()
            if self._pending and loop.time() + pause > deadline:
                if busy is not None:
                    raise busy
                return  # the results say why
            if self._pending:
                self._on_wait(str(busy) if busy is not None else self.results[self._pending[0].uid].reason)
                await asyncio.sleep(pause)

    def _take(self, answer: Answer) -> None:
        """Note the results of an answer; leave the records pending that the server had no time for."""
        results = self._results_in(answer)
        # A record with two results would be sent twice the next time, then four times, and so on.
        if [result.submission for result in results] != self._pending:
            raise not_an_answer(answer.status)
        self.results.update({result.submission.uid: result for result in results})
        self._pending = [result.submission for result in results if result.status in BUSY]

    def _take_refusal(self, answer: Answer) -> None:
        """Note that nothing of the batch is stored; the answer has the records at fault."""
        results = self._results_in(answer)
        self.results = {each.uid: Result(each, None, None, _OTHERS_AT_FAULT) for each in self._pending}
        self.results.update({result.submission.uid: result for result in results})
        self._pending = []

    def _results_in(self, answer: Answer) -> list[Result]:
        pending = dict(enumerate(self._pending))
        try:
            return [_result(pending[item["index"]], item) for item in answer.json["items"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_an_answer(answer.status) from error


def _names_records(problem: Any) -> bool:
    return isinstance(problem, dict) and "items" in problem


def _result(submission: Submission, item: Mapping[str, Any]) -> Result:
    status, problem = value_in(item, "status", INTEGER), item.get("problem")
    if problem is None:
        return Result(submission, status, value_in(item, "record", (dict,)))
    return Result(submission, status, None, in_one_line(problem["detail"]), problem)
