"""Search: the right records come first, by meaning, by words and by both, with filters and without."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, cycle, islice, permutations
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage import metrics
from datastorage.assembly.queries import build_queries
from datastorage.embedding.wordllama import WordLlamaProvider
from datastorage.errors import DataStorageError, InvalidQueryError, OverloadedError, TransientError
from datastorage.query.absentidentifiers import absent_identifiers
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.questionwords import without_excluded, wording
from datastorage.query.searchresult import FoundBy, SearchHit, SearchResult
from datastorage.records.record import Table
from datastorage.records.vector import Matrix
from datastorage.resources.reading.phrases import search_words
from datastorage.storage import fulltext, nearest
from datastorage.storage.clues import ClueLimits, ClueResult
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, Scope
from datastorage.storage.fulltext import FullText
from datastorage.storage.matches import Background, Match
from datastorage.storage.nearest import Nearest, WalkLimits
from datastorage.storage.questionforms import QuestionForms
from datastorage.storage.ranking import RANK_NEWEST, Ranking, RankLimits
from datastorage.storage.readonly import reading
from datastorage.storage.vectors import VectorTables
from datastorage.storage.wording import Wording, as_searched, tsquery
from harness.objects import TRACE_SPEC, action_trace, audit_record, utc
from harness.polling import DEADLINE_SECONDS, eventually
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.support.archive import MODEL, BagOfWords, SearchableArchive, searchable

MODES = list(SearchMode)
_SPEC = {"type": "Remediation", "phase": "Completed"}
_NUMBERS = count(1)


def said(action: str, message: str, **metadata: Any) -> dict[str, Any]:
    """Return a record of an incident of its own."""
    spec = {**_SPEC, "correlationID": f"rr-{next(_NUMBERS)}", "action": action, "message": message}
    return audit_record(spec, **metadata)


def again(body: dict[str, Any], generation: int, **spec: Any) -> dict[str, Any]:
    metadata = {**body["metadata"], "generation": generation}
    return {**body, "metadata": metadata, "spec": {**body["spec"], **spec}}


def names(result: SearchResult) -> list[str]:
    return [hit.record.name for hit in result.hits]


def trace(reasoning: str, name: str = "trace", **metadata: Any) -> dict[str, Any]:
    return action_trace({**TRACE_SPEC, "model": {"reasoning": reasoning}}, name=name, **metadata)


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        yield made


@pytest_asyncio.fixture(params=["beside", "apart"])
async def either(
    request: pytest.FixtureRequest, cloned: TestDatabase, databases: TestDatabases
) -> AsyncIterator[SearchableArchive]:
    """The vectors in the records' database, or on another server (another database does as well)."""
    if request.param == "beside":
        async with searchable(cloned) as made:
            yield made
        return
    other = await databases.clone()
    async with searchable(cloned, other) as made:
        yield made
    await databases.drop(other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.oldest_postgres
async def test_the_best_comes_first(either: SearchableArchive, mode: SearchMode) -> None:
    await either.put(
        said("scale", "disk full on the database", name="disk"),
        said("restart", "memory limit reached by checkout", name="memory"),
        trace("memory limit raised"),
    )
    result = await either.ask.search("memory limit reached checkout", mode=mode, limit=2)
    assert result.mode is mode
    assert result.degraded is None
    assert names(result) == ["memory", "trace"]
    assert [hit.score for hit in result.hits] == sorted([hit.score for hit in result.hits], reverse=True)
    if mode is SearchMode.TEXT:
        assert [hit.similarity for hit in result.hits] == [None, None]
    else:
        similarities = [hit.similarity for hit in result.hits]
        assert similarities == sorted(similarities, key=lambda value: -(value or 0))
        assert all(value is not None and 0 < value <= 1 for value in similarities)


async def test_similarity_is_the_cosine(archive: SearchableArchive) -> None:
    await archive.put(said("alpha", "beta gamma delta", name="one"))
    result = await archive.ask.search("alpha beta", mode=SearchMode.VECTOR)
    [text] = await _texts(archive)
    question, answer = await archive.provider.embed(["alpha beta", text])
    expected = float(question @ answer / ((question @ question) ** 0.5 * (answer @ answer) ** 0.5))
    assert result.hits[0].similarity == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("indexes", "largest", "candidates"),
    [
        (0, 0, 200),
        (1, 120_000, 200),
        (5, 20_000, 200),
        (8, 120_000, 125),
        (10, 120_000, 100),
        (30, 120_000, 100),
        (10, 155_000, 100),
        (30, 200_001, 200),
    ],
)
async def test_many_indexes_have_fewer_candidates_each_unless_one_is_large(
    either: SearchableArchive, monkeypatch: pytest.MonkeyPatch, indexes: int, largest: int, candidates: int
) -> None:
    await either.put(said("scale", "disk full", name="disk"))
    settings: list[str] = []
    fetch = Session.fetch

    async def spied(self: Session, sql: str, *arguments: Any, **options: Any) -> Any:
        if "LIMIT 200" in sql or sql == nearest._NEAREST.format(id=1, pgvector=self.vector_schema):
            settings.append(await self.fetchval("SELECT current_setting('hnsw.ef_search')"))
        return await fetch(self, sql, *arguments, **options)

    monkeypatch.setattr(Session, "fetch", spied)
    found = f"SELECT id, {indexes} AS indexes, {largest} AS largest FROM datastorage.embedding_models"
    monkeypatch.setattr(
        nearest, "_FIND_TABLE", f"{found} WHERE provider = $1 AND name = $2 AND dimensions = $3"
    )
    assert names(await either.ask.search("disk", mode=SearchMode.VECTOR)) == ["disk"]
    assert set(settings) == {str(candidates)}


async def _crowded(either: SearchableArchive) -> None:
    """Store a record with a rare word among many others, and more near ones than a search looks at."""
    filler = " ".join(f"other{n}" for n in range(40))
    await either.put(said("watch", f"{filler} zebra", name="zebra"))
    await either.put(*(said("restart", f"memory limit x{n}", name=f"near{n}") for n in range(60)))


async def test_the_similarity_of_what_words_alone_have_found_is_known(either: SearchableArchive) -> None:
    await _crowded(either)
    result = await either.ask.search("memory limit zebra", mode=SearchMode.HYBRID, limit=20)
    hits = {hit.record.name: hit for hit in result.hits}
    zebra, near = hits["zebra"], next(hit for hit in result.hits if FoundBy.MEANING in hit.found_by)
    assert zebra.found_by == (FoundBy.WORDS,)
    assert 0 < (zebra.similarity or 0) < (near.similarity or 0)


async def test_each_record_of_a_text_has_its_similarity(either: SearchableArchive) -> None:
    """Only the newest three are looked for by meaning; an identifier may be that of an older one."""
    for n in range(6):
        created = f"2026-03-05T10:0{n}:00Z"
        await either.put(said("restart", f"killed 10.4.7.2{n}", name=f"o{n}", creationTimestamp=created))
    [text] = {*await _texts(either)}
    assert "10.4" not in text, "they have one text"
    result = await either.ask.search("killed 10.4.7.20", mode=SearchMode.HYBRID, limit=6)
    first = result.hits[0]
    assert (first.record.name, first.found_by) == ("o0", (FoundBy.WORDS, FoundBy.CLUE))
    assert first.similarity == result.hits[1].similarity is not None


async def test_words_are_enough_where_their_similarities_can_not_be_had(
    either: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _crowded(either)

    async def fail(*_: object) -> None:
        raise TransientError("the vectors have gone away")

    monkeypatch.setattr(Nearest, "similarities", fail)
    result = await either.ask.search("memory limit zebra", mode=SearchMode.HYBRID)
    assert (result.mode, result.degraded) == (SearchMode.TEXT, "the vectors have gone away")
    assert result.hits


async def test_meaning_is_measured_against_the_other_texts(either: SearchableArchive) -> None:
    """The unit is that of the texts which are there; the texts of a small archive are too few to say."""
    vectors = either.store.vectors
    assert vectors is not None
    nearest = Nearest(either.store.database, vectors.database, model=MODEL, same_server=vectors.same_server)
    [question] = await either.provider.embed(["memory limit"])

    async def background() -> Background:
        return (await nearest.similarities(Criteria(), question, [])).background

    await either.put(said("restart", "memory limit", name="one"))
    usual = await background()
    bodies = [said("act", f"{'memory ' * (n % 4)}word{n}", name=f"o{n}") for n in range(40)]
    await either.put(*bodies)
    found = await background()
    texts = [text for text in await _texts(either) if text]
    rows = await either.provider.embed(texts)
    cosines = rows @ question / np.linalg.norm(rows, axis=1) / np.linalg.norm(question)
    assert usual != found
    assert (found.mean, found.deviation) == pytest.approx((cosines.mean(), cosines.std(ddof=1)), abs=1e-4)


async def test_texts_that_are_all_equally_near_are_found(archive: SearchableArchive) -> None:
    """Their similarities have no deviation, which is the unit of the scores."""
    orders = islice(permutations(("memory", "limit", "reached", "by", "checkout")), 40)
    await archive.put(*(said("restart", " ".join(words)) for words in orders))
    result = await archive.ask.search("memory limit")
    assert len(result.hits) == 10
    assert result.degraded is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.oldest_postgres
async def test_an_answer_says_nothing_of_what_is_outside_the_scope(
    either: SearchableArchive, mode: SearchMode
) -> None:
    """Neither the texts of others nor their number show in it: each score is the same to the last digit."""
    scope = Scope("shop", utc("2026-02-01T00:00:00Z"))

    async def answer() -> list[SearchHit]:
        found = await either.ask.search(
            "memory limit of zebra-7", mode=mode, flat=True, limit=60, scope=scope
        )
        assert {hit.record.namespace for hit in found.hits} == {"shop"}
        return list(found.hits)

    mine = [said("act", f"{'memory ' * (n % 4)}word{n}", name=f"o{n}", namespace="shop") for n in range(40)]
    await either.put(*mine)
    before = await answer()
    for metadata in (
        {"namespace": "bank"},
        {"namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
    ):
        texts = [f"the memory limit of zebra-{n % 9} word{n}" for n in range(60)]
        await either.put(*(said("act", text, **metadata) for text in texts))
        same = [{**body, "metadata": {**body["metadata"], **metadata, "uid": _uid()}} for body in mine]
        await either.put(*same)
        assert await answer() == before, metadata


def _uid() -> str:
    return str(uuid.uuid4())


async def _texts(archive: SearchableArchive) -> list[str]:
    async with archive.store.database.connection() as connection:
        return [row["text"] for row in await connection.fetch("SELECT text FROM datastorage.embedding_texts")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.oldest_postgres
async def test_a_filter_holds(either: SearchableArchive, mode: SearchMode) -> None:
    await either.put(
        said("restart", "memory limit reached", name="here", namespace="shop"),
        said("restart", "memory limit reached", name="elsewhere"),
        said("scale", "memory limit nearly reached", name="late", namespace="shop",
             creationTimestamp="2026-05-01T00:00:00Z"),
        trace("memory limit reached", name="t", namespace="shop"),
    )  # fmt: skip
    ask = either.ask
    shop = Filter(namespace="shop")
    assert set(names(await ask.search("memory limit", shop, mode=mode))) == {"here", "late", "t"}
    assert names(await ask.search("memory limit", Filter(kind="ActionTrace"), mode=mode)) == ["t"]
    early = replace(shop, until=utc("2026-04-01T00:00:00Z"), type="remediation")
    assert names(await ask.search("memory limit", early, mode=mode)) == ["here"]
    assert names(await ask.search("memory limit", Filter(namespace="none"), mode=mode)) == []


@pytest.mark.parametrize("few", [0, 10_000], ids=["walk", "exact"])
@pytest.mark.oldest_postgres
async def test_both_ways_find_the_same(either: SearchableArchive, few: int) -> None:
    either = either.limited(walk=WalkLimits(few_records=few))
    await either.put(
        *(said(f"act{n}", f"memory word{n % 7}", name=f"o{n}", namespace=f"n{n % 3}") for n in range(60))
    )
    result = await either.ask.search("memory word3", Filter(namespace="n1"), mode=SearchMode.VECTOR, limit=5)
    found = names(result)
    assert len(found) == 5
    assert set(found[:3]) == {"o10", "o31", "o52"}  # word3 and n1


async def test_a_walk_that_finds_too_little_ends_exactly(either: SearchableArchive) -> None:
    either = either.limited(walk=WalkLimits(few_records=0, texts=(2, 4)))
    await either.put(*(said("restart", f"memory limit {'x' * n}", name=f"near{n}") for n in range(1, 20)))
    await either.put(said("sing", "a song", name="far", namespace="shop"))
    result = await either.ask.search("memory limit", Filter(namespace="shop"), mode=SearchMode.VECTOR)
    assert names(result) == ["far"]


async def test_few_traces_among_many_records_are_found_by_their_kind(either: SearchableArchive) -> None:
    either = either.limited(walk=WalkLimits(few_records=0, texts=(2, 4)))
    await either.put(*(said("restart", f"memory limit {'x' * n}", name=f"near{n}") for n in range(1, 20)))
    await either.put(action_trace(name="far"))
    result = await either.ask.search("memory limit", Filter(kind="ActionTrace"), mode=SearchMode.VECTOR)
    assert names(result) == ["far"]


@pytest.mark.parametrize("mode", MODES)
async def test_one_event_does_not_fill_the_page(either: SearchableArchive, mode: SearchMode) -> None:
    recurring = [
        said("restart", "memory limit reached", name=f"r{n:02}",
             creationTimestamp=f"2026-03-05T10:00:{n:02}Z") for n in range(20)
    ]  # fmt: skip
    await either.put(*recurring, said("scale", "memory limit nearly reached", name="other"))
    result = await either.ask.search("memory limit reached", mode=mode)
    assert names(result) == ["r19", "r18", "r17", "other"]
    assert [hit.more for hit in result.hits] == [17, 17, 17, 0]
    filtered = Filter(since=utc("2026-03-05T10:00:15Z"))
    result = await either.ask.search("memory limit reached", filtered, mode=mode)
    assert [hit.more for hit in result.hits if hit.record.name == "r19"] == [2]


async def test_of_many_texts_and_incidents_fewer_records_are_counted_each(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a page of a thousand would count a million records."""
    monkeypatch.setattr("datastorage.query.search._MAX_COUNTED", 20)
    await archive.put(*(said("restart", "memory limit reached") for _ in range(10)))
    result = await archive.ask.search("memory limit")
    assert [hit.more for hit in result.hits] == [2, 2, 2], "one text and three incidents: five of each"


async def test_an_identifier_of_words_that_are_in_every_text_is_not_absent(
    archive: SearchableArchive,
) -> None:
    await archive.put(said("restart", "memory limit reached by api-7f9c"))
    question = "api-7f9c and api-7f9d as-is"
    found = await absent_identifiers(archive.ask, question, Filter())
    assert found == ["api-7f9d"]


@pytest.mark.parametrize(
    ("question", "absent"),
    [("SIGBUS", ["SIGBUS"]), ("SIGBUS seen", ["SIGBUS"]), ("WHY DID IT FAIL", []), ("sigbus", [])],
)
async def test_a_word_in_capitals_is_an_identifier_unless_the_whole_sentence_is(
    archive: SearchableArchive, question: str, absent: list[str]
) -> None:
    await archive.put(said("restart", "memory limit reached"))
    assert await absent_identifiers(archive.ask, question, Filter()) == absent


_DIGEST = "7be2d91a4c6f0b8b237f5fd0a1c94e6b"


@pytest.mark.parametrize(
    ("question", "absent"),
    [
        ("why was host=10.0.7.33 refused", []),
        ("why was host=10.0.7.34 refused", ["host=10.0.7.34"]),
        (f"what uses sha256:{_DIGEST}", []),
        ("what uses sha256:7be2d91b", ["sha256:7be2d91b"]),
        (f"what uses image=sha256:{_DIGEST}", []),
        ("worker-3,worker-4", []),
        ("worker-3,worker-5", ["worker-5"]),
        ("worker-3,worker-30", ["worker-30"]),  # one is the beginning of the other, and no part of it
        ("worker-5,worker-6", ["worker-5,worker-6"]),
        (f"worker-3,sha256:{_DIGEST[:-1]}0", [f"sha256:{_DIGEST[:-1]}0"]),
        ("worker-30 and worker-3", ["worker-30"]),
        ('host="10.0.7.33"-worker-3', []),  # a mark inside ends no quotation
        ("worker-5;worker-6;worker-7;worker-8;worker-3", ["worker-5", "worker-6", "worker-7"]),
        ("what failed on 2026-11-28, at 2026-11-28T12:30:05.25Z or at 12:30", []),  # no times are searched
        ("is a load above 3.5 or 24/7 harmful, e.g. to node(s)", []),
        ("what needs v3.5.1", ["v3.5.1"]),
    ],
)
async def test_of_an_identifier_with_parts_only_what_no_record_has_is_absent(
    archive: SearchableArchive, question: str, absent: list[str]
) -> None:
    await archive.put(
        said("refuse", "refused 10.0.7.33"),
        said("pull", f"pulled {_DIGEST}"),
        said("drain", "drained worker-3"),
        said("drain", "drained worker-4"),
    )
    assert await absent_identifiers(archive.ask, question, Filter()) == absent


@pytest.mark.parametrize(
    ("asked", "absent"),
    [
        ("{uid} or {space}/roll-back-bidder or roll-back-bidder", []),
        ("name={space}/roll-back-bidder or ROLL-BACK-BIDDER", []),
        ("roll-back-bidder,bidder-7f9d", ["bidder-7f9d"]),
        ("roll-back-bidder2", ["roll-back-bidder2"]),
    ],
)
async def test_the_names_and_uids_of_hits_are_not_absent(
    archive: SearchableArchive, asked: str, absent: list[str]
) -> None:
    record = said("roll-back", "rolled the bidder back", name="roll-back-bidder")
    await archive.put(record)
    uid, space = record["metadata"]["uid"], record["metadata"]["namespace"]
    question = "what became of the bidder with " + asked.format(uid=uid.upper(), space=space)
    result = await archive.ask.search(question)
    assert await absent_identifiers(archive.ask, question, Filter(), result.hits) == absent


async def test_few_identifiers_are_looked_for_however_many_a_question_has(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def nothing(question: str, *_: object, **__: object) -> SearchResult:
        asked.append(question)
        return SearchResult(SearchMode.TEXT, ())

    monkeypatch.setattr(archive.ask, "search", nothing)
    question = " ".join(f"worker-{n},worker-{n}a,b-{n},c-{n},d-{n},e-{n}" for n in range(400))
    assert len(await absent_identifiers(archive.ask, question, Filter())) == 3
    assert len(asked) == 3 * (1 + 4)


@pytest.mark.parametrize("error", [TransientError, OverloadedError, InvalidQueryError])
async def test_an_identifier_that_cannot_be_looked_for_is_not_said_to_be_absent(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch, error: type[DataStorageError]
) -> None:
    search = archive.ask.search

    async def some(question: str, *arguments: Any, **options: Any) -> SearchResult:
        if "4" in question:
            raise error("not now")
        return await search(question, *arguments, **options)

    monkeypatch.setattr(archive.ask, "search", some)
    assert await absent_identifiers(archive.ask, "worker-3 and worker-4", Filter()) == ["worker-3"]


@pytest.mark.parametrize("mode", [SearchMode.VECTOR, SearchMode.HYBRID])
async def test_records_to_leave_out_do_not_shorten_the_page(
    either: SearchableArchive, mode: SearchMode
) -> None:
    """More of them are near than a search looks at, at first."""
    await either.put(
        *(said("restart", f"memory limit postgres x{n}", name=f"without{n}") for n in range(110)),
        *(said("sing", f"a song about something else y{n}", name=f"o{n}") for n in range(5)),
    )
    result = await either.ask.search("memory limit -postgres", mode=mode, limit=5)
    assert sorted(names(result)) == [f"o{n}" for n in range(5)]


async def test_a_question_is_read_once_however_far_a_search_looks(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a long one takes a quarter of a second."""
    await archive.put(*(said("restart", f"memory limit postgres x{n}") for n in range(110)))
    calls: Counter[str] = Counter()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            calls[function.__name__] += 1
            return function(*given, **named)

        return call

    for function in (wording, without_excluded):
        monkeypatch.setattr(f"datastorage.query.search.{function.__name__}", counted(function))
    monkeypatch.setattr(Nearest, "nearest", counted(Nearest.nearest))
    await archive.ask.search("memory limit -postgres", limit=5)
    assert calls == {"wording": 1, "without_excluded": 1, "nearest": 2}


async def test_a_record_that_both_searches_find_is_shown_once(archive: SearchableArchive) -> None:
    # One event in many pods: the names of the pods are words to look up, but have no meaning.
    pods = [f"api-7d9f8bc4c6-x{letter}k9p" for letter in "bcdfgh"]
    await archive.put(
        *(
            audit_record(
                {**_SPEC, "correlationID": pod, "action": "restart", "message": "memory limit reached",
                 "resourceRef": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": pod}},
                name=pod, creationTimestamp=f"2026-03-05T10:00:{number:02}Z",
            )
            for number, pod in enumerate(pods)
        )
    )  # fmt: skip
    result = await archive.ask.search("memory limit xbk9p xck9p xdk9p")
    assert len(result.hits) == 3
    assert {hit.more for hit in result.hits} == {3}


@pytest.mark.parametrize("mode", MODES)
async def test_of_a_trace_only_the_newest_generation_is_found(
    either: SearchableArchive, mode: SearchMode
) -> None:
    first = trace("memory limit reached")
    second = again(first, 2, model={"reasoning": "a wrong guess about the network"})
    await either.put(first, second)
    assert [h.record.generation for h in (await either.ask.search("network guess", mode=mode)).hits] == [2]
    result = await either.ask.search("memory limit", mode=mode)
    assert all(hit.record.generation == 2 for hit in result.hits)


async def test_former_generations_take_no_place_in_an_answer(archive: SearchableArchive) -> None:
    first = trace("memory limit reached")
    wrong = (again(first, n, model={"reasoning": f"memory limit {n}"}) for n in range(2, 6))
    await archive.put(first, *wrong, again(first, 6, model={"reasoning": "a wrong guess about the network"}))
    await archive.put(said("restart", "memory of a node", name="node"))
    (match,) = await _nearest(archive, "memory limit", first["metadata"]["namespace"], limit=1)
    assert match.place.table is Table.AUDIT_RECORDS


async def _nearest(archive: SearchableArchive, question: str, namespace: str, *, limit: int) -> list[Match]:
    """Return no more than the limit, of which a search looks for several times as many."""
    database = archive.store.database
    nearest = Nearest(database, database, model=MODEL, same_server=True)
    (vector,) = await archive.provider.embed([question])
    criteria = Criteria(namespace=namespace)
    return (await nearest.nearest(criteria, vector, limit=limit, per_text=3)).matches


@pytest.mark.parametrize(
    "second", ["embedding", "embedding + (SELECT embedding FROM datastorage.embeddings_1 LIMIT 1)"]
)
async def test_a_text_with_two_vectors_is_found_once(
    archive: SearchableArchive, owner: Any, second: str
) -> None:
    """Two replicas may have written it; some services give a text other numbers each time."""
    # Each is a bit further away than the one before.
    words = {"one": "a", "two": "a b", "three": "a b c", "four": "a b c d"}
    await archive.put(*(said("restart", f"memory limit {more}", name=name) for name, more in words.items()))
    await owner.execute("SELECT datastorage.make_embedding_part(1::smallint, 2)")
    await owner.execute(f"INSERT INTO datastorage.embeddings_1_2 SELECT 2, text_hash, {second} "
                        "FROM datastorage.embeddings_1")  # fmt: skip
    await owner.execute("ALTER TABLE datastorage.embeddings_1 ATTACH PARTITION datastorage.embeddings_1_2 "
                        "FOR VALUES IN (2)")  # fmt: skip
    for filter_ in (Filter(), Filter(namespace="payments")):
        result = await archive.ask.search("memory limit", filter_, mode=SearchMode.VECTOR, limit=4)
        assert set(names(result)) == set(words)
        assert names(result) == list(words) or second != "embedding"
    assert len(await _nearest(archive, "memory limit", "payments", limit=4)) == 4


async def test_texts_with_the_same_number_are_told_apart(archive: SearchableArchive, owner: Any) -> None:
    """They are looked up by the first four bytes of their hashes."""
    await archive.put(said("restart", "memory limit a", name="one"))
    (vector,) = await archive.provider.embed(["memory limit"])
    await owner.execute(
        "INSERT INTO datastorage.embeddings_1 SELECT part, substr(text_hash, 1, 4) || '\\x00'::bytea, "
        "$1::text::vector FROM datastorage.embeddings_1",
        str(vector.tolist()),
    )
    [match] = await _nearest(archive, "memory limit", "payments", limit=2)
    assert match.similarity is not None
    assert match.similarity < 0.99, "that of the other text"


@pytest.mark.oldest_postgres
async def test_indexed_and_open_parts_are_searched_together(archive: SearchableArchive) -> None:
    assert archive.store.vectors is not None
    tables = VectorTables(archive.store.vectors.database, MODEL)
    for number in range(3):
        await archive.put(
            *(said("restart", f"memory part{number} word{n}", name=f"p{number}-{n}") for n in range(40))
        )
        if number < 2:
            while await tables.index(memory_mib=64, full_rows=40, grace_seconds=0):
                pass
    for number in range(3):
        result = await archive.ask.search(f"memory part{number} word7", mode=SearchMode.VECTOR, limit=1)
        assert names(result) == [f"p{number}-7"]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("checkout-api", {"checkout"}),
        ("CHECKOUT_API", {"checkout"}),
        ("OOMKilled", {"oom"}),
        ("ImagePullBackOff", {"image"}),
        ("what is the killed container?", {"oom"}),
        ('"back off"', {"image"}),
        ("pulled back", {"image"}),
        ('"back pull"', set()),
        ('"pulling failed"', {"image"}),
        ('"failed pulling"', set()),
        ("failed -pulling", {"checkout"}),
        ('failed -"pulling failed"', {"checkout"}),
        ("fail", {"checkout", "image"}),
        ("failing & !pulling | (x <-> y:*)", {"checkout", "image"}),
        ("zebra", set()),
    ],
)
@pytest.mark.oldest_postgres
async def test_words_find_their_forms(archive: SearchableArchive, question: str, found: set[str]) -> None:
    await archive.put(
        said("restart", "rollout of checkout-api failed", name="checkout"),
        said("scale", "container was OOMKilled", name="oom"),
        said("wait", "ImagePullBackOff: pulling failed", name="image"),
    )
    assert set(names(await archive.ask.search(question, mode=SearchMode.TEXT))) == found


async def test_the_rarer_word_counts_more(archive: SearchableArchive) -> None:
    await archive.put(
        *(said("restart", f"pod pod pod number{n}", name=f"n{n}") for n in range(30)),
        said("restart", "certificate " + " ".join(f"filler{n}" for n in range(30)), name="rare"),
    )
    assert names(await archive.ask.search("pod certificate", mode=SearchMode.TEXT))[0] == "rare"


@pytest.mark.parametrize("limits", [{"few_records": 10}, {"selected_of_few": 5}], ids=["many", "few"])
async def test_common_words_still_find_their_records(
    archive: SearchableArchive, limits: dict[str, int]
) -> None:
    archive = archive.limited(rank=RankLimits(newest=5, **limits), clues=ClueLimits(events=0))
    await archive.put(
        said("restart", "pod evicted from node", name="all words", creationTimestamp="2026-01-01T00:00:00Z"),
        *(said("restart", f"pod number{n}", name=f"pod{n}") for n in range(60)),
        *(said("restart", f"node number{n}", name=f"node{n}") for n in range(60)),
    )
    # Each word alone has more newer records than the fifty that are ranked; only the old one has both.
    assert names(await archive.ask.search("pod node", mode=SearchMode.TEXT))[0] == "all words"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Collection[Table], Collection[Table]]]:
    """What the newest records are looked for by: the condition, the tables, those looked at in all time."""
    asked: list[tuple[str, Collection[Table], Collection[Table]]] = []
    newest_of = Ranking._newest_of

    async def spied(
        self: Ranking, criteria: Criteria, condition: str, since: Mapping[Table, datetime | None]
    ) -> Any:
        whole = {table for table in criteria.tables if since.get(table) is None}
        asked.append((condition, criteria.tables, whole))
        return await newest_of(self, criteria, condition, since)

    monkeypatch.setattr(Ranking, "_newest_of", spied)
    return asked


async def test_of_common_words_the_newest_records_with_all_of_them_are_ranked_once(
    archive: SearchableArchive, asked: list[tuple[str, Collection[Table], Collection[Table]]]
) -> None:
    """Each record has both words, so that nothing is better than the newest ones."""
    times = [f"{datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=n):%FT%TZ}" for n in range(1_000)]
    await archive.put(
        *(said("restart", f"pod on node {n}", creationTimestamp=time) for n, time in enumerate(times))
    )
    common = archive.limited(rank=RankLimits(selected_of_few=50, newest=50), clues=ClueLimits(events=0))
    found = await common.ask.search("pod node", mode=SearchMode.TEXT)
    assert len(found.hits) == 10
    all_words, words = "('pod') & ('node')", "(('pod'))"
    assert asked == [(all_words, {Table.AUDIT_RECORDS}, set())]  # there are no traces
    asked.clear()
    await archive.put(trace("something else"))
    await common.ask.search("pod node", mode=SearchMode.TEXT)
    traces = {Table.ACTION_TRACES}
    assert asked == [(all_words, set(Table), traces), (words, traces, traces)]


async def test_the_words_of_a_question_are_counted_in_the_newest_records(archive: SearchableArchive) -> None:
    await archive.put(
        said("restart", "pod node", creationTimestamp="2026-01-01T00:00:00Z"),
        *(
            said("restart", f"{text} {n}")
            for text in ("pod", "node", "pod node", "other")
            for n in range(125)
        ),
        trace("something else"),
    )
    async with reading(archive.store.database) as connection:
        words = await QuestionForms(()).find(
            connection, Criteria(), Wording(["pod", "node"]), count_up_to=502
        )
    assert words is not None
    assert [form.share for form in words.forms] == [250 / 501, 250 / 501]
    assert words.all_words_share == 125 / 501
    assert words.tables == set(Table)
    assert set(words.arrivals) == {Table.AUDIT_RECORDS}
    assert words.total == 502


async def test_if_all_records_with_rare_words_are_ranked_nothing_else_is_looked_for(
    archive: SearchableArchive, asked: list[tuple[str, Collection[Table], Collection[Table]]]
) -> None:
    await archive.put(
        said("restart", "drain", name="drain"),
        said("restart", "node", name="node"),
        *(said("restart", f"other {n}") for n in range(500)),
    )
    large = archive.limited(rank=RankLimits(few_records=10), clues=ClueLimits(events=0))
    found = await large.ask.search("drain node", mode=SearchMode.TEXT)
    assert set(names(found)) == {"drain", "node"}
    [(_, tables, whole)] = asked
    assert tables == whole == {Table.AUDIT_RECORDS}


async def test_a_word_that_only_old_records_have_does_not_hide_the_oldest_of_them(
    archive: SearchableArchive,
) -> None:
    """How frequent the words are is estimated from the newest records."""
    limits = RankLimits(newest=5, few_records=10)
    await archive.put(
        said("restart", "drain node", name="all words", creationTimestamp="2026-01-01T00:00:00Z"),
        *(
            said(
                "restart", f"drain number{n}", name=f"drain{n}", creationTimestamp=f"2026-01-02T00:00:{n:02}Z"
            )
            for n in range(20)
        ),
        *(said("restart", f"node number{n}", name=f"node{n}") for n in range(500)),
    )
    ranking = archive.limited(rank=limits, clues=ClueLimits(events=0)).ask
    assert names(await ranking.search("drain node", mode=SearchMode.TEXT))[0] == "all words"


@pytest.mark.parametrize("question", ["drain zebra", '"drain of" zebra'])
async def test_of_rare_words_the_record_with_all_of_them_is_found_however_old(
    archive: SearchableArchive, question: str
) -> None:
    """Each word or phrase alone has more newer records than are ranked."""
    old, later = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    await archive.put(
        said("restart", "zebra drain of a node", name="all words", creationTimestamp=old),
        *(
            said("restart", f"{text} {n}", creationTimestamp=later)
            for text in ("drain of a node", "a zebra") for n in range(60)
        ),
        *(said("restart", f"other {n}") for n in range(500)),
    )  # fmt: skip
    limits = RankLimits(newest=5, few_records=10)
    ranking = archive.limited(rank=limits, clues=ClueLimits(events=0)).ask
    assert names(await ranking.search(question, mode=SearchMode.TEXT))[0] == "all words"


_CUT = f"drain zebra {' '.join(f'filler{chr(97 + n)}' for n in range(26))} {'long' * 120}"
_MANY = " ".join(["drain", "zebra", *(f"further{n}" for n in range(31))])
# A question, what a record with all of its words may have, and whether the clue shows that there is none.
_ALL_WORDS = {
    "few": ("drain zebra", "drain zebra", True),
    "more than count": (_MANY, _MANY, False),
    "the last one goes on": ("drain zebra abc123", "drain zebra abc123def", True),
    "another one goes on": ("abc123 drain zebra", "abc123def drain zebra", False),
    "after another script": ("drain zebra \u78c1\u76d8abc123", "drain zebra \u78c1\u76d8 abc123def", False),
    "half a word": (_CUT, _CUT, False),
}  # fmt: skip


@pytest.mark.parametrize("has_all", [False, True])
@pytest.mark.parametrize(("question", "text", "is_known"), _ALL_WORDS.values(), ids=_ALL_WORDS)
async def test_records_with_all_words_are_not_looked_for_where_the_clues_show_that_there_are_none(
    archive: SearchableArchive,
    asked: list[tuple[str, Collection[Table], Collection[Table]]],
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    text: str,
    is_known: bool,  # noqa: FBT001
    has_all: bool,  # noqa: FBT001
) -> None:
    old, later = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    await archive.put(
        said("restart", text if has_all else "nothing", name="all words", creationTimestamp=old),
        *(
            said("restart", f"{word} {n}", creationTimestamp=later)
            for word in ("drain", "zebra", "abc123fff") for n in range(30)
        ),
        *(said("restart", f"other {n}") for n in range(500)),
    )  # fmt: skip
    known = asyncio.Event()
    by_clues, newest_of = FullText._by_clues, Ranking._newest_of

    async def first(self: FullText, *arguments: Any) -> ClueResult:
        found = await by_clues(self, *arguments)
        known.set()
        return found

    async def second(self: Ranking, *arguments: Any) -> Any:
        await asyncio.wait_for(known.wait(), DEADLINE_SECONDS)
        return await newest_of(self, *arguments)

    monkeypatch.setattr(FullText, "_by_clues", first)
    monkeypatch.setattr(Ranking, "_newest_of", second)
    large = archive.limited(rank=RankLimits(newest=5, few_records=10))
    found = names(await large.ask.search(question, mode=SearchMode.TEXT))
    assert (found[0] == "all words") == has_all
    assert any(" & " in condition for condition, *_ in asked) == (has_all or not is_known)


async def test_of_few_records_all_with_any_word_are_ranked(archive: SearchableArchive) -> None:
    await archive.put(
        said("drain", "common", name="lonely"), *(said("drain", f"common rare {n}") for n in range(20))
    )
    small = archive.limited(rank=RankLimits(selected_of_few=21), clues=ClueLimits(events=0)).ask
    assert "lonely" in names(await small.search("common rare", mode=SearchMode.TEXT, limit=50, flat=True))


_QUESTION_WORDS = st.lists(
    st.sampled_from(
        ("drain", "abc123", "7f9c2e", "the", "ImagePullBackOff", "\u78c1\u76d8", "\u78c1", "1e9a", "x-1")
    )
    | st.text("abcdef0123456789\u78c1-", min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)
_ENDS = st.lists(st.sampled_from(("", "def", "9", "x")), min_size=6, max_size=6)
_EACH_AND_ALL = f"""
    SELECT bool_and(numnode(each) = 0 OR record @@ each) AS has_each, bool_and(record @@ clue) AS matches,
        bool_and(numnode(clue) = 0) AS is_empty
    FROM unnest($1::text[]) AS words (word), to_tsvector('english', $2) AS record,
        LATERAL (SELECT coalesce({tsquery("plainto_tsquery", "word")}, '') AS each) AS e,
        LATERAL (SELECT coalesce({tsquery("plainto_tsquery", "$3::text")}, '') AS clue) AS c
"""


@given(_QUESTION_WORDS, _ENDS, st.sampled_from((" ", "")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_what_has_each_word_matches_the_clue_of_all_words(
    small: TestDatabase, words: list[str], ends: list[str], between: str
) -> None:
    """The words of the record are those of the question, but longer."""
    try:
        asked = wording(between.join(words))
    except InvalidQueryError:  # all characters are in no word
        return
    clue = asked.of_all_words
    if clue is None:
        return
    record = search_words([" ".join(map("".join, zip(asked.words, cycle(ends), strict=False)))])
    arguments = (list(map(as_searched, asked.words)), record, as_searched(clue.words))
    owner = await connect(small.owner_url)
    row = await owner.fetchrow(_EACH_AND_ALL, *arguments)
    await owner.close()
    assert row["matches"] or row["is_empty"] or not row["has_each"], arguments


async def test_only_an_answer_of_the_clues_shows_that_nothing_has_all_words() -> None:
    asked = wording("drain zebra")
    assert asked.of_all_words is not None
    answer = ClueResult(unmatched=(asked.of_all_words,))
    away = asyncio.Event()

    async def wait() -> ClueResult:
        await away.wait()
        return answer

    async def fail() -> ClueResult:
        raise TransientError("PostgreSQL is away")

    async def tell() -> ClueResult:
        return answer

    waiting, failing, told = map(asyncio.create_task, (wait(), fail(), tell()))
    await asyncio.wait({failing, told})
    shown = [fulltext._nothing_has_all(asked, each) for each in (waiting, failing, told)]
    assert shown == [False, False, True]
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not fulltext._nothing_has_all(asked, waiting)


async def test_the_newest_records_of_each_table_are_looked_for_in_its_own_time(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is an AuditRecord in a minute, and an ActionTrace in an hour; all have the word."""
    newest = datetime(2026, 3, 1, tzinfo=UTC)
    await archive.put(
        *(
            said("restart", f"pod {n}", creationTimestamp=f"{newest - timedelta(minutes=n):%FT%TZ}")
            for n in range(600)
        ),
        *(trace(f"pod {n}", creationTimestamp=f"{newest - timedelta(hours=n):%FT%TZ}") for n in range(600)),
    )
    times: list[tuple[datetime, datetime]] = []
    fetch = Session.fetch

    async def spied(self: Session, sql: str, *arguments: Any, **options: Any) -> Any:
        if sql == RANK_NEWEST:
            times.append(arguments[10:12])
        return await fetch(self, sql, *arguments, **options)

    monkeypatch.setattr(Session, "fetch", spied)
    full_text = FullText(archive.questions, limits=RankLimits(few_records=10, newest=50))
    found = await full_text.find(Criteria(), Wording(["pod"]), limit=50, per_text=3)
    assert found is not None
    assert found.matches
    [(of_records, of_traces)] = times
    assert timedelta(minutes=50) < newest - of_records < timedelta(minutes=150)
    assert timedelta(hours=50) < newest - of_traces < timedelta(hours=150)


async def test_long_records_with_all_words_are_not_hidden_by_many_short_ones_with_some(
    archive: SearchableArchive,
) -> None:
    """A search by both counts what a record has of the question, whatever its length."""
    await archive.put(
        *(
            said("restart", f"zebra drain node {' '.join(f'w{n}x{m}' for m in range(300))}", name=f"all{n}")
            for n in range(12)
        ),
        *(said("restart", f"drain node {n}") for n in range(60)),
        *(said("restart", f"other {n}") for n in range(100)),
    )
    found = names(await archive.ask.search("zebra drain node", flat=True))
    assert all(name.startswith("all") for name in found)


async def test_a_word_that_postgresql_splits_counts_by_the_frequency_of_its_parts(
    archive: SearchableArchive,
) -> None:
    """To compare their places takes time that grows with the square of their number."""
    await archive.put(
        said("restart", "pod 1e9abc on node", name="near"), said("restart", "1e9 pod on node abc", name="far")
    )
    full_text = FullText(archive.store.database)
    found = await full_text.find(Criteria(), Wording(["1e9abc"]), limit=10, per_text=3)
    assert found is not None
    near, far = (match.share for match in found.matches)
    assert near == far > 0


async def test_a_record_that_a_clue_singles_out_keeps_what_its_words_say(archive: SearchableArchive) -> None:
    await archive.put(said("restart", "10.4.7.19 refused", name="refused"))
    found = await FullText(archive.store.database).find(
        Criteria(), wording("10.4.7.19 refused"), limit=10, per_text=3
    )
    assert found is not None
    [match] = found.matches
    assert match.clue_weight >= 1
    assert match.information == 1
    assert match.share > 0


async def test_of_few_records_the_rarest_words_select_and_others_only_order(
    archive: SearchableArchive,
) -> None:
    """What has all words has the rarest one, so nothing better is left out."""
    await archive.put(
        *(said("restart", f"pod number{n}", name=f"pod{n}") for n in range(10)),
        said("restart", "node number", name="rare", creationTimestamp="2026-01-01T00:00:00Z"),
        said("restart", "pod on the node", name="both", creationTimestamp="2026-01-01T00:00:00Z"),
    )
    limited = archive.limited(rank=RankLimits(selected_of_few=5), clues=ClueLimits(events=0)).ask
    found = names(await limited.search("pod node", mode=SearchMode.TEXT))
    assert found == ["both", "rare"]


@pytest.mark.parametrize(("few_records", "is_ranked"), [(70, False), (71, True)])
async def test_in_a_large_archive_the_newest_records_with_a_common_word_are_ranked(
    archive: SearchableArchive,
    few_records: int,
    is_ranked: bool,  # noqa: FBT001
) -> None:
    limits = RankLimits(newest=60, few_records=few_records)
    await archive.put(
        said("restart", "pod pod pod", name="best", creationTimestamp="2026-01-01T00:00:00Z"),
        *(said("restart", f"pod of many other words number{n}", name=f"pod{n}") for n in range(70)),
    )
    found = names(await archive.limited(rank=limits).ask.search("pod", mode=SearchMode.TEXT, limit=5))
    assert (found[0] == "best") == is_ranked
    assert len(found) == 5


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("x" * 16_385, "16,385 characters: the limit is 16,384"),
        ("what is the", "only words that are in every text"),
        ("-restart", "no words"),
        ("?!", "no words"),
    ],
)
async def test_a_question_that_cannot_be_searched_by_words_is_refused(
    archive: SearchableArchive, question: str, message: str
) -> None:
    await archive.put(said("restart", "memory"))
    with pytest.raises(InvalidQueryError, match=message):
        await archive.ask.search(question, mode=SearchMode.TEXT)


async def test_a_question_without_words_to_look_up_has_a_meaning_still(archive: SearchableArchive) -> None:
    await archive.put(said("what", "is the", name="odd"))
    result = await archive.ask.search("what is the")
    assert (names(result), result.mode) == (["odd"], SearchMode.HYBRID)


@pytest.mark.parametrize("part", ['"memory{} limit"', "-limit{}"])
@pytest.mark.parametrize("mode", MODES)
async def test_phrases_and_exclusions_beyond_the_limit_are_refused(
    archive: SearchableArchive, mode: SearchMode, part: str
) -> None:
    await archive.put(said("restart", "memory limit reached"))
    question = "memory " + " ".join(part.format(n) for n in range(9))
    if mode is SearchMode.VECTOR and part.startswith('"'):  # there, a phrase is only a part of the question
        assert (await archive.ask.search(question, mode=mode)).hits
        return
    with pytest.raises(InvalidQueryError, match="the limit is 8"):
        await archive.ask.search(question, mode=mode)


async def test_a_huge_question_is_answered(archive: SearchableArchive) -> None:
    await archive.put(said("restart", "memory limit reached", name="memory"))
    question = ("memory limit " + " ".join(f"word{n}" for n in range(3000)))[:16_384]
    for mode in MODES:
        assert names(await archive.ask.search(question, mode=mode)) == ["memory"]


@pytest.fixture(scope="module")
def small(databases: TestDatabases) -> TestDatabase:
    """A few records; the test only reads."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as made:
            await made.put(said("restart", "memory limit a b 0"), trace("é ab"))
        return database

    return asyncio.run(fill())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    question=st.text(max_size=200) | st.text(st.sampled_from("ab\"- \\'&|!()<>:*_0é\0\udc00"), max_size=60),
    mode=st.sampled_from(MODES),
)
async def test_any_text_is_answered_or_refused(small: TestDatabase, question: str, mode: SearchMode) -> None:
    async with searchable(small) as made:
        try:
            result = await made.ask.search(question, mode=mode)
        except InvalidQueryError:
            return
    assert len(result.hits) <= 2


async def test_words_still_find_when_the_embedder_is_away(either: SearchableArchive) -> None:
    await either.put(said("restart", "memory limit reached", name="memory"))
    assert isinstance(either.provider, BagOfWords)
    either.provider.is_away = True
    result = await either.ask.search("memory limit")
    assert (names(result), result.mode) == (["memory"], SearchMode.TEXT)
    assert result.degraded == "the bag is away"
    with pytest.raises(TransientError, match="the bag is away"):
        await either.ask.search("memory limit", mode=SearchMode.VECTOR)


async def test_words_still_find_when_the_embedder_never_answers(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.put(said("restart", "memory limit reached", name="memory"))
    archive = archive.limited(embedding_seconds=0.01)
    monkeypatch.setattr(archive.provider, "embed", lambda _: asyncio.Event().wait())
    result = await archive.ask.search("memory limit")
    assert (names(result), result.mode) == (["memory"], SearchMode.TEXT)
    assert "no vector within 0.01 s" in (result.degraded or "")


async def test_nobody_waits_twice_for_an_embedder_that_never_answers(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is not full: most records that the search looks at, at first, are of one incident."""
    spec = {**_SPEC, "correlationID": "rr-long"}
    await archive.put(*(audit_record({**spec, "message": f"memory limit x{n}"}) for n in range(110)))
    asked: list[object] = []
    archive = archive.limited(embedding_seconds=0.01)

    async def never(texts: Sequence[str]) -> Matrix:
        asked.append(texts)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(archive.provider, "embed", never)
    result = await archive.ask.search("memory limit")
    assert (len(result.hits), len(asked)) == (3, 1)


async def test_words_still_find_when_the_vectors_are_away(
    cloned: TestDatabase, databases: TestDatabases
) -> None:
    other = await databases.clone()
    async with searchable(cloned, other) as archive:
        await archive.put(said("restart", "memory limit reached", name="memory"))
        await databases.drop(other)
        result = await archive.ask.search("memory limit")
        assert (names(result), result.mode) == (["memory"], SearchMode.TEXT)
        assert result.degraded is not None
        with pytest.raises(TransientError):
            await archive.ask.search("memory limit", mode=SearchMode.VECTOR)


async def test_without_a_provider_there_are_words_alone(cloned: TestDatabase) -> None:
    async with searchable(cloned) as archive:
        await archive.put(said("restart", "memory limit reached", name="memory"))
        ask = build_queries(archive.store.database)
        result = await ask.search("memory limit")
        assert (names(result), result.mode) == (["memory"], SearchMode.TEXT)
        assert "DATASTORAGE_EMBEDDING_PROVIDER is none" in (result.degraded or "")
        with pytest.raises(InvalidQueryError, match="PROVIDER is none"):
            await ask.search("memory limit", mode=SearchMode.VECTOR)


async def test_vectors_of_a_number_that_another_model_has_now_are_not_searched(
    archive: SearchableArchive, owner: Any
) -> None:
    """After a restored backup, a model's number may belong to another model."""
    await archive.put(said("restart", "memory limit reached", name="memory"))
    assert names(await archive.ask.search("memory limit", mode=SearchMode.VECTOR)) == ["memory"]
    await owner.execute("UPDATE datastorage.embedding_models SET name = 'another'")
    with pytest.raises(TransientError, match="no vectors of the model"):
        await archive.ask.search("memory limit", mode=SearchMode.VECTOR)


async def test_a_model_without_vectors_says_so(either: SearchableArchive) -> None:
    await either.put(said("restart", "memory limit reached", name="memory"), with_vectors=False)
    generation = either.questions.generation
    result = await either.ask.search("memory limit")
    assert names(result) == ["memory"]
    assert result.degraded is not None
    assert result.degraded.startswith(
        "there are no vectors of the model test/bag-of-words with 512 dimensions yet: set the "
    )
    with pytest.raises(TransientError, match="no vectors of the model"):
        await either.ask.search("memory limit", mode=SearchMode.VECTOR)
    assert either.store.vectors is not None
    if not either.store.vectors.same_server:
        assert either.questions.generation == generation, "the records' connections are not renewed for it"
    # Records that are written later are found too.
    await either.put(said("scale", "memory limit raised", name="later"))
    assert names(await either.ask.search("memory limit", mode=SearchMode.VECTOR)) == ["later"]


async def test_a_missing_schema_of_the_vectors_says_so(
    cloned: TestDatabase, unmigrated: TestDatabase
) -> None:
    async with searchable(cloned, unmigrated) as archive:
        await archive.put(said("restart", "memory limit reached", name="memory"), with_vectors=False)
        result = await archive.ask.search("memory limit")
    assert names(result) == ["memory"]
    assert "run 'datastorage migrate'" in (result.degraded or "")


async def test_searches_are_counted_by_mode(archive: SearchableArchive) -> None:
    await archive.put(said("restart", "memory"))
    for mode in MODES:
        labels = {"operation": f"search_{mode}", "status": "success"}
        before = metrics.REGISTRY.get_sample_value("datastorage_query_total", labels) or 0
        await archive.ask.search("memory", mode=mode)
        assert metrics.REGISTRY.get_sample_value("datastorage_query_total", labels) == before + 1
    labels = {"operation": "search_hybrid", "status": "invalid"}
    before = metrics.REGISTRY.get_sample_value("datastorage_query_total", labels) or 0
    with pytest.raises(InvalidQueryError):
        await archive.ask.search("")
    assert metrics.REGISTRY.get_sample_value("datastorage_query_total", labels) == before + 1


async def test_a_changed_record_is_reported(archive: SearchableArchive, owner: Any) -> None:
    await archive.put(said("restart", "memory"))
    await owner.execute("UPDATE datastorage.audit_records SET content = content || ' '")
    assert [hit.record.intact for hit in (await archive.ask.search("memory")).hits] == [False]


async def test_the_real_model_finds_records_by_meaning(cloned: TestDatabase) -> None:
    async with searchable(cloned, provider=WordLlamaProvider()) as archive:
        await archive.put(
            said("restart-deployment", "the container ran out of memory and was killed", name="memory"),
            said("renew", "the certificate of the ingress had expired", name="certificate"),
            said("rollback", "the new image could not be pulled from the registry", name="image"),
        )
        for question, name in (
            ("killed for lack of RAM", "memory"),
            ("TLS cert too old", "certificate"),
            ("docker image download", "image"),
        ):  # fmt: skip
            assert names(await archive.ask.search(question, limit=1)) == [name], question


@pytest.mark.parametrize("mode", list(SearchMode))
async def test_excluded_words_are_not_found(archive: SearchableArchive, mode: SearchMode) -> None:
    await archive.put(
        said("restart", "memory limit reached in checkout", name="checkout"),
        said("restart", "memory limit reached in carts", name="carts"),
        said("restart", "memory limit reached by the first of the workers", name="workers"),
    )
    found = names(await archive.ask.search('memory limit -checkout -"first workers"', mode=mode))
    assert sorted(found) == ["carts", "workers"]
    found = names(await archive.ask.search('memory -carts -"reached by the first"', mode=mode))
    assert found == ["checkout"]
    found = names(await archive.ask.search('memory limit -the -"of the"', mode=mode))
    assert sorted(found) == ["carts", "checkout", "workers"], "these words are in no index"
    with pytest.raises(InvalidQueryError, match="only words to leave out"):
        await archive.ask.search("-memory", mode=mode)


async def test_a_reinstalled_pgvector_is_searched_again(cloned: TestDatabase, owner: Any) -> None:
    async with searchable(cloned) as archive:
        await archive.put(audit_record())
        for mode in (SearchMode.VECTOR, SearchMode.TEXT):
            assert (await archive.ask.search("execution", mode=mode)).degraded is None
        await owner.execute(f"""
            DROP EXTENSION vector CASCADE;
            CREATE EXTENSION vector;
            ALTER TABLE datastorage.embeddings_1 ADD embedding vector({MODEL.dimensions});
            UPDATE datastorage.embeddings_1 SET embedding = array_fill(1, ARRAY[{MODEL.dimensions}])::vector
        """)

        async def found() -> bool:
            try:
                return bool((await archive.ask.search("execution", mode=SearchMode.VECTOR)).hits)
            except TransientError:
                return False

        await eventually(found)
