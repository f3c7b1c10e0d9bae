"""Answers with single records and timelines: which one is meant, and what a caller already has of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from harness.apidocument import check_documented
from harness.postgres import TestDatabase, TestDatabases
from tests.support.apiserved import Served, served
from tests.support.archive import searchable
from tests.support.background import in_background
from tests.support.clirecords import DISK, MEMORY, REPEATED, REPEATED_UID, TRACE, changed


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """Some records; the tests only read."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as archive:
            for body in (MEMORY, DISK, *TRACE, *REPEATED):
                await archive.put(body)
        return database

    return asyncio.run(fill())


@pytest.fixture(scope="module")
def api(filled: TestDatabase) -> Iterator[Served]:
    """The REST API of the archive."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[Served]:
        async with searchable(filled) as archive, served(archive.ask) as made:
            yield made

    with in_background(serving()) as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/query/actiontraces?kind=AuditRecord", "invalid-query"),
        ("/query/execution/{uid}?kind=ActionTrace", "invalid-query"),
        ("/query/records?kind=Pod", "invalid-query"),
        ("/query/records/by-name/memory", "invalid-parameter"),
        ("/query/records/by-name/memory?namespace=shop&generation=1", "invalid-parameter"),
        ("/query/records/by-name/history?namespace=shop", "not-found"),
        ("/query/actiontraces/by-name/memory?namespace=shop", "not-found"),
        ("/query/actiontraces/{uid}/history", "not-found"),
    ],
)
def test_a_kind_or_a_name_that_does_not_fit_is_refused(api: Served, path: str, code: str) -> None:
    answer = asyncio.run(api.send("GET", path.format(uid=MEMORY["metadata"]["uid"])))
    assert answer.json["code"] == code


def test_an_etag_of_a_repeated_uid_needs_a_namespace(api: Served) -> None:
    """Otherwise, 304 would say that the record is unchanged, and not which one."""
    path = f"/query/records/{REPEATED_UID}"
    for namespace in ("left", "right"):
        named = f"{path}?namespace={namespace}"
        etag = asyncio.run(api.send("GET", named)).headers["etag"]
        known = {"If-None-Match": etag}
        assert asyncio.run(api.send("GET", named, headers=known)).status == 304
        answer = asyncio.run(api.send("GET", path, headers=known))
        assert (answer.status, answer.json["code"]) == (400, "ambiguous-uid")
        assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ('"other", W/"a, b",{etag}', 304),
        ("*", 304),
        ("W/*", 200),
        ('"other"', 200),
        ("", 200),
    ],
)
def test_an_etag_is_compared_weakly(api: Served, given: str, status: int) -> None:
    path = f"/query/records/{MEMORY['metadata']['uid']}"
    etag = asyncio.run(api.send("GET", path)).headers["etag"]
    answer = asyncio.run(api.send("GET", path, headers={"If-None-Match": given.format(etag=etag)}))
    assert (answer.status, answer.headers["etag"]) == (status, etag)


def test_a_changed_record_is_not_the_same_as_before(api: Served, filled: TestDatabase) -> None:
    path = f"/query/records/{DISK['metadata']['uid']}"
    known = {"If-None-Match": asyncio.run(api.send("GET", path)).headers["etag"]}
    with changed(filled):
        answer = asyncio.run(api.send("GET", path, headers=known))
    assert (answer.status, answer.json["intact"]) == (200, False)
    assert asyncio.run(api.send("GET", path, headers=known)).status == 304


def test_a_timeline_has_the_fields_that_are_asked_for(api: Served) -> None:
    def entries(query: str = "") -> list[dict[str, Any]]:
        answer = asyncio.run(api.send("GET", f"/timeline/rr-7{query}"))
        check_documented("GET", "/api/v1/timeline/{correlationID}", answer)
        found: list[dict[str, Any]] = answer.json["items"]
        return found

    whole = entries()
    chosen = entries("?fields=record.kind,record.spec.action,record.spec.execution.status")
    assert [each.pop("record") for each in chosen] == [
        {"kind": "AuditRecord", "spec": {"action": "restart-deployment"}},
        {"kind": "ActionTrace", "spec": {"execution": {"status": "Executing"}}},
        {"kind": "ActionTrace", "spec": {"execution": {"status": "Failed"}}},
    ]
    assert chosen == entries("?fields=intact")
    assert chosen == [{name: each[name] for name in each if name != "record"} for each in whole]
    answer = asyncio.run(api.send("GET", "/timeline/rr-7?fields=record.spec.mesage"))
    assert (answer.status, answer.json["code"]) == (400, "invalid-query")
