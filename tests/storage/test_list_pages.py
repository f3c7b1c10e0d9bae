"""Lists with outlines: what the columns say, and contents only where they are asked for."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from datastorage.api.fields import parse_fields
from datastorage.query.filters import Filter
from datastorage.query.listedrecord import ListedRecord
from datastorage.records.record import Via
from datastorage.storage.criteria import Scope
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, action_trace, audit_record, record_of
from harness.postgres import TestDatabase
from tests.support.archive import SearchableArchive, searchable

_TARGET = {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api"}


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        yield made


async def all_pages(archive: SearchableArchive, limit: int, *, with_content: bool) -> list[ListedRecord]:
    items: list[ListedRecord] = []
    cursor = None
    for _ in range(50):
        page = await archive.ask.list_page(limit=limit, cursor=cursor, with_content=with_content)
        assert len(page.items) <= limit
        items += page.items
        cursor = page.cursor
        if cursor is None:
            return items
    raise AssertionError("the pages have no end")


@pytest.mark.oldest_postgres
async def test_an_outline_says_what_the_columns_say(archive: SearchableArchive) -> None:
    record = audit_record(
        {**AUDIT_SPEC, "severity": "critical", "resourceRef": _TARGET},
        creationTimestamp="2026-03-05T10:00:00Z",
    )
    trace = action_trace(
        {"correlationID": "rr-7", "actionType": "restart_pod", "targetRef": _TARGET,
         "alert": {"name": "A", "severity": "warning"}, "execution": {"status": "Executing"}},
        creationTimestamp="2026-03-05T11:00:00Z",
    )  # fmt: skip
    sent = replace(record_of(record), via=Via.API, recorded_by="robot")
    await Archive(archive.store.database).write([sent, record_of(trace)])
    full = (await archive.ask.list()).records
    page = await archive.ask.list_page()
    newest, first = (item.as_json() for item in page.items)
    for outline, stored in zip((newest, first), full, strict=True):
        same = {name: value for name, value in stored.as_json().items() if name not in {"record", "intact"}}
        assert {name: outline[name] for name in same} == same
    rest = ("correlationID", "type", "action", "phase", "severity", "target")
    target = {"kind": "Pod", "namespace": "shop", "name": "api"}
    assert [first[name] for name in rest] == [
        "rr-2026-0042", "Remediation", "restart-deployment", "Completed", "critical", target,
    ]  # fmt: skip
    assert [newest[name] for name in rest] == ["rr-7", None, "restart_pod", "Executing", "warning", target]
    assert (first["via"], first["recordedBy"], newest["recordedBy"]) == ("api", "robot", None)
    assert [item.record for item in page.items] == [None, None]


@pytest.mark.parametrize("with_content", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
async def test_pages_follow_each_other(
    archive: SearchableArchive,
    limit: int,
    with_content: bool,  # noqa: FBT001
) -> None:
    bodies = [
        (audit_record if number % 2 else action_trace)(creationTimestamp=f"2026-03-05T10:00:0{number // 3}Z")
        for number in range(7)
    ]
    await archive.put(*bodies, with_vectors=False)
    # With contents, large records make pages short.
    found = await all_pages(archive.limited(max_bytes=900), limit, with_content=with_content)
    expected = [record.uid for record in (await archive.ask.list()).records]
    assert [item.outline.place.key.uid for item in found] == expected
    assert [item.record is not None for item in found] == [with_content] * len(bodies)


async def test_a_page_of_outlines_continues_with_contents(archive: SearchableArchive) -> None:
    await archive.put(*(audit_record() for _ in range(3)), with_vectors=False)
    first = await archive.ask.list_page(limit=1)
    rest = await archive.ask.list_page(limit=5, cursor=first.cursor, with_content=True)
    assert len({item.outline.place.key.uid for item in (*first.items, *rest.items)}) == 3


async def test_contents_are_read_only_where_they_are_asked_for(
    archive: SearchableArchive, owner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await archive.put(audit_record(), with_vectors=False)
    await owner.execute("UPDATE datastorage.audit_records SET content = '\\x00'")
    [item] = (await archive.ask.list_page()).items
    assert item.as_json()["action"] == "restart-deployment"
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
    [item] = (await archive.ask.list_page(with_content=True)).items
    answer = parse_fields("record.spec.message").of(item)
    assert (answer["intact"], answer["record"]) == (False, None)


async def test_outlines_stay_within_the_scope(archive: SearchableArchive) -> None:
    await archive.put(audit_record(), audit_record(namespace="search"), with_vectors=False)
    for with_content in (False, True):
        page = await archive.ask.list_page(scope=Scope("search"), with_content=with_content)
        assert [item.outline.namespace for item in page.items] == ["search"]
        page = await archive.ask.list_page(Filter(namespace="search"), scope=Scope("payments"))
        assert page.items == ()
