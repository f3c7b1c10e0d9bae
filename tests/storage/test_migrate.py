"""The schema: created once, by whichever replica comes first, and checked at every start."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from datastorage.errors import ConfigurationError, SchemaVersionError, TransientError
from datastorage.storage import migrate as migrate_module
from datastorage.storage.connection.database import Database
from datastorage.storage.migrate import migrate
from datastorage.storage.schema import ARCHIVE, VECTORS, Chain
from harness.polling import eventually
from harness.postgres import PostgresServer, TestDatabase, TestDatabases, connect
from tests.support.migrating import migrating_to

_MIGRATE = "import sys; from datastorage.storage.migrate import migrate; print(*migrate(sys.argv[1]))"
_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
_END_WAITING = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
_TABLES = """
    SELECT array_agg(relname::text ORDER BY relname) FROM pg_class
    WHERE relnamespace = 'datastorage'::regnamespace AND relkind IN ('r', 'p')
"""
_NEWEST_TABLES = [
    "action_traces", "audit_records", "claims", "embedding_texts", "rejected_objects", "schema_version",
    "vector_outbox",
]  # fmt: skip

_INDEXES_OF_MARCH = """
    SELECT indexrelid FROM pg_index WHERE indrelid IN
        ('datastorage.audit_records_y2026m03'::regclass, 'datastorage.action_traces_y2026m03'::regclass)
    ORDER BY 1
"""
_REPLACED_OF_MARCH = f"""
    SELECT indexrelid FROM ({_INDEXES_OF_MARCH}) AS i
    WHERE pg_get_indexdef(indexrelid) LIKE '%(namespace, created_at)'
"""
_UNATTACHED = f"""
    SELECT count(*) FROM ({_INDEXES_OF_MARCH}) AS i
    WHERE NOT EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhrelid = i.indexrelid)
"""


async def _set_version(owner: Any, version: str) -> None:
    await owner.execute("UPDATE datastorage.schema_version SET version_num = $1", version)


def _scripts(chain: Chain) -> ScriptDirectory:
    folder = Path(migrate_module.__file__).with_name("migrations")
    config = Config()
    config.set_main_option("path_separator", "newline")
    config.set_main_option("script_location", str(folder))
    config.set_main_option("version_locations", str(folder / chain.name))
    return ScriptDirectory.from_config(config)


# The parts of models' vectors that have no index of the texts' numbers, or one that is of no use.
_PARTS_WITHOUT_NUMBERS = """
    SELECT h.inhrelid::regclass FROM pg_inherits AS h
    WHERE h.inhparent::regclass::text ~ '^datastorage.embeddings_[0-9]+$' AND h.inhparent IN (
            SELECT oid FROM pg_class WHERE relkind = 'p')
        AND NOT EXISTS (SELECT FROM pg_index AS x WHERE x.indrelid = h.inhrelid AND x.indisvalid
            AND pg_get_indexdef(x.indexrelid) LIKE '%get_byte(text_hash, 0)%get_byte(text_hash, 3)%')
"""


@pytest.mark.parametrize("chain", [ARCHIVE, VECTORS], ids=lambda chain: chain.name)
def test_the_version_constant_is_the_newest_migration(chain: Chain) -> None:
    assert _scripts(chain).get_heads() == [chain.version]


@pytest.mark.oldest_postgres
async def test_migrating_again_changes_nothing(unmigrated: TestDatabase) -> None:
    assert await asyncio.to_thread(migrate, unmigrated.owner_url) == (None, ARCHIVE.version)
    owner = await connect(unmigrated.owner_url)
    tables = await owner.fetchval(_TABLES)
    assert await asyncio.to_thread(migrate, unmigrated.owner_url) == (ARCHIVE.version, ARCHIVE.version)
    assert await owner.fetchval(_TABLES) == tables == _NEWEST_TABLES
    await owner.close()


@pytest.mark.oldest_postgres
async def test_a_schema_of_each_earlier_version_is_brought_up_to_date(
    unmigrated: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, *earlier = [script.revision for script in _scripts(ARCHIVE).walk_revisions()]
    assert (newest, earlier[-1]) == (ARCHIVE.version, "0001")
    for version in earlier:
        with migrating_to(version, monkeypatch):
            await asyncio.to_thread(migrate, unmigrated.owner_url)
        assert await asyncio.to_thread(migrate, unmigrated.owner_url) == (version, ARCHIVE.version)
        owner = await connect(unmigrated.owner_url)
        assert await owner.fetchval(_TABLES) == _NEWEST_TABLES
        await owner.execute("DROP SCHEMA datastorage CASCADE")
        await owner.close()


async def test_indexes_that_were_built_before_are_taken_over(
    unmigrated: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large archive need not wait for the migration, as the page about PostgreSQL says."""
    with migrating_to("0005", monkeypatch):
        await asyncio.to_thread(migrate, unmigrated.owner_url)
    owner = await connect(unmigrated.owner_url)
    await owner.execute("SELECT datastorage.ensure_partitions('2026-03-01Z')")
    made = len(await owner.fetch(_INDEXES_OF_MARCH))
    page = (Path(__file__).parents[2] / "docs/operations/postgresql.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"```sql\n(SELECT format\('CREATE INDEX .*?)\\gexec\n```", page, re.DOTALL)
    for (command,) in await owner.fetch(commands):
        await owner.execute(command)
    before = await owner.fetch(_INDEXES_OF_MARCH)
    replaced = await owner.fetch(_REPLACED_OF_MARCH)
    assert (len(before), len(replaced)) == (made + 12, 2)
    await asyncio.to_thread(migrate, unmigrated.owner_url)
    assert await owner.fetch(_INDEXES_OF_MARCH) == [each for each in before if each not in replaced]
    assert await owner.fetchval(_UNATTACHED) == 0
    await owner.close()


@pytest.mark.oldest_postgres
async def test_all_parts_of_a_models_vectors_have_the_index_of_the_newest_version(
    unmigrated: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those from before, new ones, and those that are merged of either."""
    with migrating_to("0001", monkeypatch):
        await asyncio.to_thread(migrate, unmigrated.owner_url, VECTORS)
    owner = await connect(unmigrated.owner_url)
    await owner.execute("SELECT datastorage.ensure_embedding_model('a', 'model', 3)")
    await _add_vectors(owner, part=1)
    assert await owner.fetchval("SELECT datastorage.seal_embeddings(1::smallint, 1)")
    assert len(await owner.fetch(_PARTS_WITHOUT_NUMBERS)) == 2
    await asyncio.to_thread(migrate, unmigrated.owner_url, VECTORS)
    assert await owner.fetch(_PARTS_WITHOUT_NUMBERS) == []
    await _add_vectors(owner, part=2)
    assert await owner.fetchval("SELECT datastorage.seal_embeddings(1::smallint, 1)")
    while await owner.fetchval("SELECT datastorage.index_embeddings(1::smallint, 64, 0, 2)"):
        assert await owner.fetch(_PARTS_WITHOUT_NUMBERS) == []
    assert await owner.fetchval("SELECT max(level) FROM datastorage.embedding_parts") == 1, "merged"
    await owner.execute("SELECT datastorage.ensure_embedding_model('another', 'model', 3)")
    assert await owner.fetch(_PARTS_WITHOUT_NUMBERS) == []
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embeddings_1") == 20
    await owner.close()


async def _add_vectors(owner: Any, *, part: int) -> None:
    await owner.execute(
        "INSERT INTO datastorage.embeddings_1 "
        "SELECT $1::int, sha256(format('%s %s', $1, n)::bytea), '[1, 2, 3]' "
        "FROM generate_series(1, 10) AS n",
        part,
    )


async def test_three_replicas_may_migrate_at_once(unmigrated: TestDatabase) -> None:
    owner, blocker = await connect(unmigrated.owner_url), await connect(unmigrated.owner_url)
    # Holds back the first one until all three have connected.
    await blocker.execute("BEGIN; CREATE SCHEMA datastorage")
    command = (sys.executable, "-c", _MIGRATE, unmigrated.owner_url)
    processes = [
        await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]

    async def all_wait() -> bool:
        waiting: int = await owner.fetchval(_WAITING)
        return waiting == len(processes)

    await eventually(all_wait, seconds=120)
    await blocker.execute("ROLLBACK")
    await blocker.close()
    await owner.close()
    answers = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    outputs = sorted(output.decode().strip() for output, _ in answers)
    # One made it, the others waited and found it.
    assert outputs == [f"{ARCHIVE.version} {ARCHIVE.version}"] * 2 + [f"None {ARCHIVE.version}"]


@pytest.mark.oldest_postgres
async def test_a_failed_migration_leaves_nothing_behind(unmigrated: TestDatabase) -> None:
    owner = await connect(unmigrated.owner_url)
    await owner.execute("CREATE SCHEMA datastorage; CREATE TABLE datastorage.rejected_objects ()")
    with pytest.raises(ConfigurationError, match=r"changed nothing: .*already exists"):
        await asyncio.to_thread(migrate, unmigrated.owner_url)
    tables = await owner.fetchval(_TABLES)
    assert tables == ["rejected_objects"]
    await owner.close()


async def test_a_newer_schema_is_left_alone(cloned: TestDatabase, owner: Any) -> None:
    await _set_version(owner, "9999")
    with pytest.raises(SchemaVersionError, match="9999, newer than version"):
        await asyncio.to_thread(migrate, cloned.owner_url)
    assert await owner.fetchval("SELECT version_num FROM datastorage.schema_version") == "9999"


@pytest.mark.oldest_postgres
async def test_the_service_role_cannot_migrate(unmigrated: TestDatabase) -> None:
    with pytest.raises(ConfigurationError, match="permission denied"):
        await asyncio.to_thread(migrate, unmigrated.service_url)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:hunter2@host/x",
        "postgresql://user:hunter2/x@host/x",
        "postgresql://user:hunter2@h/x?sslmode=y",
    ],
)
async def test_a_wrong_url_is_named_and_keeps_its_password_secret(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATASTORAGE_DATABASE_OWNER_URL") as caught:
        await asyncio.to_thread(migrate, url)
    assert "hunter2" not in str(caught.value)


async def test_migrating_an_absent_server_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match=r"PostgreSQL at 127\.0\.0\.1:1 can't be reached"):
        await asyncio.to_thread(migrate, "postgresql://someone:secret-word@127.0.0.1:1/name")


@pytest.mark.parametrize(
    "lock",
    [
        f"SELECT pg_advisory_lock({migrate_module._MIGRATION_LOCK})",
        "BEGIN; LOCK TABLE datastorage.audit_records",  # a script of a migration waits for it
    ],
    ids=["before", "within"],
)
async def test_a_server_that_ends_during_a_migration_is_a_transient_error(
    unmigrated: TestDatabase, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    with migrating_to("0005", monkeypatch):
        await asyncio.to_thread(migrate, unmigrated.owner_url)
    holder, watcher = await connect(unmigrated.owner_url), await connect(unmigrated.owner_url)
    await holder.execute(lock)
    migrating = asyncio.create_task(asyncio.to_thread(migrate, unmigrated.owner_url))

    async def waits() -> bool:
        return bool(await watcher.fetchval(_WAITING))

    await eventually(waits)
    await watcher.execute(_END_WAITING)
    with pytest.raises(TransientError, match="migration of the archive was interrupted, and can be repeated"):
        await migrating
    await holder.close()
    await watcher.close()
    assert await asyncio.to_thread(migrate, unmigrated.owner_url) == ("0005", ARCHIVE.version)


async def test_migrate_waits_for_a_server_that_is_not_there_yet(
    databases: TestDatabases, tmp_path: Path
) -> None:
    server = PostgresServer()
    elsewhere = await databases.empty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DATASTORAGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "datastorage", "migrate", "--wait", "200",
        env=environment | {
            "DATASTORAGE_SECRETS_DIR": str(tmp_path),
            "DATASTORAGE_DATABASE_OWNER_URL": server.owner_url,
            "DATASTORAGE_VECTOR_DATABASE_OWNER_URL": elsewhere.owner_url,
        },
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        first = await process.stderr.readline()
        assert first.startswith(b"Waiting for up to ")
        assert b"Connection refused" in first
        await asyncio.to_thread(server.start)
        printed, errors = await process.communicate()
        assert process.returncode == 0, errors
        assert printed.splitlines() == [
            f"{chain.name}: migrated from nothing to version {chain.version}".encode()
            for chain in (ARCHIVE, VECTORS)
        ]
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.to_thread(server.remove)
        await databases.drop(elsewhere)


@pytest.mark.oldest_postgres
async def test_the_service_accepts_its_own_schema(database: Database) -> None:
    await database.check_schema_version()


async def test_the_service_refuses_a_database_without_schema(unmigrated: TestDatabase) -> None:
    database = Database(unmigrated.service_url, pool_size=2)
    with pytest.raises(
        SchemaVersionError, match="no datastorage schema for the archive yet: run 'datastorage migrate'"
    ):
        await database.check_schema_version()
    await database.close()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("0000", f"at version 0000 and this program needs {ARCHIVE.version}: run 'datastorage migrate'"),
        (
            "9999",
            f"at version 9999, newer than version {ARCHIVE.version}, .*: run a newer version",
        ),
    ],
)
async def test_the_service_refuses_another_version(
    database: Database, owner: Any, version: str, message: str
) -> None:
    await _set_version(owner, version)
    with pytest.raises(SchemaVersionError, match=message):
        await database.check_schema_version()
