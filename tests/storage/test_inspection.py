"""``migrate`` and the start inspect the server: each finding is named, with what to do."""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from datastorage.errors import (
    ConfigurationError,
    MissingRightsError,
    SchemaVersionError,
    WorkRefusedError,
)
from datastorage.query.filters import SearchMode
from datastorage.records.record import Table
from datastorage.records.vector import EmbeddingModel
from datastorage.storage import inspection, partitions, rights
from datastorage.storage.connection.database import Database
from datastorage.storage.migrate import migrate
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.rights import missing_rights
from datastorage.storage.schema import ARCHIVE, VECTORS, Chain
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive
from harness.objects import audit_record, record_of
from harness.postgres import PostgresServer, TestDatabase, connect
from tests.support.archive import searchable

_OBJECTS = """
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname::text FROM pg_class
    WHERE relnamespace = 'datastorage'::regnamespace AND relkind IN ('r', 'p', 'S') AND NOT relispartition
        AND relname !~ '^embeddings_[0-9]+'
    UNION SELECT 'FUNCTION', proname::text FROM pg_proc WHERE pronamespace = 'datastorage'::regnamespace
"""
_INDEXES = """
    SELECT c.relname::text AS "table", array_agg(a.attname::text ORDER BY k.place) AS columns
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
    WHERE c.relnamespace = 'datastorage'::regnamespace AND NOT c.relispartition AND NOT i.indisprimary
        AND NOT i.indisunique AND k.place <= i.indnkeyatts
    GROUP BY i.indexrelid, c.relname
"""

_TRIGGER = (
    "CREATE TRIGGER sneaky BEFORE UPDATE ON datastorage.embedding_texts FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
)


class OldServer:
    """A connection to a server that is too old: the wheel has none."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        rows = await self._connection.fetch(query, *arguments)
        return [{**row, "number": 150_009, "version": "15.9"} for row in rows]


@pytest.fixture
def role(common: TestDatabase) -> str:
    return urlsplit(common.service_url).username or ""


@pytest_asyncio.fixture
async def undone(common: TestDatabase) -> AsyncIterator[Any]:
    """A connection of the owner in a transaction that is rolled back."""
    connection = await connect(common.owner_url)
    changes = connection.transaction()
    await changes.start()
    yield connection
    await changes.rollback()
    await connection.close()


async def test_every_object_of_the_schema_is_on_the_list(undone: Any) -> None:
    """A migration that creates an object adds it to the list."""
    listed = {(item.kind, item.name) for chain in rights.NEEDED.values() for item in chain}
    found = {tuple(row) for row in await undone.fetch(_OBJECTS)}
    assert found - listed == {("SEQUENCE", "embedding_part_numbers"), ("FUNCTION", "pgvector_schema")}
    assert listed - found == {("SCHEMA", "datastorage"), ("EXTENSION", "vector")}


async def test_every_index_of_the_schema_is_on_the_list(undone: Any) -> None:
    listed = {
        (table, columns)
        for chain in inspection.INDEXES.values()
        for table, lists in chain.items()
        for columns in lists
    }
    assert {(row["table"], tuple(row["columns"])) for row in await undone.fetch(_INDEXES)} == listed


@pytest.mark.parametrize("chain", [ARCHIVE, VECTORS], ids=lambda chain: chain.name)
async def test_a_schema_as_it_was_made_is_accepted_without_a_word(
    database: Database, owner: Any, chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    await partitions.prepare(database)
    await VectorTables(database, EmbeddingModel("p", "n", 3)).model_id()
    await database.check_state(chain)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
    for group in (rights.SERVICE, rights.READER):
        assert await missing_rights(owner, chain, group, group=group) == []


@pytest.mark.parametrize(
    ("statement", "chain", "said"),
    [
        ("REVOKE INSERT ON datastorage.audit_records FROM datastorage_service", ARCHIVE,
         'role "{role}" may not INSERT into datastorage.audit_records: run \'datastorage migrate\' as the'),
        ("REVOKE USAGE ON SCHEMA datastorage FROM datastorage_service", ARCHIVE,
         'role "{role}" may not use the schema datastorage: run \'datastorage migrate\''),
        ("REVOKE ALL ON datastorage.schema_version FROM datastorage_service", ARCHIVE,
         "may not SELECT from datastorage.schema_version"),
        ("REVOKE USAGE ON SEQUENCE datastorage.storage_order FROM datastorage_service", ARCHIVE,
         "may not use the sequence datastorage.storage_order"),
        ("REVOKE SELECT ON SEQUENCE datastorage.storage_order FROM datastorage_service", ARCHIVE,
         "may not SELECT from datastorage.storage_order"),
        ("REVOKE DELETE ON datastorage.vector_outbox FROM datastorage_service", ARCHIVE,
         "may not DELETE from datastorage.vector_outbox"),
        ("REVOKE ALL ON FUNCTION datastorage.ensure_partitions FROM datastorage_service", ARCHIVE,
         "may not EXECUTE datastorage.ensure_partitions"),
        ("REVOKE datastorage_service FROM {role}", ARCHIVE, 'run GRANT datastorage_service TO "{role}"'),
        ("REVOKE INSERT ON datastorage.embeddings_1 FROM datastorage_service", VECTORS,
         "may not INSERT into datastorage.embeddings_1"),
        ("DROP FUNCTION datastorage.ensure_partitions", ARCHIVE,
         "the archive lacks datastorage.ensure_partitions: restore the schema"),
        ("DROP TABLE datastorage.embedding_texts", ARCHIVE, "the archive lacks datastorage.embedding_texts"),
        ("DROP SEQUENCE datastorage.storage_order CASCADE", ARCHIVE, "lacks datastorage.storage_order"),
        ("ALTER TABLE datastorage.action_traces DROP CONSTRAINT action_traces_pkey", ARCHIVE,
         "action_traces is missing, or has no primary key (uid, generation, created_at, spec_hash)"),
        ("DROP EXTENSION vector CASCADE", VECTORS, "this PostgreSQL has no pgvector"),
    ],
)  # fmt: skip
async def test_missing_rights_are_named_at_the_start_and_by_role(
    undone: Any, role: str, statement: str, chain: Chain, said: str
) -> None:
    await undone.execute("SELECT datastorage.ensure_embedding_model('p', 'n', 3)")
    await undone.execute(statement.format(role=role))
    await undone.execute(f"SET LOCAL ROLE {role}")
    with pytest.raises(ConfigurationError) as caught:
        await inspection.check_state(undone, chain)
    assert said.format(role=role) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP INDEX datastorage.audit_records_text_hash_created_at_idx", "audit_records (text_hash, "),
        (_TRIGGER, "trigger sneaky on datastorage.embedding_texts"),
        ("ALTER TABLE datastorage.action_traces ADD CONSTRAINT short CHECK (name < 'z')", "constraint short"),
        ("ALTER TABLE datastorage.audit_records ALTER COLUMN action SET NOT NULL", "NOT NULL of the column"),
        ("CREATE UNIQUE INDEX once ON datastorage.rejected_objects (name)", "unique index datastorage.once"),
        ("CREATE RULE nothing AS ON INSERT TO datastorage.embedding_texts DO INSTEAD NOTHING", "rule noth"),
        ("ALTER TABLE datastorage.audit_records ENABLE ROW LEVEL SECURITY", "row-level security"),
        ("ALTER TABLE datastorage.audit_records_y2031m01 ADD CONSTRAINT here CHECK (name <> '')",
         "constraint here on datastorage.audit_records_y2031m01"),
        ("ALTER FUNCTION datastorage.ensure_partitions OWNER TO datastorage_reader", "belong to several"),
    ],
)  # fmt: skip
async def test_an_added_object_is_a_warning(
    undone: Any, role: str, statement: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    await undone.execute("SELECT datastorage.ensure_partitions('2031-01-05Z')")
    await undone.execute(statement)
    await undone.execute(f"SET LOCAL ROLE {role}")
    await inspection.check_state(undone, ARCHIVE)
    assert said in "\n".join(record.getMessage() for record in caplog.records)


async def test_a_right_that_is_lost_while_running_is_named_and_waited_for(
    database: Database, owner: Any, role: str
) -> None:
    archive, record = Archive(database), record_of(audit_record())
    await archive.write([record])
    await owner.execute("REVOKE INSERT ON datastorage.audit_records FROM datastorage_service")
    with pytest.raises(
        MissingRightsError, match=f'role "{role}" may not INSERT into datastorage.audit_records'
    ):
        await archive.write([record])


async def test_a_lost_right_on_vectors_beside_the_records_is_named(
    cloned: TestDatabase, owner: Any, role: str
) -> None:
    """The database is the archive's, and the right is on a table of the vectors."""
    async with searchable(cloned) as archive:
        await archive.put(audit_record())
        tables = VectorTables(archive.store.database, archive.provider.model)
        lost = f"datastorage.embeddings_{await tables.model_id()}"
        await owner.execute(f"REVOKE INSERT, SELECT ON {lost} FROM datastorage_service")
        said = (
            f'role "{role}" may not INSERT into {lost}, SELECT from {lost}: '
            "run 'datastorage migrate' as the owner of the schema"
        )
        with pytest.raises(MissingRightsError) as caught:
            await tables.probe()
        assert str(caught.value).endswith(f"; {said}")
        with pytest.raises(MissingRightsError) as caught:
            await archive.ask.search("restart", mode=SearchMode.VECTOR)
        assert str(caught.value).endswith(f"; {said}")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "DROP SCHEMA datastorage CASCADE",
            (
                "the database has no datastorage schema for the archive yet: run 'datastorage migrate' as "
                "the owner role first; if there were records in it, restore them before that"
            ),
        ),
        (
            "DROP TABLE datastorage.audit_records",
            "the archive lacks datastorage.audit_records: restore the schema datastorage from a dump",
        ),
    ],
)
async def test_a_schema_that_is_lost_while_running_is_named_with_the_remedy(
    database: Database, owner: Any, statement: str, said: str
) -> None:
    archive, record = Archive(database), record_of(audit_record())
    await archive.write([record])
    await owner.execute(statement)
    with pytest.raises(WorkRefusedError) as caught:
        await archive.write([record])
    assert str(caught.value).endswith(f"; {said}")


async def test_a_missing_right_of_a_reader_is_named(cloned: TestDatabase, owner: Any, role: str) -> None:
    name = f"{role}_reader"
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE datastorage_reader")
    database = Database(cloned.service_url.replace(f"{role}:", f"{name}:").replace(
        f":{urlsplit(cloned.service_url).password}@", ":x@"), pool_size=1)  # fmt: skip
    try:
        await owner.execute("REVOKE SELECT ON datastorage.audit_records FROM datastorage_reader")
        with pytest.raises(MissingRightsError) as caught:
            await ArchiveReader(database).generations(frozenset(Table), str(uuid.uuid4()), 1)
        assert str(caught.value).endswith(
            f'role "{name}" may not SELECT from datastorage.audit_records: '
            "run 'datastorage migrate' as the owner of the schema"
        )
    finally:
        await database.close()
        await owner.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize(("encoding", "said"), [("LATIN1", "encoding LATIN1"), ("SQL_ASCII", None)])
async def test_a_database_that_can_not_hold_most_texts_is_refused(
    cloned: TestDatabase, owner: Any, encoding: str, said: str | None
) -> None:
    name = f"{cloned.name}_{encoding.lower()}"
    await owner.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    url = cloned.owner_url.replace(cloned.name, name)
    try:
        if said is None:
            await asyncio.to_thread(migrate, url)
        else:
            with pytest.raises(ConfigurationError, match=f"{said}.* ENCODING 'UTF8' TEMPLATE template0"):
                await asyncio.to_thread(migrate, url)
        database = Database(url, pool_size=1)
        if said is None:
            await database.check_state()
        else:
            with pytest.raises(ConfigurationError, match=said):
                await database.check_state()
        await database.close()
    finally:
        await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("chain", [ARCHIVE, VECTORS], ids=lambda chain: chain.name)
async def test_a_server_that_is_too_old_is_named(undone: Any, chain: Chain) -> None:
    with pytest.raises(ConfigurationError, match=r"15\.9 is too old, 16 is needed"):
        await inspection.check_state(cast("Any", OldServer(undone)), chain)


async def test_a_database_without_the_schema_says_so_before_it_speaks_of_rights(
    unmigrated: TestDatabase,
) -> None:
    database = Database(unmigrated.service_url, pool_size=1)
    with pytest.raises(SchemaVersionError, match="no datastorage schema for the archive yet"):
        await database.check_state()
    await database.close()


async def test_migrating_repeats_all_grants(cloned: TestDatabase, owner: Any, database: Database) -> None:
    await VectorTables(database, EmbeddingModel("p", "n", 3)).model_id()
    for group in (rights.SERVICE, rights.READER):
        await owner.execute(
            f"REVOKE ALL ON SCHEMA datastorage FROM {group};"
            f"REVOKE ALL ON ALL TABLES IN SCHEMA datastorage FROM {group};"
            f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA datastorage FROM {group};"
            f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA datastorage FROM {group}"
        )
    await owner.execute(
        "GRANT EXECUTE ON FUNCTION datastorage.seal_embeddings, datastorage.set_text_hashes TO PUBLIC"
    )
    for chain in (ARCHIVE, VECTORS):
        assert await asyncio.to_thread(migrate, cloned.owner_url, chain) == (chain.version, chain.version)
        await database.check_state(chain)
        for group in (rights.SERVICE, rights.READER):
            assert await missing_rights(owner, chain, group, group=group) == []


async def test_migrating_as_a_role_that_may_not_grant_names_the_owner(
    cloned: TestDatabase, owner: Any, role: str
) -> None:
    await owner.execute("REVOKE INSERT ON datastorage.audit_records FROM datastorage_service")
    await owner.execute(f"GRANT CREATE ON DATABASE {cloned.name} TO {role}")
    with pytest.raises(ConfigurationError, match=(
        r'role "datastorage_service" may not INSERT into datastorage.audit_records, and this role may not '
        r'grant it: datastorage.audit_records belongs to "\w+", which DATASTORAGE_DATABASE_OWNER_URL must'
    )):  # fmt: skip
        await asyncio.to_thread(migrate, cloned.service_url)


@pytest.fixture
def fresh_server() -> Iterator[PostgresServer]:
    """A server without the roles."""
    with PostgresServer() as server:
        yield server


async def _output(*command: str | Path, given: bytes | None = None) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return (await process.communicate(given))[0]


async def test_a_dump_that_was_restored_before_its_roles_were_made_serves_after_migrating(
    cloned: TestDatabase, fresh_server: PostgresServer
) -> None:
    async with searchable(cloned) as archive:
        await archive.put(audit_record({"message": "the disk is full"}))
    programs = fresh_server.programs
    dump = await _output(programs / "pg_dump", "--no-comments", cloned.owner_url)
    complaints = await _output(programs / "psql", fresh_server.owner_url, given=dump)
    assert b'role "datastorage_service" does not exist' in complaints
    admin = await connect(fresh_server.owner_url)
    await admin.execute("CREATE ROLE ds LOGIN PASSWORD 'pw'")
    service_url = fresh_server.owner_url.replace("postgres@", "ds:pw@")
    database = Database(service_url, pool_size=1)
    with pytest.raises(ConfigurationError, match='role "ds" may not use the schema datastorage'):
        await database.check_state()
    await database.close()
    for chain in (ARCHIVE, VECTORS):
        assert await asyncio.to_thread(migrate, fresh_server.owner_url, chain) == (
            chain.version,
            chain.version,
        )
    await admin.execute("GRANT datastorage_service TO ds")
    await admin.close()
    async with searchable(TestDatabase("postgres", fresh_server.owner_url, service_url)) as archive:
        for chain in (ARCHIVE, VECTORS):
            await archive.store.database.check_state(chain)
        assert len((await archive.ask.search("disk full", limit=1)).hits) == 1
        await archive.put(audit_record({"message": "a certificate expired"}))
        assert len((await archive.ask.list()).records) == 2
