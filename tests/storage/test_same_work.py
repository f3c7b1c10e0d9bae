"""A record of another namespace costs the same work as one that is not there: no time tells them apart."""

import base64
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from datastorage.assembly.queries import build_queries
from datastorage.errors import DataStorageError, InvalidQueryError
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.questions import ArchiveQueries
from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import Scope
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, identity_of, record_of
from harness.postgres import TestDatabase

OWN, OTHER = Scope("payments"), Scope("shop")
ORDER = 777_000_000  # a number that no other value contains
_SAVEPOINT = re.compile(r"__asyncpg_savepoint_\w+")  # the driver counts them
ABSENT = "75e49872-21d7-4f9c-9e0b-4fd87f01d022"

Question = Callable[[ArchiveQueries, str, str], Awaitable[Any]]


class Watched:
    """Questions over one connection, whose statements are noted."""

    def __init__(self, database: Database) -> None:
        self.ask = build_queries(database)
        self.statements: list[tuple[str, Any]] = []
        self._database = database

    async def watch(self) -> None:
        async with self._database.connection() as connection:
            connection.add_query_logger(self._note)

    async def _note(self, query: asyncpg.connection.LoggedQuery) -> None:
        text = _SAVEPOINT.sub("savepoint", query.query)
        self.statements.append((text, type(query.exception)))

    async def work(self, question: Question, uid: str, correlation: str) -> tuple[list[Any], Any]:
        """Return the statements that a question takes, and its answer or the type of its error."""
        self.statements.clear()
        answer: Any = None
        try:
            answer = await question(self.ask, uid, correlation)
        except DataStorageError as error:
            answer = str(error).replace(uid or "-", "UID")
        return list(self.statements), answer


@pytest_asyncio.fixture
async def watched(cloned: TestDatabase) -> AsyncIterator[Watched]:
    database = Database(cloned.service_url, pool_size=1)
    made = Watched(database)
    await made.watch()
    yield made
    await database.close()


QUESTIONS: dict[str, Question] = {
    "get": lambda ask, uid, _: ask.get(uid, scope=OWN),
    "get a generation": lambda ask, uid, _: ask.get(uid, 1, scope=OWN),
    "history": lambda ask, uid, _: ask.history(uid, scope=OWN),
    "timeline": lambda ask, _, correlation: ask.timeline(correlation, scope=OWN),
    "list": lambda ask, _, correlation: ask.list(Filter(correlation_id=correlation), scope=OWN),
    "search": lambda ask, _, correlation: ask.search(correlation, mode=SearchMode.TEXT, scope=OWN),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
async def test_a_record_of_another_namespace_takes_the_statements_of_none(
    watched: Watched, archive: Archive, question: Question
) -> None:
    theirs = [
        maker({**spec, "correlationID": "zebras"}, namespace="shop")
        for maker, spec in (
            (audit_record, {**AUDIT_SPEC, "message": "counted zebras"}),
            (action_trace, TRACE_SPEC),
        )
    ]
    own = audit_record({**AUDIT_SPEC, "correlationID": "quaggas", "message": "counted quaggas"})
    await archive.write([record_of(each) for each in (*theirs, own)])
    await watched.work(question, ABSENT, "okapis")  # prepares the statements
    there = await watched.work(question, identity_of(own)[0], "quaggas")
    nowhere = await watched.work(question, ABSENT, "okapis")
    assert there != nowhere, "the question finds what it may find"
    assert nowhere[0]
    for each in theirs:
        assert await watched.work(question, identity_of(each)[0], "zebras") == nowhere


async def test_a_page_token_names_nothing_but_the_last_record(
    watched: Watched, archive: Archive, owner: Any
) -> None:
    await owner.execute(f"SELECT setval('datastorage.storage_order', {ORDER})")
    bodies = [maker() for maker in (audit_record, action_trace) for _ in range(2)]
    await archive.write([record_of(each) for each in bodies])
    for page in (
        await watched.ask.list(limit=1, scope=OWN),
        await watched.ask.timeline("rr-2026-0042", limit=1, scope=OWN),
    ):
        assert page.cursor is not None
        content = base64.urlsafe_b64decode(page.cursor).decode()
        assert str(ORDER)[:6] not in content
        last = page.records[-1] if hasattr(page, "records") else page.entries[-1].record
        assert last.uid in content


async def test_a_forged_page_token_does_not_say_whether_a_record_exists(
    watched: Watched, archive: Archive
) -> None:
    own = [audit_record() for _ in range(3)]
    theirs = record_of(audit_record(namespace="shop"))
    await archive.write([*map(record_of, own), theirs])
    page = await watched.ask.list(limit=1, scope=OWN)
    assert page.cursor is not None
    values = json.loads(base64.urlsafe_b64decode(page.cursor))

    def forged(uid: str) -> str:
        changed = [*values]
        changed[2:6] = [uid, 1, theirs.key.created_at.isoformat(), theirs.key.spec_hash.hex()]
        return base64.urlsafe_b64encode(json.dumps(changed).encode()).decode()

    def following(token: str) -> Question:
        return lambda ask, _, __: ask.list(limit=1, scope=OWN, cursor=token)

    there = await watched.work(following(forged(theirs.key.uid)), "", "")
    nowhere = await watched.work(following(forged(str(uuid.uuid4()))), "", "")
    assert there == nowhere
    assert "the cursor is not one that a page returned" in there[1]
    _, found = await watched.work(following(page.cursor), "", "")
    assert len(found.records) == 1
    with pytest.raises(InvalidQueryError, match="another question"):
        await watched.ask.list(limit=1, scope=OTHER, cursor=page.cursor)
