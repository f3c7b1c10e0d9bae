"""Each error of a request has one status, one code and its headers, and no answer shows a secret."""

import json
import logging
from http import HTTPStatus
from typing import Annotated

import pytest
from fastapi import FastAPI, Query, Request
from fastapi.testclient import TestClient

from datastorage.api.conditions import SearchConditions
from datastorage.api.errorcodes import CODES
from datastorage.api.parameters import strict_router
from datastorage.api.problems import MEDIA_TYPE, Problem, ProblemError, handle_errors, problem_of
from datastorage.errors import (
    AmbiguousUidError,
    BodyTooLargeError,
    ClusterUnavailableError,
    DataStorageError,
    IdentifierReusedError,
    InvalidBodyError,
    InvalidQueryError,
    NotAllowedError,
    NotAuthenticatedError,
    OverloadedError,
    PoolExhaustedError,
    RecordNotFoundError,
    RecordRejectedError,
    TransientError,
)
from datastorage.resources.validation.problems import Code, FieldProblem

RETRY = {"Retry-After": "2"}
ERRORS = [
    (NotAuthenticatedError, 401, "not-authenticated", {"WWW-Authenticate": "Bearer"}),
    (NotAllowedError, 403, "not-allowed", {}),
    (RecordNotFoundError, 404, "not-found", {}),
    (BodyTooLargeError, 413, "body-too-large", {}),
    (InvalidBodyError, 400, "invalid-json", {}),
    (InvalidQueryError, 400, "invalid-query", {}),
    (AmbiguousUidError, 400, "ambiguous-uid", {}),
    (IdentifierReusedError, 422, "identifier-reused", {}),
    (RecordRejectedError, 422, "rejected", {}),
    (OverloadedError, 503, "overloaded", RETRY),
    (TransientError, 503, "unavailable", RETRY),
    (PoolExhaustedError, 503, "unavailable", RETRY),
    (ClusterUnavailableError, 503, "unavailable", RETRY),
]


@pytest.mark.parametrize(("error", "status", "code", "headers"), ERRORS)
def test_each_error_has_its_status_code_and_headers(
    error: type[DataStorageError], status: int, code: str, headers: dict[str, str]
) -> None:
    problem = problem_of(error("the reason"))
    assert (problem.status, problem.code, problem.headers) == (status, code, headers)
    assert problem.detail == "the reason"
    assert CODES[code].status == status
    response = problem.response()
    assert (response.status_code, response.media_type) == (status, MEDIA_TYPE)
    assert {name: response.headers[name] for name in headers} == headers
    assert json.loads(bytes(response.body)) == {
        "type": f"urn:kubernaut:datastorage:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": "the reason",
    }


def test_an_error_in_the_json_has_its_pointer() -> None:
    problem = problem_of(InvalidBodyError("is NaN", pointer="/spec/details"))
    assert problem.as_json()["errors"] == [
        {"pointer": "/spec/details", "code": "bad_format", "detail": "is NaN"}
    ]


def test_a_problem_that_was_raised_stays_as_it_is() -> None:
    problem = Problem(HTTPStatus.BAD_REQUEST, "no-records", "none", [FieldProblem("", "none", Code.REQUIRED)])
    assert problem_of(ProblemError(problem)) is problem


def test_an_unpaired_surrogate_does_not_break_the_answer() -> None:
    response = problem_of(InvalidQueryError("phase must not be \ud800")).response()
    assert json.loads(bytes(response.body))["detail"] == "phase must not be \ud800"


def test_an_unforeseen_error_of_ours_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        problem = problem_of(DataStorageError("a detail for the operator"))
    assert (problem.status, problem.code) == (500, "internal")
    assert "a detail" not in str(problem.as_json())
    assert caplog.records[-1].__dict__["error"] == "a detail for the operator"


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    handle_errors(app)

    @app.get("/number")
    async def number(wanted: int) -> int:
        return wanted

    @app.get("/own")
    async def own() -> None:
        raise OverloadedError("full")

    @app.get("/bug")
    async def bug() -> None:
        raise ValueError("a secret")

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/number?wanted=x", 400, "invalid-parameter"),
        ("GET", "/number", 400, "invalid-parameter"),
        ("GET", "/own", 503, "overloaded"),
        ("GET", "/none", 404, "not-found"),
        ("POST", "/own", 405, "method-not-allowed"),
        ("GET", "/bug", 500, "internal"),
    ],
)
def test_every_failure_is_answered_with_a_problem(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    assert answer.json()["code"] == code
    assert CODES[code].status == status
    assert "a secret" not in answer.text


def test_a_wrong_parameter_is_named(client: TestClient) -> None:
    [error] = client.get("/number?wanted=x").json()["errors"]
    assert (error["pointer"], error["code"]) == ("wanted", "bad_format")


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("", "q: must be given"),
        ("q=x&colour=red", "colour: is not known here: leave it out, or see /docs"),
        ("q=x&since=yesterday", "since: must be a time as in RFC 3339, such as 2026-03-05T10:20:30Z"),
        ("q=x&limit=0", "limit: must be greater than or equal to 1"),
        ("q=x&mode=magic", "mode: must be 'hybrid', 'vector' or 'text'"),
    ],
)
def test_a_wrong_parameter_is_described_in_our_words(query: str, detail: str) -> None:
    app = FastAPI()
    handle_errors(app)
    router = strict_router("query")

    @router.get("/semantic")
    async def search(request: Request, asked: Annotated[SearchConditions, Query()]) -> None:
        raise AssertionError(request, asked)

    app.include_router(router)
    answer = TestClient(app).get(f"/api/v1/semantic?{query}").json()
    assert answer["detail"] == detail


def test_another_method_is_answered_with_those_that_are_allowed(client: TestClient) -> None:
    assert client.post("/own").headers["allow"] == "GET"
