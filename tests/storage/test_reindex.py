"""Rows from before get all of their words; until then they are found by those that they have."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from datastorage.errors import MissingRightsError, TransientError
from datastorage.metrics import Dependency
from datastorage.pipeline.reindex import Pace, Reindex
from datastorage.query.filters import SearchMode
from datastorage.records.hashes import sha256
from datastorage.records.record import Record, RecordKey, Table
from datastorage.resilience.breaker import Breaker
from datastorage.settings import setting_names
from datastorage.storage import migrate as migrate_module
from datastorage.storage.connection.database import Database
from datastorage.storage.migrate import migrate
from datastorage.storage.schema import ARCHIVE
from datastorage.storage.searchwords import SearchWords
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from harness.polling import eventually
from harness.postgres import TestDatabase, TestDatabases, connect
from harness.strategies import action_trace_specs, audit_record_specs
from tests.support.archive import SearchableArchive, searchable
from tests.support.migrating import migrating_to

# Makes rows as a version before stored them: with the words of the message alone.
_MAKE_OLD = """
    UPDATE datastorage.{table} SET search = to_tsvector('english', coalesce(
        convert_from(content, 'UTF8')::json #>> '{{spec,message}}', '')), search_version = NULL
"""
# Everything but the two columns that may change; xmin shows that a row was not written again.
_EVIDENCE = """
    SELECT to_jsonb(r) - 'search' - 'search_version' AS row FROM datastorage.audit_records AS r
    UNION ALL SELECT to_jsonb(r) - 'search' - 'search_version' FROM datastorage.action_traces AS r ORDER BY 1
"""
_WORDS = """
    SELECT uid::text, tsvector_to_array(search), search_version, xmin::text FROM (
        SELECT uid, search, search_version, xmin FROM datastorage.audit_records
        UNION ALL SELECT uid, search, search_version, xmin FROM datastorage.action_traces) AS r
    ORDER BY 1
"""


@pytest_asyncio.fixture
async def owned(cloned: TestDatabase) -> AsyncIterator[Database]:
    made = Database(cloned.owner_url, pool_size=4)
    yield made
    await made.close()


async def _run(
    database: Database, words: type[SearchWords] = SearchWords, pace: Pace | None = None
) -> Reindex:
    store = words(database)
    breaker = Breaker(Dependency.POSTGRES, store.probe)
    work = Reindex(store, breaker, pace or Pace())
    try:
        await work.run()
    finally:
        await breaker.close()
    return work


def _records(count: int) -> list[Record]:
    said = [
        {**AUDIT_SPEC, "message": f"disk {n} is full", "details": {"shelf": f"s{n}"}} for n in range(count)
    ]
    traces = [{**TRACE_SPEC, "parameters": {"shelf": f"t{n}"}} for n in range(count)]
    return [*(record_of(audit_record(spec)) for spec in said), *(record_of(action_trace(s)) for s in traces)]


async def _make_old(owner: Any) -> None:
    for table in Table:
        await owner.execute(_MAKE_OLD.format(table=table))


async def _old(owner: Any) -> int:
    count: int = await owner.fetchval(
        "SELECT (SELECT count(*) FROM datastorage.audit_records WHERE search_version IS NULL) "
        "+ (SELECT count(*) FROM datastorage.action_traces WHERE search_version IS NULL)"
    )
    return count


@pytest.mark.oldest_postgres
async def test_old_rows_get_the_words_of_new_ones_and_keep_the_rest(
    archive: Archive, owned: Database, owner: Any
) -> None:
    records = _records(30)
    await archive.write(records)
    new = [row[:3] for row in await owner.fetch(_WORDS)]
    await _make_old(owner)
    evidence = await owner.fetch(_EVIDENCE)
    assert await SearchWords(owned).count_old() == 60
    done = await _run(owned, pace=Pace(page_rows=7, chunk_rows=3))
    assert (done.progress.done, done.progress.total, done.progress.changed) == (60, 60, 60)
    assert [row[:3] for row in await owner.fetch(_WORDS)] == new
    assert await owner.fetch(_EVIDENCE) == evidence
    assert await SearchWords(owned).count_old() == 0
    for record in records:
        found = await owner.fetchrow(
            f"SELECT content, content_hash FROM datastorage.{record.table} WHERE uid = $1", record.key.uid
        )
        assert found["content_hash"] == sha256(found["content"]) == record.content_hash


async def test_a_repeat_writes_nothing(archive: Archive, owned: Database, owner: Any) -> None:
    await archive.write(_records(5))
    await _make_old(owner)
    await _run(owned)
    before = await owner.fetch(_WORDS)
    again = await _run(owned)
    assert (again.progress.done, again.progress.changed) == (10, 0)
    assert await owner.fetch(_WORDS) == before


async def test_old_rows_are_found_by_their_old_words(
    cloned: TestDatabase, owned: Database, owner: Any
) -> None:
    async with searchable(cloned) as archive:
        await archive.put(
            audit_record(
                {**AUDIT_SPEC, "message": "the disk Ab12 is full", "details": {"shelf": "b77"}}, name="o"
            )
        )
        await _make_old(owner)
        assert await _found(archive, "disk Ab12") == ["o"]
        assert await _found(archive, '"disk Ab12"') == ["o"]
        assert await _found(archive, "shelf b77") == []
        await archive.put(audit_record({**AUDIT_SPEC, "details": {"shelf": "b77"}}, name="n"))
        assert await _found(archive, "shelf b77") == ["n"]
        await _run(owned)
        assert sorted(await _found(archive, "shelf b77")) == ["n", "o"]


async def _found(archive: SearchableArchive, question: str) -> list[str]:
    result = await archive.ask.search(question, mode=SearchMode.TEXT)
    return [hit.record.name for hit in result.hits]


async def test_a_run_that_is_stopped_goes_on_later(archive: Archive, owned: Database, owner: Any) -> None:
    class Stopping(SearchWords):
        writes = 0

        async def replace(self, table: Table, words: Sequence[tuple[RecordKey, str]]) -> int:
            changed = await super().replace(table, words)
            Stopping.writes += 1
            if Stopping.writes == 3:
                raise asyncio.CancelledError
            return changed

    await archive.write(_records(20))
    await _make_old(owner)
    with pytest.raises(asyncio.CancelledError):
        await _run(owned, Stopping, Pace(chunk_rows=4))
    assert await _old(owner) == 40 - 12
    rest = await _run(owned)
    assert (rest.progress.changed, await _old(owner)) == (40 - 12, 0)


async def test_a_transaction_is_small(archive: Archive, owned: Database, owner: Any) -> None:
    await archive.write(_records(20))
    await _make_old(owner)
    await _run(owned, pace=Pace(chunk_rows=4))
    sizes = await owner.fetch("SELECT count(*) FROM datastorage.audit_records GROUP BY xmin")
    assert [row[0] for row in sizes] == [4] * 5


async def test_rows_are_stored_meanwhile(archive: Archive, owned: Database, owner: Any) -> None:
    await archive.write(_records(20))
    await _make_old(owner)
    blocked, later = asyncio.Event(), _records(3)

    class Held(SearchWords):
        async def replace(self, table: Table, words: Sequence[tuple[RecordKey, str]]) -> int:
            blocked.set()
            await archive.write(later)
            return await super().replace(table, words)

    done = await _run(owned, Held)
    assert blocked.is_set()
    assert await _old(owner) == 0
    assert done.progress.changed == 40


async def _add_unreadable(owner: Any) -> str:
    """Add a row whose content is no JSON; return its uid."""
    uid = str(uuid.uuid4())
    await owner.execute(
        "INSERT INTO datastorage.audit_records (uid, generation, created_at, namespace, name, content, "
        "content_hash) VALUES ($1, 1, '2026-03-05Z', 'n', 'n', '{', sha256('{'))",
        uid,
    )
    return uid


async def test_only_what_a_run_has_changed_itself_is_counted(
    archive: Archive, owned: Database, owner: Any
) -> None:
    """Another run is quicker with some rows, and the retention of a month takes others."""
    runs: list[Reindex] = []

    class Slow(SearchWords):
        async def replace(self, table: Table, words: Sequence[tuple[RecordKey, str]]) -> int:
            if not runs:
                await owner.execute("DELETE FROM datastorage.audit_records WHERE uid = $1", words[0][0].uid)
                runs.append(await _run(owned))
            return await super().replace(table, words)

    await archive.write(_records(10))
    await _make_old(owner)
    done = await _run(owned, Slow, Pace(chunk_rows=4))
    assert (runs[0].progress.changed, done.progress.changed, await _old(owner)) == (19, 0, 0)


async def test_a_row_that_can_not_be_read_is_named_and_holds_up_none(
    archive: Archive, owned: Database, owner: Any
) -> None:
    await archive.write(_records(3))
    await _make_old(owner)
    bad = await _add_unreadable(owner)
    done = await _run(owned)
    assert (done.progress.changed, done.progress.skipped) == (6, 1)
    [named] = done.progress.skipped_named
    assert f"AuditRecord {bad}, generation 1" in named
    assert await _old(owner) == 1


async def test_a_run_waits_while_postgres_is_away(archive: Archive, owned: Database, owner: Any) -> None:
    class Away(SearchWords):
        is_away = True
        said: list[Mapping[str, str]] = []  # noqa: RUF012  # of this test

        async def replace(self, table: Table, words: Sequence[tuple[RecordKey, str]]) -> int:
            if Away.is_away:
                raise TransientError("it has gone away")
            return await super().replace(table, words)

        async def probe(self) -> None:
            Away.said.append(work.away())
            Away.is_away = False
            await super().probe()

    await archive.write(_records(3))
    await _make_old(owner)
    store = Away(owned)
    breaker = Breaker(Dependency.POSTGRES, store.probe)
    work = Reindex(store, breaker)
    await work.run()
    await breaker.close()
    assert (Away.said, work.away()) == ([{"PostgreSQL": "it has gone away"}], {})
    assert (work.progress.changed, work.progress.skipped) == (6, 0)
    assert await _old(owner) == 0


async def test_the_service_can_not_do_it(database: Database) -> None:
    with pytest.raises(MissingRightsError):
        await SearchWords(database).probe()


@given(st.lists(audit_record_specs(), max_size=3), st.lists(action_trace_specs(), max_size=3))
def test_any_old_row_gets_the_words_of_a_new_one(
    databases: TestDatabases, audits: list[Any], traces: list[Any]
) -> None:
    async def check() -> None:
        records = [
            *(record_of(audit_record(s)) for s in audits),
            *(record_of(action_trace(s)) for s in traces),
        ]
        service, owned = Database(shared.service_url, pool_size=2), Database(shared.owner_url, pool_size=2)
        owner = await connect(shared.owner_url)
        try:
            if records:
                await Archive(service).write(records)
            new = [row[:3] for row in await owner.fetch(_WORDS)]
            evidence = await owner.fetch(_EVIDENCE)
            await owner.execute("UPDATE datastorage.audit_records SET search = NULL, search_version = NULL")
            await owner.execute("UPDATE datastorage.action_traces SET search = NULL, search_version = NULL")
            await _run(owned)
            assert [row[:3] for row in await owner.fetch(_WORDS)] == new
            assert await owner.fetch(_EVIDENCE) == evidence
            await owner.execute("TRUNCATE datastorage.audit_records, datastorage.action_traces")
        finally:
            await owner.close()
            await owned.close()
            await service.close()

    shared = _shared(databases)
    asyncio.run(check())


_made: dict[int, TestDatabase] = {}


def _shared(databases: TestDatabases) -> TestDatabase:
    """Return one database for all examples."""
    if id(databases) not in _made:
        _made[id(databases)] = asyncio.run(databases.clone())
    return _made[id(databases)]


@pytest.mark.oldest_postgres
async def test_the_migration_rewrites_no_table_and_the_older_program_can_store(
    unmigrated: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (
        "SELECT relname, relfilenode FROM pg_class "
        "WHERE relname ~ '^(audit_records|action_traces)' AND relkind IN ('r', 'p') ORDER BY 1"
    )
    add = (
        "INSERT INTO datastorage.audit_records (uid, generation, created_at, namespace, name, content, "
        "content_hash) "
        "VALUES (gen_random_uuid(), 1, '2026-03-05Z', 'n', 'n', '{}', sha256('{}'))"
    )
    with migrating_to("0007", monkeypatch):
        await asyncio.to_thread(migrate, unmigrated.owner_url)
    owner = await connect(unmigrated.owner_url)
    await owner.execute("SELECT datastorage.ensure_partitions('2026-03-05Z')")
    await owner.execute(add)
    before = await owner.fetch(files)
    await asyncio.to_thread(migrate, unmigrated.owner_url)
    assert await owner.fetch(files) == before
    service = await connect(unmigrated.service_url)
    await service.execute(add)
    versions = await owner.fetch("SELECT search_version FROM datastorage.audit_records")
    assert [row[0] for row in versions] == [None, None]
    await service.close()
    await owner.close()


def test_the_migration_only_adds_columns() -> None:
    folder = Path(migrate_module.__file__).with_name("migrations") / ARCHIVE.name
    sql = (folder / "0008_all_words.sql").read_text(encoding="utf-8")
    statements = [line for line in sql.splitlines() if line and not line.startswith("--")]
    assert len(statements) == len(Table)
    assert all(line.endswith("ADD COLUMN search_version smallint;") for line in statements)


# The command, as a process of its own


@pytest.fixture
def environment(cloned: TestDatabase, tmp_path: Path) -> dict[str, str]:
    """Variables of the process, without settings of the machine."""
    ours = set(setting_names())
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {
        "DATASTORAGE_SECRETS_DIR": str(tmp_path / "absent"),
        "DATASTORAGE_DATABASE_OWNER_URL": cloned.owner_url,
        "COLUMNS": "100",
    }


async def _command(environment: Mapping[str, str], *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "datastorage", "reindex", *arguments, env=dict(environment),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command_counts_then_does_then_finds_nothing(
    environment: Mapping[str, str], archive: Archive, owner: Any
) -> None:
    await archive.write(_records(3))
    await _make_old(owner)
    assert await _command(environment, "--dry-run") == (0, "records that lack words: 6\n", "")
    assert await _old(owner) == 6
    code, out, err = await _command(environment)
    assert (code, out) == (0, "records given all of their words: 6\n")
    assert "records: 6 of 6" in err
    code, out, _ = await _command(environment)
    assert (code, out) == (0, "records given all of their words: 0\n")
    assert await _command(environment, "--dry-run") == (0, "records that lack words: 0\n", "")


async def test_the_command_refuses_the_service_role(
    environment: Mapping[str, str], cloned: TestDatabase
) -> None:
    code, _, err = await _command({**environment, "DATASTORAGE_DATABASE_OWNER_URL": cloned.service_url})
    assert code == 2
    assert "run this as the role that owns the schema" in err
    without = {name: value for name, value in environment.items() if name != "DATASTORAGE_DATABASE_OWNER_URL"}
    code, _, err = await _command(without)
    assert (code, "DATASTORAGE_DATABASE_OWNER_URL is not set" in err) == (2, True)


async def test_the_command_names_what_it_leaves_as_it_is(
    environment: Mapping[str, str], archive: Archive, owner: Any
) -> None:
    await archive.write(_records(3))
    await _make_old(owner)
    bad = await _add_unreadable(owner)
    code, out, err = await _command(environment)
    assert (code, out) == (1, "records given all of their words: 6\n")
    assert "records left as they are: 1:" in err
    assert bad in err


async def test_the_command_can_be_stopped(
    environment: Mapping[str, str], archive: Archive, owner: Any, cloned: TestDatabase
) -> None:
    await archive.write(_records(3))
    await _make_old(owner)
    blocker = await connect(cloned.owner_url)
    await blocker.execute("BEGIN; SELECT FROM datastorage.audit_records FOR UPDATE")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "datastorage", "reindex", env=dict(environment),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def waits() -> bool:
        found: bool = await owner.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return found

    await eventually(waits)
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert process.returncode == 143
    assert "run the same command again to continue" in err.decode()
    await blocker.execute("ROLLBACK")
    await blocker.close()
    assert (await _command(environment))[:2] == (0, "records given all of their words: 6\n")
