"""Queries of the archive use indexes, read only the months they need, and keep their plans."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pgvector
import pytest
import pytest_asyncio

from datastorage.records.record import Table
from datastorage.records.vector import EmbeddingModel
from datastorage.resources.reading.kindreading import FilterName
from datastorage.storage import clues, contents, export, hits, nearest, questionforms, ranking, summaries
from datastorage.storage import pages as queries
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, Scope, Shape, ShapedStatement
from datastorage.storage.fulltext import FullText
from datastorage.storage.groups import GroupKey
from datastorage.storage.keys import key_columns
from datastorage.storage.nearest import Nearest
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.ranking import Ranking, RankLimits
from datastorage.storage.readonly import ONE_PLAN, reading
from datastorage.storage.vectors import VectorTables
from datastorage.storage.wording import Wording
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, audit_record, record_of
from harness.postgres import TestDatabase, TestDatabases, connect

_MODEL = EmbeddingModel("test", "small", 3)
_WALKING = nearest.walking(1, 120_000)
# Enough rows that reading a whole partition costs more than an index, made by the server itself.
_FILL = """
    INSERT INTO datastorage.{table} (
        uid, generation, created_at, namespace, name, content, content_hash, correlation_id,
        {type}, {phase}, {kind}, {name}, alert_fingerprint, search, text_hash, recorded_by{columns})
    SELECT gen_random_uuid(), 1, month + n * interval '1 minute', {namespace}, 'object-' || n, '\\x00',
        sha256('\\x00'), 'rr-' || n, 'T' || n % 4, CASE n % 50 WHEN 0 THEN 'Failed' ELSE 'Completed' END,
        'Pod', 'p' || n, 'f' || n, to_tsvector('english', 'word' || n || ' padding'),
        sha256(('t' || n)::bytea), 'robot-' || n % 300{values}
    FROM generate_series('2026-01-01Z'::timestamptz, '2026-03-01Z', '1 month') AS month,
        generate_series(1, 4000) AS n
"""
_VECTORS = """
    INSERT INTO datastorage.embeddings_1
    SELECT part, sha256(('t' || n)::bytea), ARRAY[random(), random(), random()]::vector(3)
    FROM generate_series({first}, {last}) AS n
"""


async def _fill(database: TestDatabase, *, namespace: str) -> TestDatabase:
    owner = await connect(database.owner_url)
    await owner.execute("SET TIME ZONE 'UTC'")
    for month in (1, 2, 3):
        await owner.execute("SELECT datastorage.ensure_partitions($1)", datetime(2026, month, 1, tzinfo=UTC))
    await owner.execute(
        _FILL.format(table="audit_records", namespace=namespace, type="type", phase="phase",
                     kind="resource_kind", name="resource_name",
                     columns=", action, environment, cluster, actor_kind, actor_name",
                     values=", 'a' || n % 300, 'e' || n % 300, 'c' || n % 300, 'User', 'u' || n % 300")
    )  # fmt: skip
    await owner.execute(
        _FILL.format(table="action_traces", namespace=namespace, type="action_type",
                     phase="execution_status", kind="target_kind", name="target_name", columns=", final",
                     values=", true")
    )  # fmt: skip
    pool = Database(database.service_url, pool_size=2)
    tables = VectorTables(pool, _MODEL)
    await tables.model_id()
    await owner.execute(_VECTORS.format(first=1, last=3500).replace("SELECT part", "SELECT 1"))
    while await tables.index(memory_mib=64, full_rows=3500, grace_seconds=0):
        pass
    await owner.execute(_VECTORS.format(first=3501, last=4000).replace("SELECT part", "SELECT 2"))
    await owner.execute("VACUUM ANALYZE")
    await pool.close()
    await owner.close()
    return database


def _filled(databases: TestDatabases, *, namespace: str = "'n' || n % 400") -> TestDatabase:
    """Return a database of three full months; the tests only read it."""

    async def make() -> TestDatabase:
        return await _fill(await databases.clone(), namespace=namespace)

    return asyncio.run(make())


@asynccontextmanager
async def _opened(filled: TestDatabase) -> AsyncIterator[Database]:
    made = Database(filled.service_url, pool_size=1)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def cloned(databases: TestDatabases) -> TestDatabase:
    return _filled(databases)


@pytest.fixture(scope="module")
def of_two_namespaces(databases: TestDatabases) -> TestDatabase:
    """The same with a large namespace and a small one."""
    return _filled(databases, namespace="CASE n WHEN 7 THEN 'small' ELSE 'large' END")


@pytest_asyncio.fixture
async def database(cloned: TestDatabase) -> AsyncIterator[Database]:
    async with _opened(cloned) as made:
        yield made


@pytest_asyncio.fixture
async def two_namespaces(of_two_namespaces: TestDatabase) -> AsyncIterator[Database]:
    async with _opened(of_two_namespaces) as made:
        yield made


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _scans(
    database: Database, sql: str, *arguments: Any, settings: Sequence[str] = _WALKING
) -> list[dict[str, Any]]:
    """Return the scans of tables in the plan that a question gets."""
    async with reading(database, *settings) as connection:
        answer = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments))
    scans = [node for node in _nodes(answer[0]["Plan"]) if "Relation Name" in node]
    assert scans
    return scans


async def _scans_for(
    database: Database,
    statement: ShapedStatement,
    criteria: Criteria,
    *own: Any,
    settings: Sequence[str] = _WALKING,
) -> list[dict[str, Any]]:
    """Return the scans of tables in the plan that a question with criteria gets."""
    sql, arguments = statement.of(criteria)
    scans_of = _scans if criteria.shape is Shape.ANY else _scans_of_one_plan
    # Only the statements that read vectors have these placeholders.
    sql = sql.format(id=1, pgvector="public")
    return await scans_of(database, sql, *own, *arguments, settings=settings)


async def _scans_of_one_plan(
    database: Database, sql: str, *arguments: Any, settings: Sequence[str] = _WALKING
) -> list[dict[str, Any]]:
    """Return the scans of tables that are executed, with the plan that serves all values."""
    async with reading(database, *settings, plan=ONE_PLAN) as connection:
        prepared = await connection.prepare(sql)
        values = ", ".join(
            [
                await connection.fetchval(f"SELECT quote_nullable(($1::{wanted.name})::text)", value)
                for wanted, value in zip(prepared.get_parameters(), arguments, strict=True)
            ]
        )
        # A statement with parameters within EXPLAIN would be planned for their values.
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {prepared.get_name()} ({values})"
        answer = json.loads(await connection.fetchval(explain))
    executed = (node for node in _nodes(answer[0]["Plan"]) if node["Actual Loops"])
    scans = [node for node in executed if "Relation Name" in node]
    assert scans
    return scans


@pytest.mark.parametrize(
    "sql",
    [contents.LOAD, hits._SHARING, hits._CORRELATION_IDS, hits._CORRELATED],
    ids=["load", "sharing", "correlation IDs", "correlated"],
)
async def test_one_plan_for_all_rows_reads_indexes(database: Database, sql: str) -> None:
    async with reading(database) as connection:
        nothing = [None] * max(int(number) for number in re.findall(r"\$(\d+)", sql))
        plan = await connection.fetchval(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}", *nothing)
    _assert_indexes([node for node in _nodes(json.loads(plan)[0]["Plan"]) if "Relation Name" in node])


def _assert_indexes(scans: list[dict[str, Any]]) -> None:
    read = [f"{scan['Node Type']} {scan['Relation Name']}" for scan in scans]
    assert not [each for each in read if each.startswith("Seq Scan")], read


_CRITERIA = [
    Criteria(),
    Criteria(namespace="n7"),
    Criteria(equal={"correlation_id": "rr-7"}),
    Criteria(equal={"type": "T1"}, tables=frozenset({Table.AUDIT_RECORDS})),
    Criteria(equal={"target_kind": "Pod", "target_namespace": "none", "target_name": "p7"}),
    Criteria(equal={"alert_fingerprint": "f7"}),
    Criteria(since=datetime(2026, 3, 2, tzinfo=UTC)),  # leaves much: a third of everything
]
_VECTOR = pgvector.Vector(np.array([1, 0, 0], np.float32))


@pytest.mark.parametrize("criteria", _CRITERIA, ids=str)
async def test_a_page_reads_indexes(database: Database, criteria: Criteria) -> None:
    after = (datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC), [100, 1])
    for position in ((None,) * 3, after):
        for statement in (queries.PAGE, queries.OUTLINED_PAGE):
            _assert_indexes(await _scans_for(database, statement, criteria, *position, 20))


@pytest.mark.parametrize("criteria", _CRITERIA, ids=str)
async def test_an_export_reads_indexes(database: Database, criteria: Criteria) -> None:
    """Also in the middle of the archive, where the rows before the position are most of it."""
    for after in (0, 12_000):
        for span in (1_000, 50_000):
            arguments = (after, after + span, 1_000, 4 * 1024 * 1024, *criteria.arguments)
            _assert_indexes(await _scans(database, export._ROWS, *arguments))
    newest = await _scans(database, export._NEWEST)
    _assert_indexes([scan for scan in newest if scan["Relation Name"] != "storage_order"])


_MARCH = datetime(2026, 3, 1, tzinfo=UTC)
_TARGET: dict[FilterName, str] = {
    "target_kind": "Pod", "target_namespace": "none", "target_name": "p7",
}  # fmt: skip
_SENT = "recorded_by_created_at_idx"
# The second one has the failures alone.
_OF_NAMESPACE = ("namespace_created_at_text_hash_idx", "namespace_created_at_idx")
_ALERT = "alert_fingerprint_created_at_idx"
# The criteria, and the index of each table that finds the rows; None if the table has none that meet them.
# The server cuts long names.
_FEW_MEET: list[tuple[Criteria, str | None, str | None]] = [
    (Criteria(equal={"recorded_by": "robot-7"}), _SENT, _SENT),
    (Criteria(equal={"recorded_by": "robot-7", "via": "api"}), _SENT, _SENT),
    (Criteria(equal={"action": "a7"}), "action_created_at_idx", "action_type_created_at_idx"),
    (Criteria(equal={"actor_kind": "User", "actor_name": "u7"}), "actor_name_created_at_idx", None),
    (Criteria(equal={"environment": "e7"}), "environment_created_at_idx", None),
    (Criteria(equal={"cluster": "c7"}), "cluster_created_at_idx", None),
    (Criteria(equal={"cluster": "c7"}, since=_MARCH), "cluster_created_at_idx", None),
    (Criteria(equal={"phase": "Failed"}), "created_at_idx", "created_at_idx"),
    (Criteria(equal={"phase": "Failed"}, since=_MARCH), "created_at_idx", "created_at_idx"),
    (Criteria(equal={"alert_fingerprint": "f7"}), _ALERT, _ALERT),
    (Criteria(equal=_TARGET), "resource_kind_resource_name", "target_kind_target_namespa"),
]


@pytest.mark.parametrize(("criteria", "of_records", "of_traces"), _FEW_MEET, ids=str)
async def test_a_page_of_few_records_reads_the_index_of_its_condition(
    database: Database, criteria: Criteria, of_records: str | None, of_traces: str | None
) -> None:
    after = (datetime(2026, 3, 2, tzinfo=UTC), _MARCH, [100, 1])
    for position in ((None,) * 3, after):
        scans = await _scans_for(database, queries.PAGE, criteria, *position, 20)
        _assert_read(scans, Table.AUDIT_RECORDS, [of_records] if of_records else [])
        _assert_read(scans, Table.ACTION_TRACES, [of_traces] if of_traces else [])


@pytest.mark.parametrize(("criteria", "of_records", "of_traces"), _FEW_MEET, ids=str)
async def test_a_page_within_a_scope_reads_an_index_of_few_rows(
    database: Database, criteria: Criteria, of_records: str | None, of_traces: str | None
) -> None:
    scope = Scope("n7", datetime(2026, 2, 1, tzinfo=UTC))
    scans = await _scans_for(database, queries.PAGE, criteria.within(scope), None, None, None, 20)
    _assert_read(scans, Table.AUDIT_RECORDS, [of_records, *_OF_NAMESPACE] if of_records else [])
    _assert_read(scans, Table.ACTION_TRACES, [of_traces, *_OF_NAMESPACE] if of_traces else [])


async def test_failures_of_a_namespace_are_read_from_an_index_of_these_alone(database: Database) -> None:
    criteria = Criteria(equal={"phase": "Failed"}).within(Scope("n0", datetime(2026, 2, 1, tzinfo=UTC)))
    scans = await _scans_for(database, queries.PAGE, criteria, None, None, None, 20)
    read = {name for scan in scans if scan["Alias"].startswith("r") for name in _indexes(scan)}
    async with database.connection() as connection:
        partial = await connection.fetch(
            "SELECT indexname::text FROM pg_indexes WHERE schemaname = 'datastorage' "
            "AND indexdef LIKE '%(namespace, created_at) WHERE%Failed%'"
        )
    assert read
    assert read <= {name for (name,) in partial}


def _indexes(scan: dict[str, Any]) -> Iterator[str]:
    """Yield the indexes that a scan of a table reads, without those of subqueries for its rows."""
    if "Index Name" in scan:
        yield scan["Index Name"]
    for child in scan.get("Plans", ()):
        if child["Node Type"].startswith("Bitmap"):
            yield from _indexes(child)


def _assert_read(scans: list[dict[str, Any]], table: Table, indexes: list[str | None]) -> None:
    """Assert that the rows of a table, and of each month, are found by one of the indexes, or not at all."""
    read = [
        (scan["Relation Name"], list(_indexes(scan)))
        for scan in scans
        if scan["Relation Name"].startswith(table) and scan["Alias"].startswith("r")
    ]
    assert bool(read) == bool(indexes)
    for month, used in read:
        assert any(name.startswith(f"{month}_{index}") for name in used for index in indexes), read


async def test_a_summary_reads_the_rows_of_its_time(database: Database) -> None:
    hour = Criteria(since=datetime(2026, 3, 2, 10, tzinfo=UTC), until=datetime(2026, 3, 2, 11, tzinfo=UTC))
    for criteria in (hour, hour.within(Scope("n7", _MARCH)), Criteria(namespace="n7", since=_MARCH)):
        for keys in ([GroupKey.ACTION], [GroupKey.DAY, GroupKey.TYPE]):
            scans = await _scans(database, summaries._statement(keys), 100, *criteria.arguments)
            _assert_indexes(scans)
            months = {scan["Relation Name"][-7:] for scan in scans if scan["Alias"].startswith("r")}
            assert months == {"2026m03"}


async def test_a_time_range_reads_only_its_months(database: Database) -> None:
    criteria = Criteria(since=datetime(2026, 2, 1, tzinfo=UTC), until=datetime(2026, 3, 1, tzinfo=UTC))
    months = {"audit_records_y2026m02", "action_traces_y2026m02"}
    page = await _scans_for(database, queries.PAGE, criteria, None, None, None, 20)
    assert {scan["Relation Name"] for scan in page if scan["Alias"].startswith("r")} == months
    walk = nearest._WALK.format(id=1, texts=200, pgvector="public")
    scans = await _scans_of_one_plan(database, walk, 3, 10, _VECTOR, *criteria.arguments)
    assert {scan["Relation Name"] for scan in scans if scan["Alias"].startswith("r")} == months


async def test_a_question_about_one_kind_reads_no_other_table(database: Database) -> None:
    criteria = Criteria(tables=frozenset({Table.ACTION_TRACES}), namespace="n7")
    scans = await _scans_for(database, queries.PAGE, criteria, None, None, None, 20)
    assert {scan["Relation Name"].split("_y")[0] for scan in scans} == {"action_traces"}


@pytest.mark.parametrize("criteria", _CRITERIA, ids=str)
async def test_a_walk_follows_the_index_and_looks_records_up(database: Database, criteria: Criteria) -> None:
    walk = nearest._WALK.format(id=1, texts=200, pgvector="public")
    scans = await _scans_of_one_plan(database, walk, 3, 10, _VECTOR, *criteria.arguments)
    vectors = {s["Relation Name"]: s for s in scans if s["Relation Name"].startswith("embeddings")}
    assert vectors["embeddings_1_1"]["Index Name"] == "embeddings_1_1_embedding_idx"
    assert vectors["embeddings_1_2"]["Node Type"] == "Seq Scan"  # not indexed yet
    _assert_indexes([scan for scan in scans if scan["Relation Name"] not in vectors])


@pytest.mark.parametrize("criteria", _CRITERIA[1:-1], ids=str)
@pytest.mark.parametrize(
    ("statement", "most"),
    [(nearest._EXACT_OF_FEW, ()), (nearest._EXACT_OF_NEWEST, (10_000,))],
    ids=["few", "newest"],
)
async def test_the_exact_search_reads_no_unneeded_vector(
    database: Database, statement: ShapedStatement, most: tuple[int, ...], criteria: Criteria
) -> None:
    own = (3, 10, _VECTOR, *most)
    settings = (*_WALKING, nearest.BY_KEYS)
    scans = await _scans_for(database, statement, criteria, *own, settings=settings)
    _assert_indexes(scans)
    vectors = [scan for scan in scans if scan["Relation Name"].startswith("embeddings")]
    names = {name for scan in vectors for name in _indexes(scan)}
    assert names
    assert all(name.endswith("_expr_idx") for name in names), names


async def test_the_texts_of_a_namespace_are_read_from_an_index_alone(database: Database) -> None:
    criteria = Criteria(namespace="n7")
    for statement in (nearest._EXACT_OF_FEW, nearest._EXACT_OF_NEWEST):
        own = (3, 10, _VECTOR, *((10_000,) if statement is nearest._EXACT_OF_NEWEST else ()))
        scans = await _scans_for(database, statement, criteria, *own, settings=(*_WALKING, nearest.BY_KEYS))
        of_namespace = [scan for scan in scans if "namespace" in str(scan.get("Index Cond"))]
        texts = [scan for scan in of_namespace if "text_hash =" not in scan["Filter"]]
        assert {scan["Node Type"] for scan in texts} == {"Index Only Scan"}
        assert len(texts) == len(Table) * 3  # months


async def test_the_exact_search_has_the_setting_for_looking_up_by_keys(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[str] = []
    fetch = Session.fetch

    async def spied(self: Session, sql: str, *arguments: Any, **options: Any) -> Any:
        if "distances AS" in sql:
            settings.append(await self.fetchval("SELECT 'enable_seqscan = ' || current_setting($1)",
                                                "enable_seqscan"))  # fmt: skip
        return await fetch(self, sql, *arguments, **options)

    monkeypatch.setattr(Session, "fetch", spied)
    found = Nearest(database, database, model=_MODEL, same_server=True)
    vector = np.array([1, 0, 0], np.float32)
    assert (await found.nearest(Criteria(namespace="n7"), vector, limit=5, per_text=3)).matches
    assert settings == [nearest.BY_KEYS]


async def test_the_indexes_of_the_vectors_are_known(database: Database) -> None:
    """The open part has none."""
    found = Nearest(database, database, model=_MODEL, same_server=True)
    async with reading(database) as connection:
        table = await found._table(connection)
    assert (table.number, table.indexes, table.largest) == (1, 1, 3_500)


_RANKINGS = pytest.mark.parametrize(
    ("sql", "newest"),
    [(ranking.RANK_ALL, ()), (ranking.RANK_NEWEST, (5, None, None, 10, 5))],
    ids=["all", "newest"],
)


@_RANKINGS
async def test_words_are_found_by_their_index(
    database: Database, sql: str, newest: tuple[int | None, ...]
) -> None:
    synonyms = ([0.8], ["'word9' | 'word10' <-> 'padding'"], [1, 1], ["'word9'", "'word10' <-> 'padding'"])
    arguments = ("'word7' | 'word8'", ["'word7'"], [1.0], *synonyms, 3, 10, *newest)
    _assert_indexes(await _scans(database, sql, *arguments, *Criteria().arguments))


@_RANKINGS
async def test_words_that_no_record_has_are_not_looked_for_row_by_row(
    database: Database, sql: str, newest: tuple[int | None, ...]
) -> None:
    """PostgreSQL believes that each is in a two-hundredth of the rows, and only a few rows are wanted."""
    unknown = " | ".join(f"'unknown{n}'" for n in range(20))
    arguments: tuple[Any, ...] = (unknown, ["'word7'"], [1.0], [0.0], [None], [], [], 3, 10, *newest)
    scans = await _scans(database, sql, *arguments, *Criteria().arguments)
    read = {name for scan in scans if scan["Alias"].startswith("r") for name in _indexes(scan)}
    assert read
    assert all(name.endswith("search_idx") for name in read), read


async def test_a_long_record_is_unpacked_once_for_all_words(databases: TestDatabases) -> None:
    """PostgreSQL keeps its words beside the row, and each reading of them takes further pages."""
    words = [f"word{n}" for n in range(16)]
    spec = {**AUDIT_SPEC, "message": " ".join([*words, *(f"filler{n * n}" for n in range(1_500))])}

    async def pages(connection: Session, asked: Sequence[str]) -> int:
        weights, none = [1.0] * len(asked), [None] * len(asked)
        arguments: tuple[Any, ...] = (words[0], asked, weights, [0.0] * len(asked), none, [], [], 3, 10)
        sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {ranking.RANK_ALL}"
        answer = json.loads(await connection.fetchval(sql, *arguments, *Criteria().arguments))
        return int(answer[0]["Plan"]["Shared Hit Blocks"])

    async with _opened(await databases.clone()) as database:
        await Archive(database).write([record_of(audit_record(spec))])
        async with reading(database) as connection:
            await pages(connection, words)  # the first time also reads the catalog
            assert await pages(connection, words) == await pages(connection, words[:1])


async def test_few_records_are_ranked_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All records have one of the words, which have a synonym."""
    ranked: list[str] = []
    fetch = Session.fetch

    async def spied(self: Session, sql: str, *arguments: Any, **options: Any) -> Any:
        if sql in {ranking.RANK_ALL, ranking.RANK_NEWEST}:
            ranked.append(sql)
        return await fetch(self, sql, *arguments, **options)

    monkeypatch.setattr(Session, "fetch", spied)
    limits = RankLimits(few_records=1_000_000)
    words = FullText(database, synonyms=[("padding", "word9")], limits=limits)
    assert await words.find(Criteria(), Wording(["padding", "word7"]), limit=10, per_text=3)
    assert ranked == [ranking.RANK_ALL]


async def test_common_words_are_looked_for_among_the_newest_records_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All records have the word, and there is one of each kind in a minute."""
    times: list[Mapping[Table, datetime | None]] = []
    newest_of = Ranking._newest_of

    async def spied(
        self: Ranking, criteria: Criteria, condition: str, since: Mapping[Table, datetime | None]
    ) -> Any:
        times.append(since)
        return await newest_of(self, criteria, condition, since)

    monkeypatch.setattr(Ranking, "_newest_of", spied)
    words = FullText(database, limits=RankLimits(newest=300))
    assert await words.find(Criteria(), Wording(["padding"]), limit=10, per_text=3)
    (since_of,) = times
    newest = datetime(2026, 3, 3, 18, 40, tzinfo=UTC)
    for table in Table:
        since = since_of[table]
        assert since is not None
        assert timedelta(minutes=300) < newest - since < timedelta(minutes=1_000)
    # Before the five hundred newest of these records, there are none for weeks.
    times.clear()
    until = datetime(2026, 3, 1, 8, 21, tzinfo=UTC)
    found = await words.find(Criteria(until=until), Wording(["padding"]), limit=1_200, per_text=3)
    assert found is not None
    assert len(found.matches) == 1_200
    assert len(times) == 3
    assert set(times[-1].values()) == {None}


@pytest.mark.parametrize("criteria", _CRITERIA, ids=str)
async def test_clues_are_found_by_an_index(database: Database, criteria: Criteria) -> None:
    for condition in (None, "'padding' & !'word9'"):
        asked = (["word7 padding", "word8"], [True, False], [1, 1], ["a", "b"], [condition, condition])
        arguments = (*asked, 1000, 100, 20)
        _assert_indexes(await _scans(database, clues.CLUES, *arguments, *criteria.arguments))


async def test_single_records_and_incidents_read_indexes(database: Database) -> None:
    places = [row.place for row in await ArchiveReader(database).page(Criteria(), None, 100)]
    keys = [place.key for place in places]
    arguments = ([place.table.value for place in places], *key_columns(keys))
    _assert_indexes(await _scans_of_one_plan(database, contents.LOAD, *arguments, 1_000_000))
    _assert_indexes(await _scans_of_one_plan(database, hits._CORRELATION_IDS, *arguments))
    for scope in ((None, None), ("n7", datetime(2026, 3, 1, tzinfo=UTC))):
        _assert_indexes(await _scans(database, queries._GENERATIONS, True, True, keys[0].uid, 1, *scope))  # noqa: FBT003
        for after in ((None, None), (datetime(2026, 3, 1, tzinfo=UTC), [100, 1, 1])):
            scans = await _scans(database, queries._INCIDENT, "rr-7", *after, 1000, *scope)
            _assert_indexes(scans)
            names = {scan["Index Name"] for scan in scans}
            assert all(name.endswith("correlation_id_happened_at_idx") for name in names), names
    for since in (None, datetime(2026, 3, 1, tzinfo=UTC)):
        named = (True, True, "n7", "object-7", since)
        _assert_indexes(await _scans(database, queries._NEWEST_OF_NAME, *named))
    hashes = [b"\0" * 32]
    for criteria in (Criteria(), Criteria(namespace="n7")):
        sharing = (hashes, ["rr-7"], 1000, *criteria.arguments)
        _assert_indexes(await _scans_of_one_plan(database, hits._SHARING, *sharing))


# The statements with a version for a namespace alone, and their own arguments.
_SHAPED: list[tuple[str, ShapedStatement, tuple[Any, ...]]] = [
    ("page", queries.PAGE, (None, None, None, 20)),
    ("outlined page", queries.OUTLINED_PAGE, (None, None, None, 20)),
    ("count", nearest._COUNT, (20_001,)),
    ("hashes", nearest._HASHES, (20_000,)),
    ("exact", nearest._EXACT_OF_FEW, (3, 10, _VECTOR)),
    ("exact of the newest", nearest._EXACT_OF_NEWEST, (3, 10, _VECTOR, 20_000)),
    ("forms", questionforms._FORMS, (["word7"], 32, 500, 5_001, [1], ["word8"])),
]


@pytest.mark.parametrize(
    ("statement", "own"), [each[1:] for each in _SHAPED], ids=[name for name, *_ in _SHAPED]
)
async def test_a_small_namespace_beside_a_large_one_is_read_by_its_index(
    two_namespaces: Database, statement: ShapedStatement, own: tuple[Any, ...]
) -> None:
    """The plan does not know which of them is the small one."""
    scans = await _scans_for(two_namespaces, statement, Criteria(namespace="small"), *own)
    # Their names begin with those of the months' tables.
    read = {name[len("audit_records_y2026m01_") :] for scan in scans if scan["Alias"].startswith("r")
            for name in _indexes(scan)}  # fmt: skip
    assert "namespace_created_at_text_hash_idx" in read
    assert read <= {"namespace_created_at_text_hash_idx", "text_hash_created_at_idx", "pkey"}, read


async def test_questions_are_planned_once_where_the_values_do_not_count(database: Database) -> None:
    reader = ArchiveReader(database)
    found = Nearest(database, database, model=_MODEL, same_server=True)
    filtered = Criteria(namespace="n7", equal={"action": "a7"})
    questions: list[Callable[[], Awaitable[object]]] = [
        lambda: reader.page(Criteria(namespace="n7"), None, 10),
        lambda: reader.outlined_page(Criteria(), None, 10),
        lambda: found.nearest(Criteria(), np.array([1, 0, 0], np.float32), limit=5, per_text=3),
        lambda: reader.page(filtered, None, 10),
    ]
    plans = []
    for question in questions:
        before = await _plans(database)
        for _ in range(10):
            await question()
        plans.append(await _plans(database) - before)
    assert plans == [Counter(generic=10)] * 3 + [Counter(own=10)]


async def _plans(database: Database) -> Counter[str]:
    """Count the plans that the one connection has made."""
    async with database.connection() as connection:
        plans = await connection.fetch(
            "SELECT generic_plans AS generic, custom_plans AS own "
            "FROM pg_prepared_statements WHERE statement LIKE '%datastorage.audit_records AS r%' "
            "AND statement NOT LIKE '%pg_prepared_statements%'"
        )
    return Counter(generic=sum(row["generic"] for row in plans), own=sum(row["own"] for row in plans))


async def test_the_one_plan_of_walks_follows_the_index_and_leaves_out_months(database: Database) -> None:
    criteria = Criteria(since=datetime(2026, 2, 1, tzinfo=UTC), until=datetime(2026, 3, 1, tzinfo=UTC))
    arguments = (3, 10, _VECTOR, *criteria.arguments)
    walk = nearest._WALK.format(id=1, texts=200, pgvector="public")
    scans = await _scans_of_one_plan(database, walk, *arguments)
    names = {scan.get("Index Name") for scan in scans}
    assert "embeddings_1_1_embedding_idx" in names
    assert {s["Relation Name"][-7:] for s in scans if s["Alias"].startswith("r")} == {"2026m02"}


async def test_nothing_is_left_in_the_session(database: Database) -> None:
    await ArchiveReader(database).page(Criteria(), None, 10)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT current_setting('plan_cache_mode')") == "auto"
        assert await connection.fetchval("SELECT current_setting('transaction_read_only')") == "off"
