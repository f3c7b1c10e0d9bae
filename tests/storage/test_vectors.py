"""Vectors of one model: one per text, of the right width, separate from other models, in any schema."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import asyncpg
import numpy as np
import pgvector
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from datastorage.errors import TransientError
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.storage.connection.database import Database, Pace
from datastorage.storage.connection.sessions import NoVectorsError, Session
from datastorage.storage.migrate import migrate
from datastorage.storage.schema import ARCHIVE, VECTORS
from datastorage.storage.vectors import VectorTables
from harness.polling import DEADLINE_SECONDS, eventually
from harness.postgres import TestDatabase, connect

WIDTH = 3


def tables_of(
    database: Database,
    name: str = "small",
    dimensions: int = WIDTH,
    *,
    write_seconds: float = DEADLINE_SECONDS,
) -> VectorTables:
    return VectorTables(database, EmbeddingModel("test", name, dimensions), write_seconds=write_seconds)


def hash_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def some_vectors(numbers: range, dimensions: int = WIDTH, seed: int = 0) -> dict[bytes, Vector]:
    random = np.random.default_rng(seed)
    return {hash_of(n): random.normal(size=dimensions).astype(np.float32) for n in numbers}


async def stored(owner: Any, number: int = 1) -> dict[bytes, str]:
    rows = await owner.fetch(f"SELECT text_hash, embedding::text AS v FROM datastorage.embeddings_{number}")
    assert len({row["text_hash"] for row in rows}) == len(rows)
    return {row["text_hash"]: row["v"] for row in rows}


@pytest.fixture
def vectors(database: Database) -> VectorTables:
    return tables_of(database)


@pytest_asyncio.fixture
async def lone(common: TestDatabase) -> AsyncIterator[Callable[[], VectorTables]]:
    """Makes models in the shared database that no other test uses."""
    database = Database(common.service_url, pool_size=4, chain=VECTORS)
    yield lambda: tables_of(database, secrets.token_hex(8))
    await database.close()


@pytest.mark.oldest_postgres
async def test_written_vectors_exist(vectors: VectorTables, owner: Any) -> None:
    given_ = some_vectors(range(5))
    await vectors.insert(given_)
    assert await vectors.existing([*given_, hash_of(99)]) == set(given_)
    found = await stored(owner)
    for key, vector in given_.items():
        assert np.array_equal(np.array(found[key].strip("[]").split(","), dtype=np.float32), vector)


async def test_the_first_vector_of_a_text_stays(vectors: VectorTables, owner: Any) -> None:
    await vectors.insert(some_vectors(range(3)))
    before = await stored(owner)
    await vectors.insert(some_vectors(range(6), seed=1))
    after = await stored(owner)
    assert len(after) == 6
    assert before.items() <= after.items()


async def test_a_text_has_one_vector_over_all_parts(vectors: VectorTables, owner: Any) -> None:
    await vectors.insert(some_vectors(range(3)))
    assert await vectors.seal(full_rows=3)
    await vectors.insert(some_vectors(range(5), seed=1))
    assert len(await stored(owner)) == 5


async def test_looking_makes_no_tables(vectors: VectorTables, owner: Any) -> None:
    assert await vectors.known_id() is None
    assert await vectors.existing([hash_of(0)]) == set()
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_models") == 0
    number = await vectors.model_id()
    assert await vectors.known_id() == number


@pytest.mark.oldest_postgres
async def test_models_never_mix(database: Database, owner: Any) -> None:
    models = [tables_of(database), tables_of(database, "other"), tables_of(database, dimensions=WIDTH + 1)]
    widths = [WIDTH, WIDTH, WIDTH + 1]
    for number, (model, width) in enumerate(zip(models, widths, strict=True)):
        await model.insert(some_vectors(range(number, 4), width, seed=number))
    numbers = [await model.model_id() for model in models]
    assert len(set(numbers)) == 3
    for number, (model, width) in enumerate(zip(models, widths, strict=True)):
        assert await model.existing(list(some_vectors(range(4)))) == set(some_vectors(range(number, 4)))
        expected = some_vectors(range(number, 4), width, seed=number)
        for key, text in (await stored(owner, numbers[number])).items():
            assert np.array_equal(np.array(text.strip("[]").split(","), np.float32), expected[key])


async def test_a_model_is_made_once_by_many(common: TestDatabase) -> None:
    name = secrets.token_hex(8)
    pools = [Database(common.service_url, pool_size=4, chain=VECTORS) for _ in range(4)]
    numbers = await asyncio.gather(*(tables_of(pool, name).model_id() for pool in pools for _ in range(3)))
    assert len(set(numbers)) == 1
    for pool in pools:
        await pool.close()


async def test_a_vector_of_another_width_is_refused(vectors: VectorTables, database: Database) -> None:
    await vectors.model_id()
    with pytest.raises(TransientError, match=f"expected {WIDTH} dimensions"):
        await vectors.insert(some_vectors(range(2), WIDTH + 1))
    async with database.connection() as connection, connection.transaction():
        with pytest.raises(TransientError, match=f"expected {WIDTH} dimensions"):
            await vectors.insert_in(connection, some_vectors(range(2), WIDTH + 1))
        assert await connection.fetchval("SELECT 1") == 1  # the rows' transaction goes on
    assert await vectors.existing(list(some_vectors(range(2)))) == set()


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_a_vector_with_a_value_that_is_no_number_is_refused(
    vectors: VectorTables, value: float
) -> None:
    with pytest.raises(TransientError, match="not allowed in vector"):
        await vectors.insert({hash_of(0): np.array([0, value, 1], np.float32)})


async def test_vectors_of_a_transaction_go_with_it(vectors: VectorTables, database: Database) -> None:
    async def fail() -> None:
        async with database.connection() as connection, connection.transaction():
            await vectors.insert_in(connection, some_vectors(range(3)))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await vectors.existing(list(some_vectors(range(3)))) == set()


async def test_a_write_waits_for_nobody(database: Database, owner: Any) -> None:
    patient, vectors = tables_of(database), tables_of(database, write_seconds=0.2)
    for each in (patient, vectors):  # the first has time enough to make the tables
        await each.model_id()
    await owner.execute("BEGIN; LOCK TABLE datastorage.embeddings_1 IN ACCESS EXCLUSIVE MODE")
    async with database.connection() as connection, connection.transaction():
        with pytest.raises(TransientError):
            await vectors.insert_in(connection, some_vectors(range(2)))
        assert await connection.fetchval("SELECT 1") == 1
    await owner.execute("ROLLBACK")
    await patient.insert(some_vectors(range(2)))


async def test_the_probe_fails_where_a_write_would(vectors: VectorTables, cloned: TestDatabase) -> None:
    await vectors.probe()
    assert await vectors.existing([b""]) == set()
    owner = await connect(cloned.owner_url)
    await owner.execute(f"ALTER DATABASE {cloned.name} SET default_transaction_read_only = on")
    await owner.close()
    fresh = Database(cloned.service_url, pool_size=4, chain=VECTORS)
    with pytest.raises(TransientError, match="read-only"):
        await tables_of(fresh).probe()
    await fresh.close()


async def test_a_missing_schema_rejects_no_record(unmigrated: TestDatabase) -> None:
    database = Database(unmigrated.service_url, pool_size=4, chain=VECTORS)
    with pytest.raises(TransientError):
        await tables_of(database).insert(some_vectors(range(1)))
    await database.close()


async def test_two_writers_of_the_same_texts_never_deadlock(lone: Callable[[], VectorTables]) -> None:
    vectors = lone()
    await vectors.model_id()
    given_ = some_vectors(range(400))
    turned = dict(reversed(given_.items()))
    await asyncio.gather(*(vectors.insert(given_ if n % 2 else turned) for n in range(8)))
    assert await vectors.existing(list(given_)) == set(given_)


async def test_a_writer_locks_in_the_order_of_the_hashes(vectors: VectorTables, owner: Any) -> None:
    given_ = some_vectors(range(200))
    await vectors.insert(dict(reversed(given_.items())))
    order = await owner.fetch("SELECT text_hash FROM datastorage.embeddings_1 ORDER BY ctid")
    assert [row["text_hash"] for row in order] == sorted(given_)


_numbers = st.floats(-(2.0**60), 2.0**60, width=32)


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.lists(_numbers, min_size=3, max_size=3)))
def test_every_vector_comes_back_as_it_was(common: TestDatabase, given_: Mapping[bytes, list[float]]) -> None:
    async def check() -> None:
        database = Database(common.service_url, pool_size=2, chain=VECTORS)
        vectors = tables_of(database, "hypothesis")
        await vectors.insert({key: np.array(value, np.float32) for key, value in given_.items()})
        number = await vectors.model_id()
        async with database.connection() as connection, connection.transaction():
            for key, value in given_.items():
                row = await connection.fetchval(
                    f"SELECT embedding FROM datastorage.embeddings_{number} WHERE text_hash = $1", key
                )
                assert np.array_equal(row.to_numpy(), np.array(value, np.float32))
        await database.close()

    async def clean() -> None:
        owner = await connect(common.owner_url)
        number = await owner.fetchval("SELECT id FROM datastorage.embedding_models WHERE name = 'hypothesis'")
        if number is not None:
            await owner.execute(f"TRUNCATE datastorage.embeddings_{number}")
        await owner.close()

    asyncio.run(clean())
    asyncio.run(check())


@pytest.mark.parametrize("dimensions", [1, 2000])
async def test_the_narrowest_and_the_widest_can_be_indexed(database: Database, dimensions: int) -> None:
    vectors = tables_of(database, dimensions=dimensions)
    await vectors.insert(some_vectors(range(20), dimensions))
    assert await vectors.index(memory_mib=64, full_rows=20, grace_seconds=0)
    assert await vectors.existing(list(some_vectors(range(20)))) == set(some_vectors(range(20)))


@pytest.mark.parametrize("home", ["extensions", 'Odd "schema"; --'])
@pytest.mark.oldest_postgres
async def test_pgvector_may_be_anywhere(unmigrated: TestDatabase, home: str) -> None:
    owner = await connect(unmigrated.owner_url)
    quoted = await owner.fetchval("SELECT quote_ident($1)", home)
    await owner.execute(f"CREATE SCHEMA {quoted}; CREATE EXTENSION vector SCHEMA {quoted}")
    for chain in (ARCHIVE, VECTORS):
        await asyncio.to_thread(migrate, unmigrated.owner_url, chain)
    database = Database(unmigrated.service_url, pool_size=4, chain=VECTORS)
    vectors = tables_of(database)
    await vectors.insert(some_vectors(range(10)))
    assert await vectors.index(memory_mib=64, full_rows=10, grace_seconds=0)
    assert await vectors.existing(list(some_vectors(range(10)))) == set(some_vectors(range(10)))
    async with database.connection() as connection:  # the operators of the type are found as well
        nearest = await connection.fetchval(
            "SELECT text_hash FROM datastorage.embeddings_1 "
            f"ORDER BY embedding OPERATOR({connection.vector_schema}.<=>) $1 LIMIT 1",
            pgvector.Vector(some_vectors(range(10))[hash_of(4)]),
        )
    assert nearest == hash_of(4)
    await database.close()
    await owner.close()


async def test_only_so_many_models(vectors: VectorTables, owner: Any) -> None:
    await owner.execute(
        "INSERT INTO datastorage.embedding_models SELECT n, 'p', n::text, 3 FROM generate_series(1, 100) n"
    )
    with pytest.raises(TransientError, match="100 embedding models"):
        await vectors.insert(some_vectors(range(1)))


async def test_a_server_that_comes_back_is_used_again(vectors: VectorTables, owner: Any) -> None:
    await vectors.insert(some_vectors(range(1)))
    await owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def works() -> bool:
        try:
            await vectors.insert(some_vectors(range(2)))
        except TransientError:
            return False
        return True

    await eventually(works)
    assert len(await stored(owner)) == 2


@pytest.mark.oldest_postgres
async def test_the_service_may_write_vectors_and_the_reader_may_not(
    vectors: VectorTables, service: Any, owner: Any
) -> None:
    await vectors.insert(some_vectors(range(10)))
    assert await vectors.index(memory_mib=64, full_rows=10, grace_seconds=0)
    for role, allowed in (("datastorage_service", {"SELECT", "INSERT"}), ("datastorage_reader", {"SELECT"})):
        rights = {
            right
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
            if await owner.fetchval(
                "SELECT has_table_privilege($1, 'datastorage.embeddings_1', $2)", role, right
            )
        }
        assert rights == allowed, role
    assert await service.fetchval("SELECT count(*) FROM datastorage.embeddings_1") == 10


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE datastorage.embeddings_1 SET part = 1",
        "DELETE FROM datastorage.embeddings_1",
        "DROP TABLE datastorage.embeddings_1_1",
        "DELETE FROM datastorage.embeddings_1_1",
        "INSERT INTO datastorage.embeddings_1_1 SELECT * FROM datastorage.embeddings_1",
        "CREATE INDEX ON datastorage.embeddings_1_1 (part)",
        "ALTER TABLE datastorage.embeddings_1 DETACH PARTITION datastorage.embeddings_1_1",
        "UPDATE datastorage.embedding_models SET open_part = 7",
        "DELETE FROM datastorage.embedding_parts",
        "UPDATE datastorage.vector_schema_version SET version_num = 'x'",
        "SELECT nextval('datastorage.embedding_part_numbers')",
        "SELECT datastorage.make_embedding_part(1::smallint, 9)",
        "SELECT datastorage.drop_embedding_parts(1::smallint, ARRAY[1])",
        "SELECT datastorage.build_embedding_index(1::smallint, 1)",
    ],
)
@pytest.mark.oldest_postgres
async def test_the_service_may_do_nothing_else(vectors: VectorTables, service: Any, statement: str) -> None:
    await vectors.insert(some_vectors(range(3)))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO datastorage.embeddings_1 SELECT * FROM datastorage.embeddings_1",
        "SELECT datastorage.ensure_embedding_model('p', 'n', 3)",
        "SELECT datastorage.seal_embeddings(1::smallint, 1)",
        "SELECT datastorage.index_embeddings(1::smallint, 64, 0, 6)",
    ],
)
@pytest.mark.oldest_postgres
async def test_the_reader_only_reads(vectors: VectorTables, owner: Any, statement: str) -> None:
    await vectors.insert(some_vectors(range(3)))
    await owner.execute("SET ROLE datastorage_reader")
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embeddings_1") == 3
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute(statement)


async def _made_anew(owner: Any, cloned: TestDatabase, *, other_first: bool) -> None:
    """The vectors' tables are gone and come back, perhaps with another model under the old number."""
    await owner.execute(
        "DROP TABLE datastorage.embeddings_1, datastorage.embedding_parts, datastorage.embedding_models, "
        "datastorage.vector_schema_version CASCADE; DROP SEQUENCE datastorage.embedding_part_numbers; "
        "DROP FUNCTION datastorage.make_embedding_part, datastorage.ensure_embedding_model, "
        "datastorage.seal_embeddings, datastorage.index_embeddings, datastorage.embedding_part_tables, "
        "datastorage.drop_embedding_parts, datastorage.build_embedding_index, "
        "datastorage.build_embedding_lookup, "
        "datastorage.pgvector_schema"
    )
    await asyncio.to_thread(migrate, cloned.owner_url, VECTORS)
    if other_first:
        await owner.fetchval("SELECT datastorage.ensure_embedding_model('another', 'model', 3)")


@pytest.mark.parametrize("other_first", [False, True])
async def test_recreated_tables_are_found_and_no_others_are_written(
    vectors: VectorTables, owner: Any, cloned: TestDatabase, *, other_first: bool
) -> None:
    await vectors.insert(some_vectors(range(3)))
    await _made_anew(owner, cloned, other_first=other_first)
    with contextlib.suppress(TransientError):
        await vectors.insert(some_vectors(range(3, 6)))
    await vectors.probe()
    await vectors.insert(some_vectors(range(6, 9)))
    number = await vectors.model_id()
    assert number == (2 if other_first else 1)
    assert await owner.fetchval(f"SELECT count(*) FROM datastorage.embeddings_{number}") >= 3
    if other_first:
        assert await owner.fetchval("SELECT count(*) FROM datastorage.embeddings_1") == 0


async def test_a_reinstalled_pgvector_is_used_again(
    vectors: VectorTables, owner: Any, cloned: TestDatabase
) -> None:
    await vectors.insert(some_vectors(range(3)))
    await owner.execute("DROP EXTENSION vector CASCADE")
    await _made_anew_with_extension(owner, cloned)
    seen: list[str] = []

    async def written() -> bool:
        try:
            await vectors.probe()
            await vectors.insert(some_vectors(range(3, 6)))
        except TransientError as error:
            seen.append(str(error))
            return False
        return True

    await eventually(written)
    assert not any("0." in message for message in seen), "no part of a vector stands in an error"


async def test_pgvector_that_disappears_during_a_connect_is_no_wrong_setting(
    owner: Any, cloned: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Session.set_type_codec

    async def too_late(self: Session, *arguments: Any, **options: Any) -> None:
        await owner.execute("DROP EXTENSION vector CASCADE")
        await known(self, *arguments, **options)

    monkeypatch.setattr(Session, "set_type_codec", too_late)
    database = Database(cloned.service_url, pool_size=1, chain=VECTORS)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1
        with pytest.raises(NoVectorsError):
            _ = connection.vector_schema
    await database.close()


async def _made_anew_with_extension(owner: Any, cloned: TestDatabase) -> None:
    await owner.execute("DROP TABLE IF EXISTS datastorage.embeddings_1 CASCADE")
    await owner.execute("CREATE TABLE datastorage.embeddings_1 ()")
    await _made_anew(owner, cloned, other_first=False)


async def test_many_writers_of_a_missing_table_get_one_kind_of_error(
    vectors: VectorTables, owner: Any
) -> None:
    """A writer that forgets the model's number makes the others forget it during their work."""
    await vectors.model_id()
    await owner.execute("ALTER TABLE datastorage.embeddings_1 RENAME TO hidden")

    async def write() -> None:
        for _ in range(30):
            with pytest.raises(TransientError):
                await vectors.insert(some_vectors(range(1)))

    await asyncio.gather(*(write() for _ in range(4)))


async def test_a_locked_list_of_models_holds_nothing_up_for_long(cloned: TestDatabase, owner: Any) -> None:
    pace = Pace(command_seconds=10 * DEADLINE_SECONDS)
    database = Database(cloned.service_url, pool_size=1, pace=pace)
    vectors = tables_of(database, write_seconds=0.2)
    async with owner.transaction():
        await owner.execute("LOCK TABLE datastorage.embedding_models IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(TransientError):
                await vectors.insert(some_vectors(range(3)))
    await database.close()
