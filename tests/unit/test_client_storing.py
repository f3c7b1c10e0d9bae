"""Records on their way to a server: how they are divided into requests, and what is sent again."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from yarl import URL

from datastorage.client.documents import Document
from datastorage.client.server import Server
from datastorage.client.storing import Pace, Result, Submission, store, submission_of
from datastorage.client.tokens import NoToken
from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    InvalidQueryError,
    NotAuthenticatedError,
    TransientError,
)
from tests.support.answering import Answering, answering

PACE = Pace(retry_seconds=60.0, first_pause_seconds=0.001, max_pause_seconds=0.01)
IMPATIENT = Pace(retry_seconds=0.0)


@pytest.fixture
async def remote() -> AsyncIterator[Answering]:
    async with answering() as opened:
        yield opened


def records(count: int, type_: str = "Execution", message: str = "") -> list[Submission]:
    spec = {"type": type_, "message": message}
    return [submission_of(Document(f"{type_} {n}", {"spec": spec}), "shop") for n in range(count)]


@asynccontextmanager
async def connected(remote: Answering) -> AsyncIterator[Server]:
    async with Server(URL(remote.url), NoToken("give a token")) as opened:
        yield opened


async def sent(remote: Answering, submissions: list[Submission], pace: Pace = PACE) -> list[Result]:
    async with connected(remote) as server:
        return [result async for result in store(server, submissions, pace)]


def stored(remote: Answering, *statuses: int) -> None:
    """Give each record of the next request a status."""
    items = [
        {"index": index, "status": status}
        | (
            {"record": {"name": "n"}}
            if status < 300
            else {"problem": {"code": "c", "detail": f"why {status}"}}
        )
        for index, status in enumerate(statuses)
    ]
    remote.say(207, {"items": items})


async def test_requests_are_divided_by_type_number_and_size(remote: Answering) -> None:
    several = [*records(3, "Execution"), *records(1, "Workflow"), *records(1, "Execution")]
    for statuses in ((201, 201), (201, 201), (201,)):
        stored(remote, *statuses)
    results = await sent(remote, several, Pace(records=2))
    assert [each.path for each in remote.requests] == ["/api/v1/store/execution"] * 2 + [
        "/api/v1/store/workflow"
    ]
    assert [len(each.records) for each in remote.requests] == [2, 2, 1]
    assert {result.status for result in results} == {201}
    assert len(results) == 5
    remote.requests.clear()
    remote.answers.clear()
    large = records(3, message="x" * 1000)
    stored(remote, 201)
    await sent(remote, large, Pace(bytes=2 * len(large[0].line) + 1))
    assert [len(each.body) for each in remote.requests] == [len(each.line) for each in large]


async def test_one_uid_is_not_twice_in_a_request(remote: Answering) -> None:
    [record] = records(1)
    stored(remote, 201)
    stored(remote, 200)
    results = await sent(remote, [record, record])
    assert [len(each.records) for each in remote.requests] == [1, 1]
    assert [result.status for result in results] == [201, 200]


async def test_what_a_busy_server_has_not_stored_is_sent_again_with_its_uid(remote: Answering) -> None:
    several = records(3)
    remote.problem(429, "too-many-requests", "later")
    remote.answers.append(ConnectionError())
    stored(remote, 201, 503, 400)
    stored(remote, 200)
    results = await sent(remote, several)
    assert [result.status for result in results] == [201, 200, 400]
    assert [result.reason for result in results] == ["", "", "why 400"]
    uids = [[each["metadata"]["uid"] for each in request.records] for request in remote.requests]
    everything = [each.uid for each in several]
    assert uids == [everything, everything, everything, [several[1].uid]]
    assert all(uuid.UUID(uid).version == 7 for uid in everything)


async def test_after_the_limit_the_reason_stays(remote: Answering) -> None:
    stored(remote, 201, 503)
    results = await sent(remote, records(2), IMPATIENT)
    assert [(result.status, result.is_stored) for result in results] == [(201, True), (503, False)]
    remote.answers.clear()
    remote.problem(503, "unavailable", "PostgreSQL is away", Retry_After="2")
    with pytest.raises(TransientError, match="PostgreSQL is away"):
        await sent(remote, records(2), IMPATIENT)


async def test_a_failure_after_the_first_request_keeps_its_results(remote: Answering) -> None:
    stored(remote, 201, 201)
    remote.problem(401, "not-authenticated", "the token has expired")
    results = await sent(remote, records(6), Pace(records=2))
    assert [result.status for result in results] == [201, 201, None, None, None, None]
    assert "the token has expired" in results[2].reason
    assert results[4].reason.startswith("not sent: ")
    assert len(remote.requests) == 2


async def test_a_failure_at_once_is_an_error(remote: Answering) -> None:
    remote.problem(401, "not-authenticated", "no credentials")
    with pytest.raises(NotAuthenticatedError, match="give a token"):
        await sent(remote, records(1))


async def test_an_atomic_batch_is_one_request(remote: Answering) -> None:
    stored(remote, 200, 201)
    async with connected(remote) as server:
        results = [each async for each in store(server, records(2), PACE, atomic=True)]
        assert [result.status for result in results] == [200, 201]
        assert [each.path for each in remote.requests] == ["/api/v1/store/execution?atomic=true"]
        [record] = records(1)
        for several in (records(3), [*records(1), *records(1, "Workflow")], [record, record]):
            with pytest.raises(InvalidQueryError, match="one request as a whole, and these records need 2"):
                await anext(store(server, several, Pace(records=2), atomic=True))
    assert len(remote.requests) == 1


async def test_a_refused_atomic_batch_names_the_records_at_fault(remote: Answering) -> None:
    remote.problem(503, "unavailable", "PostgreSQL is away")
    items = [{"index": 1, "status": 400, "problem": {"code": "c", "detail": "why"}}]
    remote.say(422, {"code": "batch-not-stored", "detail": "the batch", "items": items})
    async with connected(remote) as server:
        results = [each async for each in store(server, records(3), PACE, atomic=True)]
        assert [(result.status, result.reason) for result in results] == [
            (None, "not stored, because of others in the batch"),
            (400, "why"),
            (None, "not stored, because of others in the batch"),
        ]
        remote.answers.clear()
        remote.problem(422, "batch-not-stored", "PostgreSQL takes too long")
        with pytest.raises(DataStorageError, match="PostgreSQL takes too long"):
            await anext(store(server, records(3), PACE, atomic=True))
        remote.answers.clear()
        remote.say(422, 5)
        with pytest.raises(ConfigurationError, match="not as a Data Storage server does"):
            await anext(store(server, records(3), PACE, atomic=True))


async def test_each_reason_to_wait_is_reported(remote: Answering) -> None:
    remote.problem(503, "unavailable", "PostgreSQL is away")
    stored(remote, 503)
    stored(remote, 201)
    reasons: list[str] = []
    async with connected(remote) as server:
        results = [each async for each in store(server, records(1), PACE, on_wait=reasons.append)]
    assert results[0].is_stored
    assert len(reasons) == 2
    assert "PostgreSQL is away" in reasons[0]
    assert reasons[1] == "why 503"


@pytest.mark.parametrize(
    "items",
    [
        [{"index": 0, "status": 503, "problem": {"detail": "later"}}] * 2,
        [{"index": 1, "status": 201, "record": {}}, {"index": 0, "status": 201, "record": {}}],
        [{"index": 0, "status": 201, "record": {}}],
        [{"index": n, "status": 201, "record": {}} for n in range(3)],
        [{"index": 0, "status": 201, "record": {}}, {"index": -1, "status": 201, "record": {}}],
        [{"index": n, "status": float("inf"), "record": {}} for n in range(2)],
        [{"index": n, "status": 201, "record": "stored"} for n in range(2)],
        [{"index": n, "status": 400, "problem": "no"} for n in range(2)],
        ["stored", "stored"],
        5,
        None,
    ],
)
async def test_results_that_are_not_one_for_each_record_are_no_answer(remote: Answering, items: Any) -> None:
    """Two results for a record would send it twice the next time, then four times, without end."""
    remote.say(207, {"items": items})
    with pytest.raises(ConfigurationError, match="not as a Data Storage server does"):
        await sent(remote, records(2))
    assert len(remote.requests) == 1


@pytest.mark.parametrize("body", [["items"], "items", None, {"items": 5}, {"items": [{"index": 9}]}])
async def test_a_refusal_that_names_no_records_is_no_answer(remote: Answering, body: Any) -> None:
    remote.say(422, body)
    with pytest.raises(ConfigurationError, match="not as a Data Storage server does"):
        await sent(remote, records(2))
