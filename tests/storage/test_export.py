"""Exports: every committed row once, in the order of storing, whatever commits meanwhile."""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from datastorage.errors import InvalidQueryError, TransientError
from datastorage.query.export import ArchiveExports, Export
from datastorage.query.filters import Filter
from datastorage.records.record import Record
from datastorage.storage import rows
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.export import ExportPace, ExportReader
from datastorage.storage.write import Archive
from harness.objects import action_trace, audit_record, record_of
from harness.postgres import TestDatabase

SMALL = ExportPace(page_rows=3, max_span=5, patience_seconds=60)
"""Many pages, and patience with whatever writes to the archive beside a test."""
IMPATIENT = replace(SMALL, patience_seconds=0.2)


@pytest.fixture
def exports(database: Database) -> ArchiveExports:
    return ArchiveExports(ExportReader(database, SMALL))


async def lines_of(export: Export) -> list[Any]:
    """Return the lines, after checking the last one."""
    pieces = [piece async for piece in export.pieces()]
    *lines, end = b"".join(pieces).splitlines(keepends=True)
    assert json.loads(end)["count"] == len(lines)
    assert json.loads(end)["linesHash"] == f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}"
    return [*map(json.loads, lines), json.loads(end)]


async def exported(exports: ArchiveExports, token: str | None = None, filter: Filter = Filter()) -> list[Any]:  # noqa: A002, B008
    return await lines_of(await exports.begin(filter, token=token))


def names(lines: Sequence[Any]) -> list[str]:
    return [line["name"] for line in lines[:-1]]


def records(*given: str) -> list[Record]:
    return [record_of(audit_record(name=name)) for name in given]


class Writer:
    """A transaction of the service that adds rows, and stays open until a test ends it."""

    def __init__(self, database: Database, added: Sequence[Record]) -> None:
        self._database = database
        self._added = added
        self._end = asyncio.Event()
        self._has_added = asyncio.Event()
        self._task = asyncio.create_task(self._write())
        self.is_undone = False

    async def _write(self) -> None:
        async with self._database.connection() as connection:
            opened = connection.transaction()
            await opened.start()
            for record in self._added:
                await rows.insert(connection, record.table, [record], texts={}, writes={}, model=None)
            self._has_added.set()
            await self._end.wait()
            await (opened.rollback() if self.is_undone else opened.commit())

    async def added(self) -> "Writer":
        """Return when the rows are added."""
        await self._has_added.wait()
        return self

    async def commit(self) -> None:
        self._end.set()
        await self._task

    async def undo(self) -> None:
        self.is_undone = True
        await self.commit()


class LookingReader(ExportReader):
    """A reader that says when it has looked for writers. Nothing outside shows that."""

    def __init__(self, database: Database, pace: ExportPace) -> None:
        super().__init__(database, pace)
        self.has_looked = asyncio.Event()

    async def _writers(self) -> set[str]:
        found = await super()._writers()
        self.has_looked.set()
        return found


@pytest_asyncio.fixture
async def writers(cloned: TestDatabase) -> AsyncIterator[Database]:
    made = Database(cloned.service_url, pool_size=10)
    async with made.connection() as connection:
        await connection.execute("SELECT datastorage.ensure_partitions('2026-03-05Z')")
    yield made
    await made.close()


async def test_an_empty_archive_has_an_end(exports: ArchiveExports) -> None:
    [end] = await exported(exports)
    assert (end["kind"], end["count"], end["position"]) == ("ExportEnd", 0, 0)
    assert await exported(exports, end["resumeToken"]) == [end]


@pytest.mark.oldest_postgres
async def test_all_rows_come_once_in_the_order_of_storing(archive: Archive, exports: ArchiveExports) -> None:
    trace = action_trace(name="trace", resourceVersion="200")
    later = {**trace, "metadata": {**trace["metadata"], "generation": 2}}
    stored = [*records(*(f"r{n}" for n in range(20))), record_of(trace), record_of(later)]
    for start in range(0, len(stored), 4):
        await archive.write(stored[start : start + 4])
    lines = await exported(exports)
    assert names(lines) == [record.name for record in stored]
    assert [line["generation"] for line in lines[-3:-1]] == [1, 2]
    positions = [line["position"] for line in lines]
    assert positions == sorted(positions)
    # A repeat adds no row.
    await archive.write(stored)
    assert names(await exported(exports)) == names(lines)


async def test_each_line_has_the_stored_bytes(archive: Archive, exports: ArchiveExports) -> None:
    spec = {
        **audit_record()["spec"],
        "details": {"text": ',"record":{"}}', "n": 2**70, "lone": "\udc00 ü\u2028"},
    }
    record = record_of(audit_record(spec, name="odd"))
    await archive.write([record])
    pieces = [piece async for piece in (await exports.begin()).pieces()]
    line, _ = b"".join(pieces).splitlines()
    content = line.partition(b',"record":')[2][:-1]
    assert content == record.content
    assert json.loads(line)["contentHash"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert json.loads(line)["intact"] is True


async def test_an_export_resumes_after_any_of_its_lines(archive: Archive, exports: ArchiveExports) -> None:
    await archive.write(records(*(f"r{n}" for n in range(12))))
    lines = await exported(exports)
    for place, line in enumerate(lines):
        assert names(await exported(exports, line["resumeToken"])) == names(lines)[place + 1 :]
    await archive.write(records("new"))
    assert names(await exported(exports, lines[-1]["resumeToken"])) == ["new"]


async def test_a_row_that_commits_late_is_waited_for(writers: Database) -> None:
    """Its position is before that of a row that was committed, exported and resumed from before."""
    exports = ArchiveExports(ExportReader(writers, IMPATIENT))
    late = await Writer(writers, records("late")).added()
    early = await Writer(writers, records("early")).added()
    # No row is committed yet, so nothing may be missed.
    end = (await exported(exports))[-1]
    await early.commit()
    with pytest.raises(TransientError, match="has been open for"):
        await exported(exports, end["resumeToken"])
    await late.commit()
    assert names(await exported(exports, end["resumeToken"])) == ["late", "early"]


async def test_an_export_goes_on_when_the_writers_have_ended(writers: Database) -> None:
    """Those that began later don't count, so that an export gets its turn under any load."""
    reader = LookingReader(writers, SMALL)
    exports = ArchiveExports(reader)
    late, undone = [await Writer(writers, records(name)).added() for name in ("late", "undone")]
    await (await Writer(writers, records("early")).added()).commit()
    begun = asyncio.create_task(exported(exports))
    await reader.has_looked.wait()
    later = await Writer(writers, records("later")).added()
    await late.commit()
    await undone.undo()
    assert names(await begun) == ["late", "early"]
    await later.commit()


async def test_a_savepoint_that_is_undone_leaves_no_doubt(writers: Database) -> None:
    exports = ArchiveExports(ExportReader(writers, SMALL))
    async with writers.connection() as connection, transaction(connection):
        opened = connection.transaction()
        await opened.start()
        [record] = records("undone")
        await rows.insert(connection, record.table, [record], texts={}, writes={}, model=None)
        await opened.rollback()
        await (await Writer(writers, records("kept")).added()).commit()
        assert names(await exported(exports)) == ["kept"]


async def test_the_union_of_resumed_exports_is_the_archive(writers: Database, owner: Any) -> None:
    """Ten writers commit in any order while one export after the other resumes, some of them broken off."""
    chance = random.Random(7)
    exports = ArchiveExports(ExportReader(writers, SMALL))
    found: list[str] = []
    token: str | None = None
    written = asyncio.Event()

    async def write(number: int) -> None:
        for batch in range(12):
            added = records(*(f"w{number}-{batch}-{place}" for place in range(chance.randrange(1, 5))))
            async with owners.connection() as connection, transaction(connection):
                for record in added:
                    await rows.insert(connection, record.table, [record], texts={}, writes={}, model=None)
                    await connection.execute("SELECT pg_sleep($1)", chance.choice([0.0, 0.0, 0.002, 0.02]))

    async def write_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(write(number))
        written.set()

    owners = writers
    writing = asyncio.create_task(write_all())
    is_last = False
    while not is_last:
        is_last = written.is_set()
        lines = [
            json.loads(line)
            async for piece in (await exports.begin(token=token)).pieces()
            for line in piece.splitlines()
        ]
        # Some exports break off: the next one goes on after any line of it.
        kept = lines if is_last else lines[: chance.randrange(len(lines) + 1)]
        found += [line["name"] for line in kept if line["kind"] != "ExportEnd"]
        token = kept[-1]["resumeToken"] if kept else token
    await writing
    stored = await owner.fetch("SELECT name FROM datastorage.audit_records ORDER BY stored_order")
    assert found == [row["name"] for row in stored]
    assert len(set(found)) == len(found) > 100


async def test_a_token_serves_for_its_conditions_alone(archive: Archive, exports: ArchiveExports) -> None:
    await archive.write(records("a"))
    token = (await exported(exports))[-1]["resumeToken"]
    for other in (Filter(namespace="payments"), Filter(kind="ActionTrace"), Filter(phase="Failed")):
        with pytest.raises(InvalidQueryError, match="not one of an export with these"):
            await exports.begin(other, token=token)
    with pytest.raises(InvalidQueryError, match="not one of an export with these"):
        await exports.begin(token="nonsense")


async def test_a_token_from_after_a_restored_backup_is_refused(
    archive: Archive, exports: ArchiveExports, owner: Any
) -> None:
    await archive.write(records("a", "b", "c"))
    token = (await exported(exports))[-1]["resumeToken"]
    await owner.execute("DELETE FROM datastorage.audit_records WHERE name <> 'a'")
    await owner.execute("SELECT setval('datastorage.storage_order', 1)")
    with pytest.raises(InvalidQueryError, match="restored from a backup"):
        await exports.begin(token=token)


async def test_a_token_stays_valid_when_the_newest_rows_are_deleted(
    archive: Archive, exports: ArchiveExports, owner: Any
) -> None:
    await archive.write(records("a", "b"))
    token = (await exported(exports))[-1]["resumeToken"]
    await owner.execute("DELETE FROM datastorage.audit_records")
    [end] = await exported(exports, token)
    await archive.write(records("c"))
    assert names(await exported(exports, end["resumeToken"])) == ["c"]


async def test_filters_choose_rows_and_large_ones_end_a_page(archive: Archive, database: Database) -> None:
    exports = ArchiveExports(ExportReader(database, ExportPace(page_rows=4, page_bytes=100, max_span=7)))
    kept = [record_of(audit_record(name=f"n{n}", namespace=f"ns{n % 3}")) for n in range(30)]
    await archive.write(kept)
    lines = await exported(exports, filter=Filter(namespace="ns1"))
    assert names(lines) == [f"n{n}" for n in range(1, 30, 3)]
    assert lines[-1]["position"] == (await exported(exports))[-1]["position"]


async def test_a_changed_record_is_exported_as_it_is_now(
    archive: Archive, exports: ArchiveExports, owner: Any
) -> None:
    await archive.write(records("a", "b", "c"))
    changed = b'{"two":\n"lines"}'
    await owner.execute("UPDATE datastorage.audit_records SET content = $1 WHERE name = 'b'", changed)
    # Its hash fits, but it would break the line.
    await owner.execute(
        "UPDATE datastorage.audit_records SET content = $1, content_hash = sha256($1) WHERE name = 'c'",
        changed,
    )
    export = await exports.begin()
    lines = await lines_of(export)
    assert [line["intact"] for line in lines[:-1]] == [True, False, False]
    assert export.changed == 2
    assert [line["record"] is None for line in lines[:-1]] == [False, True, True]
    assert {line["changedContent"] for line in lines[1:-1]} == {"eyJ0d28iOgoibGluZXMifQ=="}


async def test_a_failure_leaves_no_last_line(archive: Archive, database: Database, owner: Any) -> None:
    await archive.write(records(*(f"r{n}" for n in range(9))))
    export = await ArchiveExports(ExportReader(database, SMALL)).begin()
    pieces = export.pieces()
    found = await anext(pieces)
    await owner.execute("REVOKE SELECT ON datastorage.audit_records FROM datastorage_service")

    async def read_on() -> None:
        async for piece in pieces:
            assert b"ExportEnd" not in piece

    with pytest.raises(TransientError):
        await read_on()
    assert found.startswith(b'{"position":1,')
    assert not export.is_complete
