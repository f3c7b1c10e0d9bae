"""Two contents of one generation: both are listed, found and shown, and marked as two of one generation."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from datastorage.query.filters import SearchMode
from harness.objects import TRACE_SPEC, action_trace
from harness.postgres import TestDatabase
from tests.support.archive import SearchableArchive, searchable

Stored = list[tuple[int, str, bool]]


def told(records: Any) -> Stored:
    return [(r.generation, r.spec["model"]["reasoning"], r.diverged) for r in records]


def _generation(body: dict[str, Any], number: int, reasoning: str) -> dict[str, Any]:
    metadata = {**body["metadata"], "generation": number}
    return {**body, "metadata": metadata, "spec": {**body["spec"], "model": {"reasoning": reasoning}}}


FIRST = action_trace({**TRACE_SPEC, "model": {"reasoning": "queue grows"}}, name="trace")
HISTORY = (FIRST, _generation(FIRST, 2, "scaled workers"), _generation(FIRST, 3, "queue drained"))
# After the restore: another second generation, and its only one.
OTHER = _generation(FIRST, 2, "quota exceeded")


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        for body in (*HISTORY, OTHER):
            await made.put(body)
        yield made


async def test_a_list_has_the_newest_of_each_history(archive: SearchableArchive) -> None:
    page = await archive.ask.list()
    assert sorted(told(page.records)) == [(2, "quota exceeded", True), (3, "queue drained", False)]


@pytest.mark.parametrize("mode", SearchMode)
async def test_a_search_finds_both_contents(archive: SearchableArchive, mode: SearchMode) -> None:
    hits = [hit.record for hit in (await archive.ask.search("quota exceeded", mode=mode)).hits]
    assert told(hits)[0] == (2, "quota exceeded", True)
    assert (2, "scaled workers", False) not in told(hits), "of the other history only the newest"


async def test_a_timeline_has_every_content(archive: SearchableArchive) -> None:
    found = await archive.ask.timeline(TRACE_SPEC["correlationID"])
    assert sorted(told(entry.record for entry in found.entries)) == [
        (1, "queue grows", False),
        (2, "quota exceeded", True),
        (2, "scaled workers", False),
        (3, "queue drained", False),
    ]


async def test_a_history_has_every_content_the_last_stored_first(archive: SearchableArchive) -> None:
    uid = FIRST["metadata"]["uid"]
    history = await archive.ask.history(uid)
    assert told(history) == [
        (3, "queue drained", False), (2, "quota exceeded", True), (2, "scaled workers", False),
        (1, "queue grows", False),
    ]  # fmt: skip
    assert len({record.content_hash for record in history}) == 4
    assert (await archive.ask.get(uid, 2)).diverged
